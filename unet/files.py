"""Files that appear whole or not at all: written under a temporary name, flushed, then renamed."""

import contextlib
import json
import os
import tempfile
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path):
    """Give a temporary path beside ``path`` to write to; rename it onto ``path`` if the block succeeds.

    The temporary name keeps the suffix of ``path``, for writers that look at it. Whatever happens, a reader of
    ``path`` sees the old file or the new one, whole.
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
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_name(path: Path, unique: str) -> str:
    """Name of a temporary file for ``path``; with ``*`` a pattern for all of them."""
    return f".{path.stem}-{unique}{path.suffix}"


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` in one step."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content) -> None:
    """Write ``content`` to ``path`` as indented JSON in one step; NaN is not valid JSON and becomes null."""
    write_text(path, json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")


def _finite(content):
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and content != content:
        return None
    return content


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
