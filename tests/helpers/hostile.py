"""Small files made to hurt whoever loads them: code, bombs, lies and damage. Each is written by hand."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path


class Canary:
    """A pickle of it creates a file when it is loaded."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def pickled_canary(marker: Path) -> bytes:
    """Pickle that makes the directory ``marker``."""
    return pickle.dumps(Canary(marker))


def rewritten(source: Path, target: Path, change: Callable[[str, bytes], bytes | None], **added: bytes) -> Path:
    """Copy a zip archive; ``change`` maps a member's name and content to its new content, or to ``None`` to omit it."""
    copy = io.BytesIO()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(copy, "w") as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
        for name, content in added.items():
            new.writestr(name, content)
    target.write_bytes(copy.getvalue())
    return target


def with_json(source: Path, target: Path, member: str, change: Callable[[dict], object]) -> Path:
    """Copy an archive with one JSON member changed in place by ``change``, or replaced by what it returns."""

    def changed(name: str, content: bytes) -> bytes:
        if not name.endswith(member):
            return content
        values = json.loads(content)
        returned = change(values)
        return json.dumps(values if returned is None else returned).encode()

    return rewritten(source, target, changed)


def zip_bomb(target: Path, member: str, size: int = 10**9) -> Path:
    """Archive of about a megabyte per gigabyte, whose member unpacks to ``size`` zeros."""
    with (
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(member, "w", force_zip64=True) as file,
    ):
        block = bytes(2**20)
        for _ in range(size // len(block)):
            file.write(block)
    return target


def npy(shape: tuple[int, ...], dtype: str, content: bytes = b"") -> bytes:
    """An .npy member that claims a shape and dtype, whatever its content."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content
