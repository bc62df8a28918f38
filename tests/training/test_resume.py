"""Killed at any moment and started again, a run ends with the same bits; real processes, real signals."""

import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import BACKEND, JIT
from tests.helpers.commands import run_unet, start_unet
from tests.helpers.weights import weights
from unet import interrupts
from unet.training.checkpoints import saved_epochs

EPOCHS = 6

SETTINGS = [
    *("data.source=shapes", "data.size=32", "data.shapes.train=64", "data.shapes.test=4"),
    *("model.width=8", "model.depth=2", "model.dropout=0.1", "training.batch_size=8"),
    *("training.ema=0.9", f"training.jit={JIT}", "training.checkpoint_seconds=0", "training.pictures_every=2"),
]


FINE_TUNING = [
    *("model.encoder=efficientnet_lite0", "model.weights=none", "training.freeze_epochs=3"),
    *("training.encoder_learning_rate=0.3", "training.accumulate=2"),
]
"""Settings with which the encoder is frozen for half of the epochs."""


def arguments(root: Path, name: str, *more: str, epochs: int = EPOCHS) -> list:
    settings = [f"name={name}", *SETTINGS, f"training.epochs={epochs}", *more]
    return ["train", "configs/demo.yaml", "--root", root, *settings]


def start(root: Path, name: str, *more: str):
    """Start a run and wait until its directory exists."""
    process = start_unet(*arguments(root, name, *more), UNET_CACHE=str(root / "cache"))
    while process.poll() is None and not (root / name / "config.yaml").is_file():
        time.sleep(0.01)
    return process


def finish(process) -> None:
    output = process.communicate()
    assert process.returncode == 0, output


def progress(run: Path) -> tuple:
    """Rows of history.csv, and whether there is a checkpoint."""
    history = run / "history.csv"
    return (history.read_text().count("\n") if history.is_file() else 0, (run / "last.keras").is_file())


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
@pytest.mark.slow
def test_killed_runs_end_with_the_bits_of_one_that_was_not(tmp_path):
    """Each run is killed at a random moment of a random epoch, and started again."""
    kills = 4 if BACKEND == "tensorflow" else 2

    process, started = start(tmp_path, "whole"), time.monotonic()
    finish(process)
    duration = time.monotonic() - started

    dice = random.Random(0)
    killed: dict[str, tuple] = {}
    for attempt in range(3 * kills):
        name = f"killed_{attempt}"
        process = start(tmp_path, name)
        rows = dice.randrange(EPOCHS)  # of history.csv with its heading: 0 is before the first checkpoint
        while process.poll() is None and progress(tmp_path / name)[0] < rows:
            time.sleep(0.005)
        time.sleep(dice.uniform(0, duration / EPOCHS))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode == -signal.SIGKILL:  # else it had ended before
            killed[name] = progress(tmp_path / name)
            finish(start(tmp_path, name))
            assert_same_run(tmp_path / "whole", tmp_path / name, f"killed with {killed[name]} recorded")
        if len(killed) == kills:
            break
    assert len(killed) == kills
    print(f"killed at (rows of history, last.keras there): {list(killed.values())}")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
@pytest.mark.slow
@pytest.mark.backend_free
def test_killed_in_a_frozen_epoch_and_at_the_end_of_the_freeze_runs_end_with_the_same_bits(tmp_path):
    """Killed in the second of three frozen epochs; when the third is in history.csv, which is before it is in
    last.keras; when it is in both; and when the first epoch without the freeze has begun."""
    finish(start(tmp_path, "whole", *FINE_TUNING))

    def saved(run):
        return saved_epochs(run / "last.keras") if (run / "last.keras").is_file() else 0

    moments = {
        "frozen": lambda run: progress(run)[0] == 2,
        "recorded": lambda run: progress(run)[0] == 4,
        "saved": lambda run: saved(run) == 3,
        "thawed": lambda run: "from epoch 4 on" in (run / "log.txt").read_text(),
    }
    killed = {}
    for name, reached in moments.items():
        process = start(tmp_path, name, *FINE_TUNING)
        folder = tmp_path / name
        while process.poll() is None and not ((folder / "log.txt").is_file() and reached(folder)):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, f"{name}: had ended before"
        killed[name] = (progress(folder)[0] - 1, saved(folder))
        finish(start(tmp_path, name, *FINE_TUNING))
        assert_same_run(tmp_path / "whole", folder, f"killed when {name}")
    print(f"killed at (epochs in history.csv, epochs in last.keras): {killed}")
    assert 1 <= killed["frozen"][0] < 3
    assert killed["thawed"][0] >= 3


def assert_same_run(whole: Path, killed: Path, message: str) -> None:
    """Same bits in every array, same history except speed and memory, no temporary files left."""
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


ONCE = [pytest.mark.slow, pytest.mark.backend_free]


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        pytest.param([signal.SIGINT], 130, marks=pytest.mark.slow),
        pytest.param([signal.SIGTERM], 143, marks=ONCE),
        pytest.param([signal.SIGHUP, signal.SIGHUP], 129, marks=ONCE),  # a terminal sends two
        pytest.param([signal.SIGINT, signal.SIGINT], 130, marks=ONCE),
        pytest.param([signal.SIGINT, signal.SIGTERM], 143, marks=ONCE),
    ],
)
def test_a_signal_ends_the_process_cleanly_and_the_run_resumes(tmp_path, signals, code):
    epochs = 5 * EPOCHS if BACKEND == "jax" else EPOCHS  # not finished before the signal comes
    process = start_unet(*arguments(tmp_path, "stopped", epochs=epochs))
    while process.poll() is None and not progress(tmp_path / "stopped")[1]:
        time.sleep(0.01)
    for number in signals:
        process.send_signal(number)
        time.sleep(0.02)
    out, err = process.communicate()
    codes = [code]
    if "stopped by" in err and len(signals) == 2:  # the step had ended before the second signal came
        codes += [interrupts.exit_code(signals[0]), -signals[1]]
    assert process.returncode in codes, err
    assert "Traceback" not in err
    assert "stopping after this step" in err
    if len(signals) == 1 or process.returncode == 129:
        assert f"resume with: unet train {tmp_path / 'stopped'}" in out
        assert f"stopped by {interrupts.name(code - 128)}" in err
    done = progress(tmp_path / "stopped")[0] - 1
    assert 1 <= done < epochs
    again = run_unet("train", tmp_path / "stopped")
    assert again.code == 0, again.err
    assert f"resuming after epoch {done} of {epochs}" in (tmp_path / "stopped" / "log.txt").read_text()
    assert progress(tmp_path / "stopped")[0] == epochs + 1
