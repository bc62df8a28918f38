"""Cells in processes of their own: failures, Ctrl-C, shares of the machine, Ray. Real processes, real signals."""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import BACKEND, JIT, ROOT
from tests.training.test_resume import weights
from unet.ablation.plan import grid
from unet.ablation.run import execution
from unet.ablation.run.cell import is_finished
from unet.cost import stages, total
from unet.errors import InputError
from unet.model import from_config
from unet.runs import Run

pytestmark = pytest.mark.backend_free
SETTINGS = [
    *("data.source=shapes", "data.size=32", "data.shapes.train=40", "data.shapes.test=6"),
    *("model.width=4", "model.depth=2", "training.batch_size=8", "training.epochs=2", f"training.jit={JIT}"),
    *("training.checkpoint_seconds=0", "training.pictures_every=0"),
]
ENVIRONMENT = {"KERAS_BACKEND": BACKEND, "CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
"""On a CPU a run's numbers are the same every time."""
FAILING = "{name: dysample, groups: 3}"
"""Its decoder has 4 and 8 channels, which no three groups divide; the configuration cannot know."""
FAILED = "dysample-groups-3-seed0"


def make_grid(folder: Path, *variants: str) -> grid.Grid:
    """A grid of tiny cells on drawn shapes."""
    file = folder / "tiny.yaml"
    file.write_text(f"base: {ROOT / 'configs' / 'demo.yaml'}\nvary: {{model.upsampler: [{', '.join(variants)}]}}\n")
    return grid.load(file, SETTINGS)


def times(run: Path) -> dict[str, int]:
    """When each file was written."""
    return {str(file): file.stat().st_mtime_ns for file in run.rglob("*") if file.is_file()}


class Attempt:
    """One run of a grid: which processes it started, what failed, what was written. ``kill`` ends a cell's at once."""

    def __init__(self, cells: grid.Grid, root: Path, workers: int, kill: str | None = None, **environment):
        self.root, self.started = root, []
        started = self.started

        class Watched(subprocess.Popen):
            def __init__(self, arguments, **options):
                super().__init__(arguments, **options)
                if "unet.ablation.run.cell" in arguments:
                    started.append(Path(arguments[-1]).name)
                    if started[-1] == kill:
                        self.send_signal(signal.SIGKILL)

        executor = execution.LocalExecutor(os.environ | ENVIRONMENT | environment, workers)
        with pytest.MonkeyPatch.context() as patch, contextlib.closing(executor):
            patch.setattr(execution.subprocess, "Popen", Watched)
            self.failures = execution.run_cells(cells, root, executor)
        file = root / "failures.json"
        self.failures_file = json.loads(file.read_text()) if file.is_file() else None
        self.finished = [run.path.name for run in execution.finished_runs(cells, root)]
        self.times = times(root / "nearest-seed0")


@pytest.fixture(scope="module")
def attempts(tmp_path_factory):
    """A grid run by two workers and again by one: a cell cannot work, and another one is killed the first time."""
    folder = tmp_path_factory.mktemp("grid")
    cells = make_grid(folder, "nearest", FAILING, "carafe")
    execution.prepare_data(cells)
    first = Attempt(cells, folder / "runs", workers=2, kill="carafe-seed0")
    return first, Attempt(cells, folder / "runs", workers=1)


def test_the_others_finish_where_cells_fail(attempts):
    first, _ = attempts
    assert sorted(first.started) == ["carafe-seed0", FAILED, "nearest-seed0"]
    assert first.finished == ["nearest-seed0"]
    assert first.failures_file == first.failures
    assert first.failures == {
        "carafe-seed0": "ended by SIGKILL (out of memory, probably)",
        FAILED: "ValueError: DySample: groups 3 does not divide the 8 channels; choose from 1, 2, 4, 8",
    }


def test_run_again_what_failed_is_tried_again_and_nothing_else(attempts):
    first, second = attempts
    assert sorted(second.started) == ["carafe-seed0", FAILED]
    assert second.finished == ["nearest-seed0", "carafe-seed0"]
    assert second.failures_file == second.failures == {FAILED: first.failures[FAILED]}
    assert second.times == first.times
    assert len(first.times) >= 9


def test_failures_json_goes_away_with_the_failures(attempts, tmp_path):
    _, second = attempts
    kept = (second.root / "failures.json").read_text()
    try:
        third = Attempt(make_grid(tmp_path, "nearest", "carafe"), second.root, workers=1)
        assert third.started == []
        assert (third.failures, third.failures_file) == ({}, None)
    finally:
        (second.root / "failures.json").write_text(kept)  # the other tests may come in any order


def test_a_finished_cell_holds_what_a_report_needs(attempts):
    run = Run(attempts[0].root / "nearest-seed0")
    cost = run.metrics()["cost"]
    network = from_config(run.config, 3, fixed_size=True)
    assert cost["parameters"] == sum(math.prod(weight.shape) for weight in network.weights)
    assert cost["multiply_adds"] == total(stages(network)).multiply_adds
    assert (cost["surplus_parameters"], cost["surplus_multiply_adds"]) == (0, 0)  # nearest is the projection alone
    assert cost["images_per_second"] == run.history()[1]["images_per_second"]  # of two epochs the second
    assert cost["peak_memory_mib"] == max(row["peak_memory_mib"] for row in run.history())
    assert cost["file_mib"] == run.best_file.stat().st_size / 2**20
    assert set(cost["checkerboard"]) == {"initial", "trained"}
    assert is_finished(run)


def assert_same_results(one: Run, other: Run) -> None:
    """The same bits in everything but times and memory."""
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
    assert costs[0].pop("file_mib") == pytest.approx(costs[1].pop("file_mib"), rel=0.01)  # holds the time of saving
    assert costs[0] == costs[1]
    with np.load(one.counts_file("test")) as a, np.load(other.counts_file("test")) as b:
        assert sorted(a.files) == sorted(b.files)
        for key in a.files:
            np.testing.assert_array_equal(a[key], b[key])
    for name in ("per_image_test.csv", "config.yaml"):
        assert (one.path / name).read_bytes() == (other.path / name).read_bytes()


def test_a_cell_alone_ends_with_the_bits_of_one_beside_others(attempts, tmp_path):
    """With as many cores: how many there are decides in which order a sum is taken."""
    share = next(iter(execution.shares(os.environ | ENVIRONMENT, 2)))
    alone = Attempt(make_grid(tmp_path, "nearest"), tmp_path / "runs", workers=1, **share)
    assert alone.failures == {}
    assert_same_results(Run(attempts[0].root / "nearest-seed0"), Run(tmp_path / "runs" / "nearest-seed0"))


def test_a_run_of_another_configuration_is_not_overwritten(attempts, tmp_path):
    other = make_grid(tmp_path, "nearest")
    changed = grid.load(tmp_path / "tiny.yaml", [*SETTINGS, "training.epochs=5"])
    executor = execution.LocalExecutor(os.environ | ENVIRONMENT)
    with contextlib.closing(executor), pytest.raises(InputError, match=r"training\.epochs: 2 there, 5 here"):
        execution.run_cells(changed, attempts[0].root, executor)
    assert other.cells[0].config.training.epochs == 2


# === Ctrl-C ===


def processes(text: str) -> list[str]:
    """Command lines of this machine's processes that hold a text."""
    listed = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if text in line]


