"""All cells of a grid on an executor: what runs, what fails, what a signal stops. Scripts stand in for most cells."""

import contextlib
import json
import math
import os
import signal
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.ablation import ENVIRONMENT, SETTINGS, make_grid, wait_for
from tests.helpers.commands import run_unet, run_unet_process, start_unet
from tests.helpers.processes import command_lines, running
from tests.helpers.weights import weights
from unet.ablation.plan import grid
from unet.ablation.run import cells, devices
from unet.ablation.run.executors.local import LocalExecutor
from unet.ablation.run.finished import is_finished
from unet.cost import stages, total
from unet.errors import InputError, RunError
from unet.model import from_config
from unet.runs import Run

pytestmark = pytest.mark.backend_free

CELL = """
import json, os, pathlib, signal, sys
run = pathlib.Path(sys.argv[-1])
with open(run.parent / "started", "a") as file:
    print(run.name, file=file)
if run.name == "carafe-seed0" and not (run / "killed").exists():
    (run / "killed").touch()
    os.kill(os.getpid(), signal.SIGKILL)
if run.name == "fade-seed0":
    print("error: no data", file=sys.stderr)
    sys.exit(2)
(run / "metrics.json").write_text(json.dumps({"test": {"mean_iou": {"dataset": 0.5}}, "cost": {}}))
(run / "counts_test.npz").touch()
"""
"""Finishes a run as far as run_cells looks, but fails for fade, and is killed the first time for carafe."""


class Attempt:
    """One call of run_cells: which processes it started, what failed, and what was finished afterwards."""

    def __init__(self, planned: grid.Grid, root: Path, workers: int = 1, **environment):
        self.root = root
        with contextlib.closing(LocalExecutor(os.environ | ENVIRONMENT | environment, workers)) as executor:
            self.failures = cells.run_cells(planned, root, executor)
        started, failures = root / "started", root / "failures.json"
        self.started = sorted(started.read_text().split()) if started.is_file() else []
        started.unlink(missing_ok=True)
        self.failures_file = json.loads(failures.read_text()) if failures.is_file() else None
        self.finished = [run.path.name for run in cells.finished_runs(planned, root)]


def test_failed_cells_are_tried_again_and_finished_ones_are_not(stand_in, tmp_path):
    stand_in(CELL)
    planned, root = make_grid(tmp_path, "nearest", "fade", "carafe"), tmp_path / "runs"
    first, second = Attempt(planned, root, workers=2), Attempt(planned, root)
    assert first.started == ["carafe-seed0", "fade-seed0", "nearest-seed0"]
    assert first.finished == ["nearest-seed0"]
    assert first.failures == first.failures_file
    assert first.failures == {
        "carafe-seed0": "ended by SIGKILL (probably out of memory)",
        "fade-seed0": "no data",
    }
    assert second.started == ["carafe-seed0", "fade-seed0"]
    assert second.finished == ["nearest-seed0", "carafe-seed0"]
    assert second.failures == second.failures_file == {"fade-seed0": "no data"}

    third = Attempt(make_grid(tmp_path, "nearest", "carafe"), root)
    assert third.started == []
    assert (third.failures, third.failures_file) == ({}, None)


def test_a_run_with_another_configuration_is_not_overwritten(tmp_path):
    planned = make_grid(tmp_path, "nearest")
    Run.create(planned.cells[0].config, tmp_path / "runs").last_file.touch()
    changed = grid.load(tmp_path / "tiny.yaml", [*SETTINGS, "training.epochs=5"])
    with pytest.raises(InputError, match=r"training\.epochs: 2 there, 5 here"):
        Attempt(changed, tmp_path / "runs")


def test_the_failure_of_a_worker_is_a_failed_cell(tmp_path):
    """As when Ray loses a machine: the future raises."""

    class Broken:
        def __init__(self):
            self.raised = [MemoryError("the node\nis full"), OSError("no more processes")]

        def submit(self, run):
            future: Future = Future()
            future.set_exception(self.raised.pop())
            return future

    failures = cells.run_cells(make_grid(tmp_path, "nearest", "fade"), tmp_path / "runs", Broken())
    assert failures == {
        "nearest-seed0": "OSError: no more processes",
        "fade-seed0": "MemoryError: the node\nis full",
    }
    assert json.loads((tmp_path / "runs" / "failures.json").read_text()) == failures


