"""The disk fills up at any write of a command: one message, nothing lost, and the same command succeeds later."""

import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.helpers import TINY
from tests.helpers.commands import run_unet
from tests.helpers.weights import weights
from unet import data
from unet.errors import RunError
from unet.runs import Run
from unet.training.callbacks import TensorBoard

pytestmark = pytest.mark.backend_free


@pytest.fixture
def disk(monkeypatch):
    """A disk that is full from the n-th file on that is flushed to it, until ``n`` is 0."""

    class Disk:
        writes = 0
        full_at = 0

        def flush(self, handle):
            self.writes += 1
            if self.full_at and self.writes >= self.full_at:
                raise OSError(errno.ENOSPC, "No space left on device")

        def fill(self, at):
            self.writes, self.full_at = 0, at

    disk = Disk()
    monkeypatch.setattr(os, "fsync", disk.flush)
    return disk


def assert_refused(result, root):
    assert result.code == 1
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.err
    assert str(root) in errors[0]
    assert "cannot be written: No space left on device; free some space, then run the same command again" in errors[0]
    assert "Traceback" not in result.err
    assert not list(root.rglob(".unfinished-*"))


def count_writes(disk, *command) -> int:
    disk.fill(0)
    result = run_unet(*command)
    assert result.code == 0, result.err
    return disk.writes


def training(root) -> list:
    """Command that prepares its data, too."""
    settings = [*TINY, "training.epochs=2", "training.checkpoint_seconds=0", f"data.cache_dir={root / 'cache'}"]
    return ["train", "demo", "--root", root, "name=tiny", *settings]


def test_events_that_do_not_fit_on_the_disk_end_an_epoch_with_a_message(trained_run, tmp_path, disk):
    """tensorboardX.SummaryWriter would wait forever for its thread."""
    run = Run(tmp_path / "run")
    shutil.copytree(trained_run.path, run.path)
    nothing = data.Split(np.zeros((0, 8, 8, 3), np.uint8), np.zeros((0, 8, 8), np.uint8), [])
    rows = [{"epoch": 1, "loss": 0.5}]
    with TensorBoard(run, nothing, rows) as board:
        board.on_epoch_end(0)
        disk.fill(1)
        for epoch in range(1, 15):  # SummaryWriter waits when ten events are pending
            with pytest.raises(RunError, match="tensorboard: cannot be written: No space left on device"):
                board.on_epoch_end(epoch)
    assert len(list(run.tensorboard.iterdir())) == 2  # one of each start, even within a second


@pytest.mark.slow
def test_training_resumes_after_the_disk_was_full(tmp_path, disk):
    disk.fill(18)  # in the second epoch
    assert_refused(run_unet(*training(tmp_path)), tmp_path)
    assert len(Run(tmp_path / "tiny").history()) == 1
    disk.fill(0)
    result = run_unet("train", tmp_path / "tiny")
    assert result.code == 0, result.err
    assert "resuming after epoch 1 of 2" in result.err


@pytest.mark.slow
def test_training_resumes_with_the_same_bits_whenever_the_disk_was_full(tmp_path, disk):
    writes = count_writes(disk, *training(tmp_path / "whole"))
    whole = weights(tmp_path / "whole" / "tiny" / "last.keras")
    for at in range(1, writes, 3):  # the last one closes the events of TensorBoard, all of which have been written
        root = tmp_path / f"full_{at}"
        disk.fill(at)
        assert_refused(run_unet(*training(root)), root)
        disk.fill(0)
        result = run_unet(*training(root))
        assert result.code == 0, result.err
        again = weights(root / "tiny" / "last.keras")
        assert [key for key in whole if not np.array_equal(whole[key], again[key])] == []
        assert len(Run(root / "tiny").history()) == 2


@pytest.mark.slow
def test_a_full_disk_loses_no_result(trained_run, tmp_path, disk):
    run = tmp_path / "run"
    shutil.copytree(trained_run.path, run)
    (tmp_path / "photos").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (40, 30)).save(tmp_path / "photos" / f"{name}.png")
    commands = {
        "evaluate": ["evaluate", run],
        "predict": ["predict", run, tmp_path / "photos", "--out", tmp_path / "masks", "--probabilities"],
        "export": ["export", run, "--format", "keras"],
    }
    for command in commands.values():
        writes = count_writes(disk, *command)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != "log.txt"}
        for at in range(1, writes + 1):
            disk.fill(at)
            assert_refused(run_unet(*command), tmp_path)
            for path in before:
                assert path.is_file(), path
        assert count_writes(disk, *command) == writes


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("a.pb; No space left on device"),
        RuntimeError("basic_ios::clear: iostream error"),  # of OpenVINO
    ],
)
def test_a_disk_that_is_full_during_a_conversion_is_not_mistaken_for_a_network_that_cannot_be_converted(
    error, monkeypatch
):
    from unet.export.exporter import write

    free = 0 if "iostream" in str(error) else 2**30
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=free))

    class Full:
        def write(self, *arguments):
            raise error

    with pytest.raises(
        RunError, match=r"^net\.onnx: cannot be written: No space left on device; free some space, then"
    ):
        write(Full(), None, Path("net.onnx"), None, None)