def test_a_real_ctrl_c_ends_all_and_the_same_command_goes_on(tmp_path):
    make_grid(tmp_path, "nearest", "bilinear")
    epochs = 60 if BACKEND == "jax" else 12  # not over before the signal comes
    arguments = [str(tmp_path / "tiny.yaml"), *SETTINGS, f"training.epochs={epochs}", "--root", str(tmp_path)]
    command = [sys.executable, "scripts/ablate.py", *arguments]
    options = {"cwd": ROOT, "env": os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT)}, "text": True}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    first, second = (Run(tmp_path / "tiny" / f"{name}-seed0") for name in ("nearest", "bilinear"))

    process = subprocess.Popen(command, **pipes, **options)
    while process.poll() is None and not first.last_file.is_file():
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()
    assert processes(f"unet.ablation.run.cell {first.path}")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in out + err
    assert "stopping after this step; Ctrl-C again stops at once" in err
    assert "stopped; the same command goes on" in err
    assert processes(str(tmp_path)) == []
    done = len(first.history())
    assert 1 <= done < epochs
    assert not (second.path / "log.txt").exists()  # what was waiting was never started
    assert not (tmp_path / "tiny" / "failures.json").exists()

    again = subprocess.run(command, **pipes, **options)
    assert again.returncode == 0, again.stderr
    assert "Traceback" not in again.stderr
    assert f"resuming after epoch {done} of {epochs}" in (first.path / "log.txt").read_text()
    assert [len(run.history()) for run in (first, second)] == [epochs, epochs]
    assert is_finished(first)
    assert is_finished(second)
    assert (tmp_path / "tiny" / "report.html").is_file()
    assert processes(str(tmp_path)) == []