def test_an_executor_that_can_run_no_more_cells_ends_the_ablation(tmp_path):
    class Lost:
        def submit(self, run):
            future: Future = Future()
            future.set_exception(RunError("the cluster was lost"))
            return future

    with pytest.raises(RunError, match=r"^the cluster was lost$"):
        cells.run_cells(make_grid(tmp_path, "nearest", "fade"), tmp_path / "runs", Lost())
    assert not (tmp_path / "runs" / "failures.json").exists()  # the cells did not fail


# === Real cells ===


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A grid of one real cell."""
    folder = tmp_path_factory.mktemp("grid")
    attempt = Attempt(make_grid(folder, "nearest"), folder / "runs")
    assert attempt.failures == {}
    return Run(attempt.root / "nearest-seed0")


@pytest.mark.slow
def test_a_finished_cell_has_the_costs_that_a_report_shows(real):
    cost = real.metrics()["cost"]
    network = from_config(real.config, 3, fixed_size=True)
    assert cost["parameters"] == sum(math.prod(weight.shape) for weight in network.weights)
    assert cost["multiply_adds"] == total(stages(network)).multiply_adds
    assert (cost["surplus_parameters"], cost["surplus_multiply_adds"]) == (0, 0)  # nearest is the projection alone
    assert cost["images_per_second"] == real.history()[1]["images_per_second"]  # the second of two epochs
    assert cost["peak_memory_mib"] == max(row["peak_memory_mib"] for row in real.history())
    assert cost["file_mib"] == real.best_file.stat().st_size / 2**20
    assert set(cost["checkerboard"]) == {"initial", "trained"}
    assert is_finished(real)


def assert_same_results(one: Run, other: Run) -> None:
    """The same bits in everything except times and memory."""
    a, b = (weights(run.best_file) for run in (one, other))
    assert a.keys() == b.keys()
    assert len(a) > 30
    assert [key for key in a if not np.array_equal(a[key], b[key])] == []
    measured = {"images_per_second", "peak_memory_mib"}
    rows = [[{k: v for k, v in row.items() if k not in measured} for row in run.history()] for run in (one, other)]
    assert len(rows[0]) == 2
    assert rows[0] == rows[1]
    assert one.metrics()["test"] == other.metrics()["test"]
    costs = [{k: v for k, v in run.metrics()["cost"].items() if k not in measured} for run in (one, other)]
    assert costs[0].pop("file_mib") == pytest.approx(costs[1].pop("file_mib"), rel=0.01)  # contains a time stamp
    assert costs[0] == costs[1]
    with np.load(one.counts_file("test")) as a, np.load(other.counts_file("test")) as b:
        assert sorted(a.files) == sorted(b.files)
        for key in a.files:
            np.testing.assert_array_equal(a[key], b[key])
    for name in ("per_image_test.csv", "config.yaml"):
        assert (one.path / name).read_bytes() == (other.path / name).read_bytes()


@pytest.mark.slow
def test_ray_on_this_machine_gives_the_results_of_local_processes(real, tmp_path):
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'unet-upsamplers[ray]'")
    from unet.ablation.run.executors.ray import RayExecutor

    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with contextlib.closing(RayExecutor(os.environ | ENVIRONMENT)) as executor:
        assert command_lines("raylet")
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
        assert cells.run_cells(make_grid(tmp_path, "nearest"), tmp_path / "runs", executor) == {}
    assert not ray.is_initialized()
    assert_same_results(real, Run(tmp_path / "runs" / "nearest-seed0"))


@pytest.mark.slow
def test_a_cell_alone_gives_the_bits_of_one_among_others(tmp_path):
    """With as many cores: their number decides the order in which a sum is computed."""
    two = Attempt(make_grid(tmp_path, "nearest", "carafe"), tmp_path / "two", workers=2)
    share = next(iter(devices.shares(os.environ | ENVIRONMENT, 2)))
    alone = Attempt(make_grid(tmp_path, "nearest"), tmp_path / "alone", **share)
    assert two.failures == alone.failures == {}
    assert_same_results(*(Run(attempt.root / "nearest-seed0") for attempt in (two, alone)))


# === Signals ===

STOPPED = """
import pathlib, signal, sys, time
run = pathlib.Path(sys.argv[-1])
def stop(*_):
    (run / "asked").touch()
    sys.exit(130)
