"""PyTorch checkpoints read without PyTorch: the tensors are PyTorch's own, and hostile files end in one message."""

import collections
import contextlib
import io
import os
import pickle
import re
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from tests.helpers.hostile import Canary, pickled_canary, zip_bomb
from unet.encoders import pth
from unet.errors import InputError

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.backend_free

MOST_MEMORY = 2**26
"""Bytes that reading a small hostile file may take."""
MOST_SECONDS = 5


def saved(content, path, archive):
    """Write with PyTorch, in its present or in its older format."""
    torch.save(content, path, _use_new_zipfile_serialization=archive)
    return path


@pytest.mark.parametrize("archive", [True, False])
def test_tensors_are_those_of_pytorch(tmp_path, archive):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 4, 5, groups=4))
    whole = torch.arange(48.0).reshape(2, 4, 6)
    tensors = network.state_dict() | {
        "half": torch.randn(3).half(),
        "double": torch.tensor(1 / 3, dtype=torch.float64),
        "a part of a storage": whole[1, 1:3],
        "transposed": whole.permute(2, 0, 1),
        "every second": whole[..., ::2],
    }
    found = pth.read(saved(tensors | {"epoch": 3}, tmp_path / "a.pth", archive))
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(found[name], tensor.numpy(), err_msg=name)


# === Hostile files ===


class Storage:
    """A storage as a pickle refers to it, whatever there is."""

    def __init__(self, key="0", count=4, kind=torch.FloatStorage, view=None, word="storage"):
        self.id = (word, kind, key, "cpu", count, view)


class Tensor:
    """A tensor as a pickle describes it, whatever there is."""

    def __init__(self, storage=None, offset=0, size=(2, 2), strides=(2, 1)):
        self.arguments = (storage or Storage(), offset, size, strides, False, collections.OrderedDict())

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, self.arguments


class _Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return value.id if isinstance(value, Storage) else None


def pickled(content, protocol=2) -> bytes:
    file = io.BytesIO()
    _Pickler(file, protocol).dump(content)
    return file.getvalue()


def older(content: bytes, keys=("0",), values: bytes = struct.pack("<q4f", 4, 1, 2, 3, 4), magic=pth.MAGIC) -> bytes:
    """A file of the older format with a pickle of one's own."""
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    return pickled(magic) + pickled(1001) + pickled(machine) + content + pickled(list(keys)) + values