def script(path: Path, text: str) -> Path:
    """An executable Python script."""
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)
    return path


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Let a script work in the cells' place: it is called as ``python -m unet.ablation.run.cell RUN``."""

    def stand_in(text):
        monkeypatch.setattr(execution.sys, "executable", str(script(tmp_path / "python", text)))

    return stand_in


def wait_for(path: Path) -> None:
    """Wait until a file is there."""
    limit = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < limit, f"no {path}"
        time.sleep(0.01)


STUBBORN = """
import pathlib, signal, sys, time
signal.signal(signal.SIGINT, lambda *_: pathlib.Path(sys.argv[3], "asked").touch())
pathlib.Path(sys.argv[3], "ready").touch()
end = time.monotonic() + 60
while time.monotonic() < end:
    time.sleep(0.1)
"""


@pytest.mark.backend_free
def test_one_press_asks_and_a_second_one_kills(stand_in, tmp_path):
    stand_in(STUBBORN)
    executor = execution.LocalExecutor(dict(os.environ), 1)
    with contextlib.closing(executor):
        running, waiting = executor.submit(tmp_path), executor.submit(tmp_path)
        wait_for(tmp_path / "ready")
        assert not (tmp_path / "asked").exists()
        executor.stop()
        wait_for(tmp_path / "asked")
        time.sleep(0.5)
        assert not running.done()
        executor.stop()
        assert running.result(timeout=10) == "ended by SIGKILL (out of memory, probably)"
        assert waiting.result(timeout=10) == "not started"


@pytest.mark.backend_free
def test_closing_leaves_nothing_running_and_starts_nothing(stand_in, tmp_path):
    stand_in(STUBBORN)
    executor = execution.LocalExecutor(dict(os.environ), 1)
    running, waiting = executor.submit(tmp_path), executor.submit(tmp_path)
    wait_for(tmp_path / "ready")
    started = time.monotonic()
    executor.close()
    assert time.monotonic() - started < 10
    assert running.done()
    assert waiting.cancelled()
    assert processes(str(tmp_path / "python")) == []