signal.signal(signal.SIGINT, stop)
(run / "ready").touch()
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("number", "exception"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)], ids=["INT", "TERM"]
)
def test_a_signal_stops_running_cells_and_starts_no_other(stand_in, tmp_path, number, exception):
    stand_in(STOPPED)
    planned, root = make_grid(tmp_path, "nearest", "bilinear"), tmp_path / "runs"
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]

    def send():
        wait_for(root / "nearest-seed0" / "ready")
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    started = time.monotonic()
    with pytest.raises(exception) as caught:
        Attempt(planned, root)
    thread.join()
    assert time.monotonic() - started < 5
    assert (root / "nearest-seed0" / "asked").exists()
    assert not (root / "bilinear-seed0" / "ready").exists()
    assert not (root / "failures.json").exists()  # being stopped is not a failure
    assert number == signal.SIGINT or caught.value.code == 143
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers


STUBBORN = """
import pathlib, signal, sys, time
run = pathlib.Path(sys.argv[-1])
signal.signal(signal.SIGINT, lambda *_: (run / "asked").touch())
(run / "ready").touch()
end = time.monotonic() + 60
while time.monotonic() < end:
    time.sleep(0.1)
"""


def test_the_first_stop_asks_and_the_second_kills(stand_in, tmp_path):
    stand_in(STUBBORN)
    with contextlib.closing(LocalExecutor(dict(os.environ))) as executor:
        running, waiting = executor.submit(tmp_path), executor.submit(tmp_path)
        wait_for(tmp_path / "ready")
        assert not (tmp_path / "asked").exists()
        executor.stop()
        wait_for(tmp_path / "asked")
        time.sleep(0.5)
        assert not running.done()
        executor.stop()
        assert running.result(timeout=10) == "ended by SIGKILL (probably out of memory)"
        assert waiting.result(timeout=10) == "not started"


def test_closing_leaves_nothing_running_and_starts_nothing(stand_in, tmp_path):
    stand_in(STUBBORN)
    executor = LocalExecutor(dict(os.environ))
    running, waiting = executor.submit(tmp_path), executor.submit(tmp_path)
    wait_for(tmp_path / "ready")
    started = time.monotonic()
    executor.close()
    assert time.monotonic() - started < 10
    assert running.done()
    assert waiting.cancelled()
    assert command_lines(str(tmp_path / "python")) == []


@pytest.mark.slow
@pytest.mark.backend_free
def test_a_stopped_ablation_is_resumed_by_the_same_command(tmp_path):
    make_grid(tmp_path, "nearest", "bilinear")
    epochs = 12  # more than can be done before the signal
    arguments = ["ablate", tmp_path / "tiny.yaml", *SETTINGS, f"training.epochs={epochs}", "--root", tmp_path]
    first, second = (Run(tmp_path / "tiny" / f"{name}-seed0") for name in ("nearest", "bilinear"))

    process = start_unet(*arguments, **ENVIRONMENT)
    while process.poll() is None and not first.last_file.is_file():
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()
    assert [line for line in command_lines(str(first.path)) if "unet.ablation.run.cell" in line]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in out + err
    assert "stopping after the current step" in err
    assert "stopped; run the same command again to resume" in err
    assert command_lines(str(tmp_path)) == []
    done = len(first.history())
    assert 1 <= done < epochs
    assert not (second.path / "log.txt").exists()  # the waiting cell was never started
    assert not (tmp_path / "tiny" / "failures.json").exists()

    again = run_unet_process(*arguments, **ENVIRONMENT)
    assert again.code == 0, again.err
    assert "Traceback" not in again.err
    assert f"after epoch {done} of {epochs}" in (first.path / "log.txt").read_text()
    assert [len(run.history()) for run in (first, second)] == [epochs, epochs]
    assert is_finished(first)
    assert is_finished(second)
    assert (tmp_path / "tiny" / "report.html").is_file()
    assert command_lines(str(tmp_path)) == []


@pytest.mark.slow
def test_ray_asks_cells_to_stop_and_starts_no_other(tmp_path):
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'unet-upsamplers[ray]'")
    from unet.ablation.run.executors.ray import RayExecutor

    make_grid(tmp_path, "nearest", "bilinear")
    endless = grid.load(tmp_path / "tiny.yaml", [*SETTINGS, "training.epochs=2000"])
    first, second = (Run.create(cell.config, tmp_path / "runs") for cell in endless.cells)
    with contextlib.closing(RayExecutor(os.environ | ENVIRONMENT)) as executor:
        running, waiting = executor.submit(first.path), executor.submit(second.path)
        wait_for(first.last_file)
        executor.stop()
        assert running.result(timeout=30) == "stopped by Ctrl-C"
        with pytest.raises(ray.exceptions.TaskCancelledError):
            waiting.result(timeout=30)
    assert not (second.path / "log.txt").exists()
    assert command_lines(str(tmp_path)) == []


