"""Reading records that somebody else may have written or damaged: checked text, JSON, archives and arrays.

Every fault is reported as one :class:`~unet.errors.InputError` that names the file; memory use is bounded.
"""

import contextlib
import json
import math
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from unet.errors import InputError
from unet.files import open_file, read_text

LIMIT = 64 * 2**20
"""Most bytes of a text file or a text in an archive."""
Label = Annotated[str, Field(max_length=1000)]
"""Text that is shown to people, such as a class name."""
EXPANSION = 100
"""Largest factor by which a compressed archive may expand; one that expands to at most ``LIMIT`` may exceed it."""

_PREAMBLE = re.compile(r'.*:|File ".*|Exception encountered when calling .*')
"""Lines of an error's message, of Keras and TensorFlow above all, that precede the cause."""


def text_of(path: Path) -> str:
    """Read a text file.

    Raises:
        InputError: It cannot be read, is not a regular file, is too large, or is not UTF-8.
    """
    try:
        return read_text(path, LIMIT)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def parse(text: str, kind: Any) -> Any:
    """Read JSON of a given type.

    Args:
        text: The JSON.
        kind: A type that pydantic knows.

    Raises:
        ValueError: It is not JSON, or of another type; the message is one line.
    """
    try:
        return TypeAdapter(kind).validate_json(text)
    except ValidationError as error:
        raise ValueError(reason(error)) from None
    except UnicodeEncodeError:
        raise ValueError("contains a character that UTF-8 does not have") from None


def reason(error: ValidationError) -> str:
    """The first mistake that pydantic found, on one line."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        return f"is not valid JSON: {first['ctx']['error']}"
    where = ".".join(map(str, first["loc"]))
    if first["type"] == "value_error" and not where:
        return first["msg"].removeprefix("Value error, ")
    message = first["msg"].removeprefix("Value error, ").replace("Input should", "should", 1)
    received = "" if first["type"] in ("missing", "value_error") else f", received {_shown(first['input'])}"
    return f"{where or 'content'}: {message}{received}"


def _shown(value) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:60]}..."


def read_json(path: Path, kind: Any) -> Any:
    """Read a JSON file of a given type.

    Raises:
        InputError: It cannot be read, is not JSON, or of another type.
    """
    try:
        return parse(text_of(path), kind)
    except ValueError as error:
        raise InputError(f"{path}: {error}; restore it from a copy, or delete it") from None


def check(content: Any, kind: Any, place: str) -> None:
    """Check that content read from a file is of a given type.

    Args:
        content: Any content of JSON.
        kind: A type that pydantic knows.
        place: Where the content comes from, for the message.

    Raises:
        InputError: It is of another type.
    """
    try:
        TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        raise InputError(f"{place}: {reason(error)}; restore the file from a copy, or delete it") from None


@contextlib.contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive, after checking the sizes that it declares; nothing is unpacked to more than these.

    Raises:
        InputError: It is not a zip archive, is damaged, or would expand to far more than its size. Also raised for
            faults that are found while members are read in the block.
    """
    try:
        with open_file(path) as file, zipfile.ZipFile(file) as archive:
            size = os.fstat(file.fileno()).st_size
            expanded = sum(member.file_size for member in archive.infolist())
            if expanded > max(LIMIT, EXPANSION * size):
                raise InputError(f"{path}: {size:,} bytes would expand to {expanded:,}; it is damaged or malicious")
            yield archive
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except InputError:
        raise
    except Exception as error:  # zipfile, the decompressors and NumPy raise many classes of errors
        raise InputError(f"{path}: is damaged, or not an archive ({cause(error)})") from error


def text_in(path: Path, name: str) -> str | None:
    """Text of a member of a zip archive; ``None`` if there is no such member.

    Raises:
        InputError: The archive is damaged, or the text is too large or not UTF-8.
    """
    with open_archive(path) as archive:
        return text_of_member(archive, name, path)


def text_of_member(archive: zipfile.ZipFile, name: str, path: Path) -> str | None:
    """The same of an archive that is open."""
    try:
        member = archive.getinfo(name)
    except KeyError:
        return None
    if member.file_size > LIMIT:
        raise InputError(f"{path}: {name} is larger than {LIMIT:,} bytes")
    return archive.read(member).decode()


def arrays_of(path: Path) -> dict[str, Any]:
    """Arrays of an .npz file; Python objects are refused, as they could contain code.

    Raises:
        InputError: It cannot be read, is damaged, or contains Python objects.
    """
    import numpy as np

    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with open_archive(path) as archive:
        arrays = {}
        for member in archive.infolist():
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                if version not in headers:
                    raise ValueError(f"{member.filename} has version {version}")
                shape, _, dtype = headers[version](file)
                if dtype.hasobject:
                    raise ValueError(f"{member.filename} contains Python objects")
                if math.prod(shape) * max(dtype.itemsize, 1) > member.file_size:
                    raise ValueError(f"{member.filename} is shorter than its shape {shape}")
            with archive.open(member) as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
            if dtype.kind == "U":
                array.tolist()  # raises an error for characters that Unicode does not have
            arrays[member.filename.removesuffix(".npy")] = array
        return arrays


def cause(error: Exception | str) -> str:
    """The line of an error's message that says what is wrong, or its class if it has no message."""
    lines = [line.strip() for line in re.sub(r"\x1b\[\d+m", "", str(error)).splitlines() if line.strip()]
    telling = (line for line in lines if not _PREAMBLE.fullmatch(line))
    return next(telling, lines[0] if lines else type(error).__name__)[:300]