@pytest.mark.backend_free
def test_a_broken_worker_is_a_failed_cell_and_not_the_end(tmp_path):
    """As where Ray loses a machine: the future raises."""

    class Broken:
        def __init__(self):
            self.raised = [MemoryError("the node\nis full"), OSError("no more processes")]

        def submit(self, run):
            future = execution.Future()
            future.set_exception(self.raised.pop())
            return future

    failures = execution.run_cells(make_grid(tmp_path, "nearest", "fade"), tmp_path / "runs", Broken())
    assert failures == {
        "nearest-seed0": "OSError: no more processes",
        "fade-seed0": "MemoryError: the node\nis full",
    }
    assert json.loads((tmp_path / "runs" / "failures.json").read_text()) == failures


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
@pytest.mark.backend_free
def test_a_cell_ends_when_its_parent_is_killed(tmp_path):
    cell = "from unet.interrupts import listen_to_parent; import pathlib, time; listen_to_parent(); "
    cell += f"pathlib.Path({str(tmp_path / 'ready')!r}).touch(); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {cell!r}], start_new_session=True)"
    parent = f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGINT}}); {parent}"  # as Ray's do
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=ROOT, stderr=subprocess.DEVNULL)
    wait_for(tmp_path / "ready")
    process.kill()
    process.wait()
    limit = time.monotonic() + 10
    while processes(str(tmp_path)) and time.monotonic() < limit:
        time.sleep(0.05)
    assert processes(str(tmp_path)) == []


# === What went wrong, in a line ===


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("errors", "code", "expected"),
    [
        ("epoch 1/2  loss 0.1\nerror: the loss became NaN\n", 1, "the loss became NaN"),
        ("error: first\nnoise\nerror: data: two faults:\n  a.png\n  b.png\n", 2, "data: two faults:\na.png\nb.png"),
        ("Traceback (most recent call last):\n  File x\nKeyError: 'a'\n", 1, "KeyError: 'a'"),
        ("", 130, "stopped by Ctrl-C"),
        ("some warning\n", 130, "stopped by Ctrl-C"),
        ("", -9, "ended by SIGKILL (out of memory, probably)"),
        ("last words\n", -11, "ended by SIGSEGV"),
        ("", 3, "ended with exit code 3"),
        ("\n \n", 3, "ended with exit code 3"),
    ],
)
def test_the_reason_is_what_the_process_said_last(errors, code, expected):
    assert execution.reason(errors, code) == expected


# === Shares of the machine ===


def cores_of(shares) -> list[set[int]]:
    return [{int(core) for core in share["UNET_CORES"].split(",")} for share in shares]


@pytest.mark.backend_free
@pytest.mark.parametrize(("cores", "workers"), [(8, 2), (8, 3), (7, 7), (5, 4), (64, 3)])
def test_workers_on_a_cpu_share_its_cores_evenly_and_completely(monkeypatch, cores, workers):
    allowed = set(range(3, 3 + cores))  # not all of the machine's, as in a container
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: allowed, raising=False)
    own = cores_of(execution.shares({"CUDA_VISIBLE_DEVICES": ""}, workers))
    assert len(own) == workers
    assert set().union(*own) == allowed
    assert sum(map(len, own)) == cores  # so none is in two of them
    assert max(map(len, own)) - min(map(len, own)) <= 1


