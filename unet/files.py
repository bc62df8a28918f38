"""Writing files atomically: under a temporary name, flushed, then renamed. Lock files."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same directory to write to; rename it to ``path`` if the block succeeds.

    The temporary name keeps the suffix of ``path``, for writers that choose the format by it. A reader of ``path``
    sees either the old file or the new one, always complete.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix, suffix = temporary_name(path, "*").split("*")
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_name(path: Path, unique: str) -> str:
    """Name of a temporary file for ``path``; a glob pattern for all of them if ``unique`` is ``*``."""
    return f".{path.stem}-{unique}{path.suffix}"


@contextlib.contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on the file at ``path``, which is created if it does not exist.

    Args:
        path: The lock file; it stays when the lock is released.
        wait: Whether to wait while another process holds the lock.

    Raises:
        BlockingIOError: Another process holds the lock, and ``wait`` is false.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        yield
        return
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content) -> None:
    """Write ``content`` to ``path`` as indented JSON, atomically; NaN, which JSON does not have, becomes null."""
    write_text(path, json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")


def _finite(content):
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and content != content:
        return None
    return content


def umask() -> int:
    """Permissions that new files of this process do not get."""
    current = os.umask(0)
    os.umask(current)
    return current
