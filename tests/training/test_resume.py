"""Killed at any moment and started again, a run ends with the same bits; the real script, real SIGKILLs."""

import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.helpers import BACKEND, JIT, ROOT

EPOCHS = 6
KILLS = int(os.environ.get("KILLS", "2" if BACKEND == "tensorflow" else "1"))
"""How often the process is killed; KILLS=10 for the long version."""

SETTINGS = [
    *("data.source=shapes", "data.size=32", "data.shapes.train=64", "data.shapes.test=4"),
    *("model.width=8", "model.depth=2", "model.dropout=0.1", "training.batch_size=8"),
    *("training.ema=0.9", f"training.jit={JIT}", "training.checkpoint_seconds=0", "training.pictures_every=2"),
]


def command(root: Path, name: str, epochs: int = EPOCHS) -> list[str]:
    settings = [f"name={name}", *SETTINGS, f"training.epochs={epochs}"]
    return [sys.executable, "scripts/train.py", "configs/demo.yaml", "--root", str(root), *settings]


def weights(path: Path) -> dict[str, np.ndarray]:
    """Every array in a .keras file: weights, batch statistics, optimiser state, averages, counters."""
    arrays = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            arrays[name] = np.array(item)

    with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as file, h5py.File(file) as content:
        content.visititems(visit)
    return arrays


def progress(run: Path) -> tuple:
    """What a kill can interrupt: epochs recorded, and files that are there."""
    history = run / "history.csv"
    return (history.read_text().count("\n") if history.is_file() else 0, (run / "last.keras").is_file())


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
def test_killed_runs_end_with_the_bits_of_one_that_was_not(tmp_path):
    """Each run is killed at a random moment of a random epoch, and started again."""
    options = {"cwd": ROOT, "env": os.environ | {"PYTHONPATH": str(ROOT), "UNET_CACHE": str(tmp_path / "cache")}}

    def start(name):
        """Start a run and wait until its directory is there."""
        process = subprocess.Popen(
            command(tmp_path, name), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
        )
        while process.poll() is None and not (tmp_path / name / "config.yaml").is_file():
            time.sleep(0.01)
        return process

    def finish(process):
        output = process.communicate()[0]
        assert process.returncode == 0, output

    process, started = start("whole"), time.monotonic()
    finish(process)
    duration = time.monotonic() - started

    dice = random.Random(0)
    killed: dict[str, tuple] = {}
    for attempt in range(3 * KILLS):
        name = f"killed_{attempt}"
        process = start(name)
        rows = dice.randrange(EPOCHS)  # of history, its heading included: 0 is before the first checkpoint
        while process.poll() is None and progress(tmp_path / name)[0] < rows:
            time.sleep(0.005)
        time.sleep(dice.uniform(0, duration / EPOCHS))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode == -signal.SIGKILL:  # else it had ended before: the machine is faster than it was
            killed[name] = progress(tmp_path / name)
            finish(start(name))
            assert_same_run(tmp_path / "whole", tmp_path / name, f"killed with {killed[name]} recorded")
        if len(killed) == KILLS:
            break
    assert len(killed) == KILLS
    print(f"killed at (rows of history, last.keras there): {list(killed.values())}")


def assert_same_run(whole: Path, killed: Path, message: str) -> None:
    """Same bits in every array, same history but for speed and memory, nothing left lying about."""
    for file in ("best.keras", "last.keras"):
        a, b = weights(whole / file), weights(killed / file)
        assert a.keys() == b.keys()
        assert len(a) > 50
        assert [key for key in a if not np.array_equal(a[key], b[key])] == [], f"{file}, {message}"
    rows = [(run / "history.csv").read_text().splitlines() for run in (whole, killed)]
    assert len(rows[0]) == len(rows[1]) == EPOCHS + 1
    titles = rows[0][0].split(",")
    kept = [i for i, title in enumerate(titles) if title not in ("images_per_second", "peak_memory_mib")]
    for a, b in zip(*((row.split(",") for row in run) for run in rows)):
        assert [a[i] for i in kept] == [b[i] for i in kept], message
    assert [path.name for path in killed.iterdir() if path.name.startswith(".")] == [".lock"]


@pytest.mark.parametrize("presses", [1, 2] if BACKEND == "tensorflow" else [1])
def test_a_real_ctrl_c_ends_cleanly_and_the_run_goes_on(tmp_path, presses):
    epochs = 5 * EPOCHS if BACKEND == "jax" else EPOCHS  # not over before the signal comes
    environment = os.environ | {"PYTHONPATH": str(ROOT), "UNET_CACHE": str(tmp_path / "cache")}
    options = {"cwd": ROOT, "env": environment, "text": True}
    process = subprocess.Popen(
        command(tmp_path, "stopped", epochs), stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )
    while process.poll() is None and not progress(tmp_path / "stopped")[1]:
        time.sleep(0.01)
    for _ in range(presses):
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    out, err = process.communicate()
    assert process.returncode == 130 or (presses == 2 and process.returncode == -signal.SIGINT), err
    assert "Traceback" not in err
    assert "stopping after this step; Ctrl-C again stops at once" in err
    if presses == 1:
        assert f"resume with: unet train {tmp_path / 'stopped'}" in out
        assert "stopped by Ctrl-C" in err
    done = progress(tmp_path / "stopped")[0] - 1
    assert 1 <= done < epochs
    again = subprocess.run(
        [sys.executable, "scripts/train.py", str(tmp_path / "stopped")], capture_output=True, **options, check=True
    )
    assert f"resuming after epoch {done} of {epochs}" in again.stderr
    assert progress(tmp_path / "stopped")[0] == epochs + 1