@pytest.mark.backend_free
def test_more_workers_than_cores_have_one_each(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    own = cores_of(execution.shares({"CUDA_VISIBLE_DEVICES": "-1"}, 5))
    assert [len(cores) for cores in own] == [1] * 5
    assert [own.count({core}) for core in (0, 1)] in ([3, 2], [2, 3])


@pytest.mark.backend_free
def test_one_worker_has_the_whole_machine(monkeypatch):
    monkeypatch.setattr(execution.shutil, "which", lambda name: None)
    assert list(execution.shares({}, 1)) == [{}]
    assert list(execution.shares({"CUDA_VISIBLE_DEVICES": "-1"}, 1)) == [{}]


@pytest.mark.backend_free
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not tie processes to cores")
def test_a_cell_keeps_to_its_cores():
    core = max(os.sched_getaffinity(0))
    code = (
        "import os; from unet.ablation.run.cell import stay_on_cores; stay_on_cores(); print(os.sched_getaffinity(0))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"UNET_CORES": str(core)},
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.strip() == str({core})


HALF = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.450", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
THIRD = HALF | {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.300"}


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("visible", "workers", "expected"),
    [
        ("0", 1, [("0", {})]),
        ("0", 3, [("0", THIRD)] * 3),
        ("2,5", 1, [("2", {})]),
        ("2, 5", 2, [("2", {}), ("5", {})]),
        ("2,5", 3, [("2", HALF), ("5", HALF), ("2", HALF)]),
        ("MIG-a,MIG-b", 4, [("MIG-a", HALF), ("MIG-b", HALF)] * 2),
    ],
)
def test_every_worker_has_a_gpu_or_its_part_of_one(visible, workers, expected):
    found = list(execution.shares({"CUDA_VISIBLE_DEVICES": visible}, workers))
    assert found == [{"CUDA_VISIBLE_DEVICES": gpu} | share for gpu, share in expected]


@pytest.mark.backend_free
def test_gpus_are_those_that_nvidia_smi_lists(tmp_path, monkeypatch):
    listing = (
        "GPU 0: NVIDIA H200 (UUID: GPU-1)\n  MIG 1g.18gb Device 0: (UUID: MIG-1)\nGPU 1: NVIDIA H200 (UUID: GPU-2)"
    )
    script(tmp_path / "nvidia-smi", f"print({listing!r})")
    monkeypatch.setenv("PATH", str(tmp_path))
    environment = {"PATH": str(tmp_path)}
    devices = [share["CUDA_VISIBLE_DEVICES"] for share in execution.shares(environment, 3)]
    assert devices == ["0", "1", "0"]
    assert all("CUDA_VISIBLE_DEVICES" not in share for share in execution.shares({"JAX_PLATFORMS": "cpu"}, 2))
    script(tmp_path / "nvidia-smi", "import sys; print('no driver'); sys.exit(9)")
    assert list(execution.shares(environment, 1)) == [{}]


# === Ray ===


@pytest.fixture
def ray():
    return pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")


def children() -> list[str]:
    """Names of the processes that this one has started."""
    listed = subprocess.run(["ps", "-ww", "-eo", "ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=1) for line in listed.splitlines()[1:]]
    return [args for parent, args in rows if parent == str(os.getpid()) and "ppid,args" not in args]


def test_ray_on_this_machine_finds_what_the_local_processes_find(ray, attempts, tmp_path):
    cells = make_grid(tmp_path, "carafe", FAILING)
    executor = execution.RayExecutor(os.environ | ENVIRONMENT)
    with contextlib.closing(executor):
        assert any("raylet" in child for child in children())
        failures = execution.run_cells(cells, tmp_path / "runs", executor)
    assert not [child for child in children() if "raylet" in child or "gcs_server" in child]
    assert not ray.is_initialized()
    _, second = attempts
    assert failures == second.failures
    assert_same_results(Run(second.root / "carafe-seed0"), Run(tmp_path / "runs" / "carafe-seed0"))


def test_ray_asks_cells_to_stop_and_starts_no_other(ray, tmp_path):
    cells = make_grid(tmp_path, "nearest", "bilinear")
    long = [
        cell.config.model_copy(update={"training": cell.config.training.model_copy(update={"epochs": 2000})})
        for cell in cells.cells
    ]
    first, second = (Run.create(config, tmp_path / "runs") for config in long)
    executor = execution.RayExecutor(os.environ | ENVIRONMENT)
    with contextlib.closing(executor):
        running, waiting = executor.submit(first.path), executor.submit(second.path)
        wait_for(first.last_file)
        executor.stop()
        assert running.result(timeout=30) == "stopped by Ctrl-C"
        with pytest.raises(ray.exceptions.TaskCancelledError):
            waiting.result(timeout=30)
    assert not (second.path / "log.txt").exists()
    assert processes(str(tmp_path)) == []


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "no-such-host.invalid:6379", "nonsense"])
def test_a_cluster_that_does_not_answer_is_told_at_once(ray, address):
    started = time.monotonic()
    with pytest.raises(InputError, match=f"--address: no Ray cluster answers at {address}: "):
        execution.RayExecutor(dict(os.environ), address)
    assert time.monotonic() - started < 30


@pytest.mark.backend_free
def test_a_missing_ray_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match="Ray is not installed: pip install"):
        execution.RayExecutor(dict(os.environ))