def zip_of(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        for name, member in members.items():
            written.writestr(name, member)
    return file.getvalue()


def archive(content: bytes, values: bytes = struct.pack("<4f", 1, 2, 3, 4), byteorder=b"little") -> bytes:
    """A file of the present format with a pickle of one's own."""
    return zip_of({"a/data.pkl": content, "a/byteorder": byteorder, "a/data/0": values})


def slow_to_hash(depth: int) -> bytes:
    """A pickle of a dictionary whose key is a tuple of twice a tuple, and so on: its hash takes 2^depth steps."""
    steps = b"".join(b"q\x00h\x00\x86" for _ in range(depth))
    return b"\x80\x02})" + steps + b"K\x01s."


GOOD = pickled({"w": Tensor()})
HOSTILE = {
    "empty": (lambda marker: b"", "pickle exhausted"),
    "text": (lambda marker: b"hello\n" * 100, "is no PyTorch checkpoint"),
    "a pickle of code": (lambda marker: pickled_canary(marker), "which is refused"),
    "code as the content": (lambda marker: older(pickled({"w": Canary(marker)})), "mkdir, which is refused"),
    "code in an archive": (lambda marker: archive(pickled({"w": Canary(marker)})), "mkdir, which is refused"),
    "code as the list of keys": (
        lambda marker: older(GOOD)[: -len(pickled(["0"])) - 24] + pickled(Canary(marker)), "mkdir, which is refused",
    ),
    "builtins": (lambda marker: older(b"\x80\x02c__builtin__\neval\nX\x01\x00\x00\x001\x85R."), "eval, which is ref"),
    "a whole module": (lambda marker: archive(pickled({"w": torch.nn.Identity()})), "which is refused"),
    "an extension": (lambda marker: older(b"\x80\x02\x82\x01."), "EXT1, which is refused"),
    "an instance": (lambda marker: older(b"\x80\x02(ios\nmkdir\n."), "INST, which is refused"),
    "another magic number": (lambda marker: older(GOOD, magic=1), "unknown format"),
    "a list": (lambda marker: older(pickled([Tensor()])), "no dictionary of tensors"),
    "another kind": (lambda marker: older(pickled({"w": Tensor(Storage(word="module"))})), "which is refused"),
    "another dtype": (lambda marker: older(pickled({"w": Tensor(Storage(kind=torch.BoolStorage))})), "BoolStorage"),
    "a view of a storage": (lambda marker: older(pickled({"w": Tensor(Storage(view=("0", 1, 2)))})), "refused"),
    "a storage that is a number": (lambda marker: older(pickled({"w": Tensor(7)})), "has no attribute"),
    "an unknown storage": (lambda marker: older(pickled({"w": Tensor(Storage("../../etc"))})), "damaged"),
    "a missing storage": (lambda marker: archive(pickled({"w": Tensor(Storage("../../etc"))})), "damaged"),
    "a huge count": (lambda marker: older(GOOD, values=struct.pack("<q", 2**62)), "damaged"),
    "a count too large": (lambda marker: older(GOOD, values=struct.pack("<qf", 2**33, 1)), "beyond its storage"),
    "a negative count": (lambda marker: older(GOOD, values=struct.pack("<q4f", -1, 1, 2, 3, 4)), "beyond its storage"),
    "many storages": (lambda marker: older(GOOD, keys=["0"] * 300_000), "more than 200,000 operations"),
    "a huge size": (lambda marker: older(pickled({"w": Tensor(size=(10**9, 10**9))})), "beyond its storage"),
    "a huge size of one value": (
        lambda marker: older(pickled({"w": Tensor(size=(10**9, 10**9), strides=(0, 0))})), "beyond its storage",
    ),
    "huge strides": (lambda marker: older(pickled({"w": Tensor(strides=(10**30, 1))})), "beyond its storage"),
    "a stride too long": (lambda marker: older(pickled({"w": Tensor(strides=(3, 1))})), "beyond its storage"),
    "an offset": (lambda marker: archive(pickled({"w": Tensor(offset=1)})), "beyond its storage"),
    "a negative offset": (lambda marker: older(pickled({"w": Tensor(offset=-1)})), "without a proper shape"),
    "a negative stride": (lambda marker: older(pickled({"w": Tensor(strides=(-2, 1))})), "without a proper shape"),
    "a negative size": (lambda marker: older(pickled({"w": Tensor(size=(-2, -2))})), "without a proper shape"),
    "a size of text": (lambda marker: older(pickled({"w": Tensor(size=("2", "2"))})), "damaged"),
    "a size of fractions": (lambda marker: older(pickled({"w": Tensor(size=(2.0, 2))})), "BINFLOAT, which is refused"),
    "fewer strides": (lambda marker: older(pickled({"w": Tensor(strides=(1,))})), "without a proper shape"),
    "a thousand axes": (lambda marker: older(pickled({"w": Tensor(size=(1,) * 1000, strides=(1,) * 1000)})), "damaged"),
    "a huge number of a memo": (lambda marker: older(b"\x80\x02}r\xff\xff\xff\xff0h\x00."), "POP, which is refused"),
    "an empty memo": (lambda marker: older(b"\x80\x02h\x07."), "damaged"),
    "an empty stack": (lambda marker: older(b"\x80\x02R."), "damaged"),
    "no mark": (lambda marker: older(b"\x80\x02}u."), "damaged"),
    "text longer than the file": (lambda marker: older(b"\x80\x02X\xff\xff\xff\x7fabc."), "damaged"),
    "terabytes of bytes": (lambda marker: older(b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"."), "damaged"),
    "a number of terabytes": (lambda marker: older(b"\x80\x02\x8b\xff\xff\xff\x7f."), "damaged"),
    "a key that is slow to hash": (lambda marker: older(slow_to_hash(60)), "keys are not text"),
    "values of another machine": (lambda marker: archive(GOOD, byteorder=b"big"), "big-endian"),
    "two pickles": (lambda marker: zip_of({"a/data.pkl": GOOD, "b/data.pkl": GOOD}), "too many values"),
    "an archive of something else": (lambda marker: zip_of({"a.txt": b"x"}), "damaged"),
}  # fmt: skip


def refusal(path) -> str:
    """The one message with which a file is refused, in bounded time and memory."""
    tracemalloc.start()
    start = time.monotonic()
    try:
        with pytest.raises(InputError) as caught:
            pth.read(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.monotonic() - start < MOST_SECONDS
    assert peak < MOST_MEMORY + 4 * path.stat().st_size
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < 600
    return message


def test_what_the_hostile_files_are_made_from_is_accepted(tmp_path):
    for content in (older(GOOD), archive(GOOD)):
        (tmp_path / "good.pth").write_bytes(content)
        np.testing.assert_array_equal(pth.read(tmp_path / "good.pth")["w"], [[1, 2], [3, 4]])


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused(tmp_path, name):
    make, message = HOSTILE[name]
    path = tmp_path / "bad.pth"
    path.write_bytes(make(tmp_path / "canary"))
    assert re.search(message, refusal(path))
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("archive", [True, False])
def test_a_truncated_file_is_refused(tmp_path, archive):
    whole = saved(torch.nn.Conv2d(3, 8, 3).state_dict(), tmp_path / "whole.pth", archive).read_bytes()
    for percent in range(0, 100, 5):
        path = tmp_path / f"{percent}.pth"
        path.write_bytes(whole[: len(whole) * percent // 100])
        refusal(path)


@pytest.mark.parametrize("archive", [True, False])
def test_a_damaged_file_is_refused_or_has_tensors(tmp_path, rng, archive):
    whole = saved(torch.nn.Conv2d(3, 8, 3).state_dict(), tmp_path / "whole.pth", archive).read_bytes()
    for _ in range(200):
        damaged = bytearray(whole)
        for position in rng.integers(len(whole) if rng.random() < 0.5 else 400, size=3):
            damaged[position] = rng.integers(256)
        (tmp_path / "damaged.pth").write_bytes(damaged)
        with contextlib.suppress(InputError):
            tensors = pth.read(tmp_path / "damaged.pth")
            assert sum(array.size for array in tensors.values()) < len(whole)


def test_bombs_are_refused(tmp_path, monkeypatch):
    assert "would expand to" in refusal(zip_bomb(tmp_path / "bomb.pth", "archive/data.pkl", 2**27))
    monkeypatch.setattr(pth, "MOST_BYTES", 100)
    (tmp_path / "large.pth").write_bytes(archive(GOOD))
    assert "more than 100 bytes" in refusal(tmp_path / "large.pth")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    assert "cannot be read: Not a regular file" in refusal(tmp_path / "pipe.pth")
    assert "cannot be read: Is a directory" in refusal(tmp_path)
    with pytest.raises(InputError, match=r"missing\.pth: cannot be read: No such file"):
        pth.read(tmp_path / "missing.pth")