# === Faults of the machine ===


def test_a_second_ablation_in_the_same_directory_is_refused(tmp_path):
    with cells.locked_directory(tmp_path / "grid"):
        (tmp_path / "grid" / "failures.json").write_text("{}")
        with pytest.raises(InputError, match=r"grid: another unet ablate is running there; wait until it ends"):
            cells.locked_directory(tmp_path / "grid").__enter__()
        make_grid(tmp_path, "nearest", "bilinear")
        result = run_unet("ablate", tmp_path / "tiny.yaml", "name=grid", *SETTINGS, "--root", tmp_path)
        assert result.code == 2
        assert "another unet ablate is running there" in result.err
        assert (tmp_path / "grid" / "failures.json").exists()
    with cells.locked_directory(tmp_path / "grid"):
        pass


def test_cells_of_a_killed_ablation_may_finish_their_step(stand_in, tmp_path):
    stand_in(CELL)
    planned, root = make_grid(tmp_path, "nearest", "bilinear"), tmp_path / "runs"
    orphan = contextlib.ExitStack()
    orphan.enter_context(Run.create(planned.cells[0].config, root).locked())
    started_early = []

    def stop():
        time.sleep(1)
        started_early.append((root / "started").exists())
        orphan.close()

    thread = threading.Thread(target=stop)
    thread.start()
    attempt = Attempt(planned, root)
    thread.join()
    assert started_early == [False]
    assert attempt.finished == ["nearest-seed0", "bilinear-seed0"]


@pytest.mark.slow
def test_the_cell_of_a_killed_ray_worker_is_reported_and_the_others_finish(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'unet-upsamplers[ray]'")
    from unet.ablation.run.executors.ray import RayExecutor

    planned, root = make_grid(tmp_path, "nearest", "bilinear"), tmp_path / "runs"
    long = grid.load(tmp_path / "tiny.yaml", [*SETTINGS, "training.epochs=2000"])
    victim = Run.create(long.cells[0].config, root)
    Run.create(planned.cells[1].config, root)
    mixed = grid.Grid(planned.name, (long.cells[0], planned.cells[1]), planned.baseline)

    def kill_worker():
        wait_for(victim.last_file)
        for process in running(str(victim.path)):
            if "unet.ablation.run.cell" in process.command:
                os.kill(process.parent, signal.SIGKILL)

    thread = threading.Thread(target=kill_worker)
    with contextlib.closing(RayExecutor(os.environ | ENVIRONMENT)) as executor:
        thread.start()
        failures = cells.run_cells(mixed, root, executor)
    thread.join()
    assert list(failures) == ["nearest-seed0"]
    assert "died" in failures["nearest-seed0"] or "crashed" in failures["nearest-seed0"].lower()
    assert is_finished(Run(root / "bilinear-seed0"))
    limit = time.monotonic() + 10
    while command_lines(str(victim.path)) and time.monotonic() < limit:
        time.sleep(0.05)
    assert command_lines(str(victim.path)) == []  # the cell has ended with its worker


@pytest.mark.slow
@pytest.mark.parametrize(("process", "message"), [("gcs_server", "its head does not answer"), ("raylet", "has died")])
def test_a_lost_ray_cluster_ends_the_ablation_with_one_message(tmp_path, process, message):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'unet-upsamplers[ray]'")
    make_grid(tmp_path, "nearest", "bilinear")
    arguments = ["ablate", tmp_path / "tiny.yaml", *SETTINGS, "--root", tmp_path, "--executor", "ray"]
    running = start_unet(*arguments, "training.epochs=2000", **ENVIRONMENT)
    while running.poll() is None and not (tmp_path / "tiny" / "nearest-seed0" / "log.txt").exists():
        time.sleep(0.1)
    assert running.poll() is None, running.communicate()
    (victim,) = [child for child in children(running.pid) if f"/{process} " in f"{child[1]} "]
    os.kill(victim[0], signal.SIGKILL)
    _, err = running.communicate(timeout=90)
    assert running.returncode == 1
    assert "Traceback" not in err
    (error,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: the Ray cluster was lost: ")
    assert message in error
    limit = time.monotonic() + 20
    while command_lines(str(tmp_path)) and time.monotonic() < limit:
        time.sleep(0.1)
    assert command_lines(str(tmp_path)) == []


def children(parent: int) -> list[tuple[int, str]]:
    """Numbers and programs of a process's children."""
    return [(child.number, child.command.split()[0]) for child in running() if child.parent == parent]
