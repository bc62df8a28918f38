"""Reading a PyTorch checkpoint without PyTorch: tensors by name, and nothing else.

The format is that of ``torch.save`` before version 1.6: a few pickles, then the content of every storage. The unpickler
refuses every name but those that describe a dictionary of tensors, so no code in a file is run.
"""

import collections
import io
import pickle
import struct
from pathlib import Path

import numpy as np

from unet.errors import InputError

MAGIC = 0x1950A86A20F9469CFC6C
DTYPES = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8"}
MOST_BYTES = 2**31


def read(path: Path) -> dict[str, np.ndarray]:
    """Read the tensors of a checkpoint.

    Raises:
        InputError: The file is missing, damaged, of another format, or contains anything but tensors.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"{path}: has more than {MOST_BYTES:,} bytes, too many for the weights of an encoder")
        return _tensors(io.BytesIO(path.read_bytes()))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except InputError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise InputError(
            f"{path}: is no PyTorch checkpoint of tensors in the format before version 1.6 ({error}); save it with "
            "torch.save(model.state_dict(), path, _use_new_zipfile_serialization=False)"
        ) from None


class _Storage:
    """Values of one or more tensors, filled in after the pickles."""

    def __init__(self, dtype: str):
        self.dtype, self.values = dtype, np.empty(0, dtype)


class _Tensor:
    """A view of a storage."""

    def __init__(self, storage: _Storage, offset: int, size: tuple, strides: tuple, *_):
        if not isinstance(storage, _Storage):
            raise pickle.UnpicklingError("a tensor without a storage")
        self.storage, self.offset, self.size, self.strides = storage, offset, size, strides

    def array(self) -> np.ndarray:
        values = self.storage.values
        last = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.strides, strict=True))
        inside = 0 <= self.offset <= last < len(values)
        if min(self.size, default=1) < 1 or min(self.strides, default=0) < 0 or not inside:
            raise pickle.UnpicklingError("a tensor that reaches beyond its storage")
        steps = [step * values.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.size, steps).copy()


class _Unpickler(pickle.Unpickler):
    """Unpickles dictionaries of tensors, without importing anything."""

    def __init__(self, file, storages: dict[str, _Storage]):
        super().__init__(file)
        self.storages = storages

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Tensor
        if module == "torch" and name in DTYPES:
            return name
        raise pickle.UnpicklingError(f"{module}.{name}, which is refused")

    def persistent_load(self, pid):
        kind, dtype, key, *_ = pid
        if kind != "storage" or dtype not in DTYPES:
            raise pickle.UnpicklingError(f"a {kind} of {dtype}, which is refused")
        return self.storages.setdefault(key, _Storage(DTYPES[dtype]))


def _tensors(file: io.BytesIO) -> dict[str, np.ndarray]:
    storages: dict[str, _Storage] = {}

    def load():
        return _Unpickler(file, storages).load()

    if load() != MAGIC:
        raise pickle.UnpicklingError("unknown format")
    load(), load()  # version of the protocol, properties of the machine
    content, keys = load(), load()
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        dtype = np.dtype(storages[key].dtype)
        storages[key].values = np.frombuffer(file.read(count * dtype.itemsize), dtype, count)
    return {name: value.array() for name, value in content.items() if isinstance(value, _Tensor)}
