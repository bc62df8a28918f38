"""Caches that were damaged, disks that are full, processes that prepare the same data."""

import errno
import os
import threading

import numpy as np
import pytest

from unet import config, data
from unet.errors import InputError, RunError

pytestmark = pytest.mark.backend_free


@pytest.fixture
def settings(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("data: {source: shapes, size: 16, shapes: {train: 6, test: 2}, validation: 0.34}\n")
    return config.load(path, [f"data.cache_dir={tmp_path / 'cache'}"]).data


def truncate(entry):
    os.truncate(entry / "train_images.npy", 500)


def shorten(entry):
    np.save(entry / "train_images.npy", np.load(entry / "train_images.npy")[1:])


def empty(entry):
    os.truncate(entry / "train_masks.npy", 0)


def delete(entry):
    (entry / "test_masks.npy").unlink()


def cut_index(entry):
    index = entry / "index.json"
    index.write_text(index.read_text()[:50])


def other_index(entry):
    (entry / "index.json").write_text("[]")


def flip(entry):
    with open(entry / "train_images.npy", "rb+") as file:
        file.seek(-1, os.SEEK_END)
        (last,) = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))


@pytest.mark.parametrize("damage", [truncate, shorten, empty, delete, cut_index, other_index, flip])
def test_damaged_arrays_are_prepared_again(settings, tmp_path, caplog, damage):
    whole = data.prepare(settings)
    images = np.array(whole.train.images)
    (entry,) = (tmp_path / "cache").iterdir()
    damage(entry)
    again = data.prepare(settings, verify=True)
    np.testing.assert_array_equal(again.train.images, images)
    assert again.train.names == whole.train.names
    assert f"{entry}: " in caplog.text
    assert "preparing the data again" in caplog.text
    assert list((tmp_path / "cache").iterdir()) == [entry]
    caplog.clear()
    data.prepare(settings, verify=True)
    assert not caplog.text


def test_arrays_outlive_the_deletion_of_the_cache(settings, tmp_path):
    dataset = data.prepare(settings)
    (entry,) = (tmp_path / "cache").iterdir()
    for file in entry.iterdir():
        file.unlink()
    entry.rmdir()
    assert dataset.train.digests == data.prepare(settings).train.digests
    assert np.array(dataset.train.images).any()


@pytest.mark.skipif(os.name != "posix", reason="a mapped file cannot be truncated")
@pytest.mark.parametrize("kind", ["images", "masks"])
def test_arrays_that_are_truncated_while_they_are_in_use_are_reported(settings, tmp_path, kind):
    """Reading them would end the process with SIGBUS, without a message."""
    dataset = data.prepare(settings)
    images, masks = dataset.train.read(np.array([2, 0]))
    np.testing.assert_array_equal(images, dataset.train.images[[2, 0]])
    np.testing.assert_array_equal(masks, dataset.train.masks[[2, 0]])
    assert images.base is None  # not a view of the file
    (entry,) = (tmp_path / "cache").iterdir()
    os.truncate(entry / f"train_{kind}.npy", 500)
    with pytest.raises(RunError, match=rf"train_{kind}\.npy: has become shorter while it was in use; run the"):
        dataset.train.read(slice(2))
    assert len(dataset.test.read(0)) == 2
    data.prepare(settings).train.read(0)


@pytest.mark.parametrize("write", range(1, 8))  # six arrays and the index
def test_a_full_disk_is_one_message_and_leaves_nothing(settings, tmp_path, monkeypatch, write):
    calls, flush = [], os.fsync

    def full(handle):
        calls.append(handle)
        if len(calls) == write:
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"cache.*: cannot be written: No space left on device; free some space"):
        data.prepare(settings)
    assert list((tmp_path / "cache").iterdir()) == []
    assert len(data.prepare(settings).train) == 4
    assert len(calls) == write + 7


def test_two_preparations_at_once_both_succeed_and_leave_one_entry(settings, tmp_path):
    found = []
    threads = [threading.Thread(target=lambda: found.append(data.prepare(settings))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(dataset.train.digests == found[0].train.digests for dataset in found)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_missing_home_directory_is_reported(tmp_path, monkeypatch):
    (tmp_path / "s.yaml").write_text("data: {source: shapes, size: 16, shapes: {train: 6, test: 2}}\n")
    monkeypatch.delenv("UNET_CACHE")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user without an entry in passwd
    with pytest.raises(InputError, match=r"^data\.cache_dir: .*home directory.* Set data\.cache_dir or"):
        data.prepare(config.load(tmp_path / "s.yaml").data)
