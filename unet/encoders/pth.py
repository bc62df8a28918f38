"""Reading a PyTorch checkpoint without PyTorch: tensors by name, and nothing else.

Both formats of ``torch.save`` are read: a zip archive, and, as before version 1.6, a few pickles followed by values.
Pickles are interpreted here, in the few operations that describe dictionaries of tensors. Nothing is imported or
called, so no code in a file is run.
"""

import io
import itertools
import math
import os
import pickletools
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from unet import records
from unet.errors import InputError, shortened
from unet.files import open_file

MAGIC = 0x1950A86A20F9469CFC6C
"""What a file of the older format begins with."""
DTYPES: dict[str, np.dtype] = {
    "torch DoubleStorage": np.dtype("<f8"),
    "torch FloatStorage": np.dtype("<f4"),
    "torch HalfStorage": np.dtype("<f2"),
    "torch LongStorage": np.dtype("<i8"),
}
MOST_BYTES = 2**28
"""Most bytes of a file, and of what it expands to."""
MOST_OPERATIONS = 200_000
"""Most operations of a pickle; the weights of an encoder take fewer than 20,000."""


def read(path: Path) -> dict[str, np.ndarray]:
    """Read the tensors of a checkpoint.

    Raises:
        InputError: The file is missing, damaged, of another format, or contains anything but tensors.
    """
    try:
        with open_file(path) as file:
            if os.fstat(file.fileno()).st_size > MOST_BYTES:
                raise InputError(f"{path}: has more than {MOST_BYTES:,} bytes, too many for the weights of an encoder")
            content = file.read()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        if zipfile.is_zipfile(io.BytesIO(content)):
            return _from_archive(path)
        return _from_pickles(io.BytesIO(content))
    except InputError:
        raise
    except Exception as error:  # a damaged file may lead to any
        raise InputError(
            f"{path}: is no PyTorch checkpoint of tensors, or damaged ({shortened(records.cause(error))}); save one "
            "with torch.save(model.state_dict(), path)"
        ) from None


def _from_archive(path: Path) -> dict[str, np.ndarray]:
    with records.open_archive(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > MOST_BYTES:
            raise InputError(f"{path}: would expand to more than {MOST_BYTES:,} bytes; it is damaged or malicious")
        (pickle,) = (name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl")
        folder = pickle.removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("values in big-endian order")
        content, storages = _interpret(io.BytesIO(archive.read(pickle)))
        return _named(content, {key: archive.read(f"{folder}data/{key}") for key in storages})


def _from_pickles(file: BinaryIO) -> dict[str, np.ndarray]:
    if _interpret(file)[0] != MAGIC:
        raise ValueError("unknown format")
    _, machine = _interpret(file)[0], _interpret(file)[0]  # version of the protocol, properties of the machine
    if machine["little_endian"] is not True:
        raise ValueError("values in big-endian order")
    content, storages = _interpret(file)
    values = {}
    for key in _interpret(file)[0]:
        (count,) = struct.unpack("<q", file.read(8))
        values[key] = file.read(max(0, count) * storages[key].itemsize)
    return _named(content, values)


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage."""

    storage: str
    """Key of its storage."""
    dtype: np.dtype
    offset: int
    size: tuple[int, ...]
    strides: tuple[int, ...]

    def view(self, content: bytes) -> np.ndarray:
        """The tensor as a read-only array that shares the memory of its storage."""
        values = np.frombuffer(content, self.dtype)
        numbers = [self.offset, *self.strides, *(n - 1 for n in self.size)]
        if len(self.size) != len(self.strides) or not all(type(n) is int and n >= 0 for n in numbers):
            raise ValueError("a tensor without a proper shape")
        last = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.strides))
        if max(last, math.prod(self.size) - 1) >= len(values):
            raise ValueError("a tensor that reaches beyond its storage")
        steps = [step * self.dtype.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.size, steps, writeable=False)


def _named(content, storages: dict[str, bytes]) -> dict[str, np.ndarray]:
    if not isinstance(content, dict):
        raise ValueError("no dictionary of tensors")
    tensors = {name: value for name, value in content.items() if isinstance(value, _Tensor)}
    return {name: tensor.view(storages[tensor.storage]) for name, tensor in tensors.items()}


def _interpret(file: BinaryIO) -> tuple[Any, dict[str, np.dtype]]:
    """Read one pickle.

    Returns:
        Its content, of dictionaries, lists, tuples, numbers, text and :class:`_Tensor`; and the dtype of every storage
        that it refers to.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}
    storages: dict[str, np.dtype] = {}

    def since_mark() -> list:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    def last(count: int) -> list:
        items = stack[-count:]
        del stack[-count:]
        return items

    for opcode, argument, _ in itertools.islice(pickletools.genops(file), MOST_OPERATIONS):
        match opcode.name:
            case "PROTO":
                pass
            case "BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "GLOBAL":  # a global stays a name
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append({"EMPTY_DICT": {}, "EMPTY_LIST": [], "EMPTY_TUPLE": ()}[opcode.name])
            case "MARK":
                marks.append(len(stack))
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(last(int(opcode.name[-1]))))
            case "APPEND" | "APPENDS":
                items = since_mark() if opcode.name == "APPENDS" else last(1)
                stack[-1].extend(items)
            case "SETITEM" | "SETITEMS":
                items = since_mark() if opcode.name == "SETITEMS" else last(2)
                for key, value in zip(items[::2], items[1::2], strict=True):
                    if not isinstance(key, str | int):
                        raise ValueError("a dictionary whose keys are not text")
                    stack[-1][key] = value
            case "BINPERSID":
                kind, name, key, *_, view = (*stack.pop(), None)[:6]
                if kind != "storage" or name not in DTYPES or not isinstance(key, str) or view is not None:
                    raise ValueError(f"{name}, which is refused")
                storages[key] = DTYPES[name]
                stack.append(_Tensor(key, DTYPES[name], 0, (), ()))
            case "REDUCE":
                name, arguments = last(2)
                if name == "collections OrderedDict" and arguments == ():
                    stack.append({})
                elif name == "torch._utils _rebuild_tensor_v2":
                    storage, offset, size, strides, *_ = arguments
                    stack.append(_Tensor(storage.storage, storage.dtype, offset, tuple(size), tuple(strides)))
                else:
                    raise ValueError(f"{str(name).replace(' ', '.')}, which is refused")
            case "BUILD":  # attributes of a dictionary, such as the versions of modules
                stack.pop()
            case "STOP":
                return stack.pop(), storages
            case _:
                raise ValueError(f"the operation {opcode.name}, which is refused")
    raise ValueError(f"more than {MOST_OPERATIONS:,} operations")
