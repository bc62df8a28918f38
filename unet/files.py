"""Reading regular files only; writing files atomically: under a temporary name, flushed, then renamed. Lock files."""

import contextlib
import errno
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def open_file(path: str | Path) -> BinaryIO:
    """Open a regular file for reading bytes; never waits, as opening a named pipe would.

    Raises:
        OSError: There is no such file, it cannot be read, or it is a directory, pipe, socket or device.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # a null character
        raise OSError(errno.EINVAL, str(error), str(path)) from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_text(path: str | Path, limit: int) -> str:
    """Read a regular file of UTF-8 text, with or without a byte-order mark.

    Raises:
        OSError: It cannot be opened (:func:`open_file`), has more than ``limit`` bytes, or is not UTF-8.
    """
    with open_file(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(f"it is larger than {limit:,} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise OSError(f"it is not UTF-8 (byte {error.start + 1:,}); save it as UTF-8") from None


def expanded(path: str | Path) -> Path:
    """Replace a leading ``~`` by the home directory; a path with the name of an unknown user stays as it is."""
    return Path(os.path.expanduser(path))


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
