"""Run all cells of a grid, each in a process of its own, on this machine or on a Ray cluster."""

import contextlib
import json
import logging
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Protocol

from rich.progress import TextColumn

from unet.ablation.plan.grid import Grid
from unet.ablation.run import cell
from unet.console import bar, console, track
from unet.errors import InputError, RunError
from unet.files import write_json
from unet.runs import Run
from unet.training import is_trained

log = logging.getLogger("unet")

PROJECT = {"PYTHONPATH": str(Path(__file__).parents[3])}
"""Where processes find this package, however it was started."""
POLL_SECONDS = 1.0
ESTIMATE_SECONDS = 3600.0
"""The time left is estimated from the speed of the last hour; cells tell their epochs seldom and in lumps."""


class Executor(Protocol):
    """Where cells run."""

    def submit(self, run: Path) -> Future:
        """Start work on a run directory soon; the result is what went wrong, or ``None``."""

    def stop(self) -> None:
        """Start nothing more, and ask what is running to stop after its step; called again, end it at once."""

    def close(self) -> None:
        """Leave nothing running of what was started."""


def run_cells(grid: Grid, root: Path, executor: Executor) -> dict[str, str]:
    """Bring every cell to its end; what has been done before is not done again.

    Args:
        grid: The cells.
        root: Directory of the grid's run directories; ``failures.json`` there names the cells that failed.
        executor: Where they run.

    Returns:
        Reason by name of the run that failed; the others are finished.

    Raises:
        InputError: A run directory belongs to another configuration.
        KeyboardInterrupt: Ctrl-C, after all running cells have stopped; the same call goes on.
    """
    runs = {grid_cell.config.name: Run.create(grid_cell.config, root) for grid_cell in grid.cells}
    waiting = [grid_cell for grid_cell in grid.cells if not cell.is_finished(runs[grid_cell.config.name])]
    log.info("%s: %d cells, %d of them finished before", root, len(grid.cells), len(grid.cells) - len(waiting))
    failures: dict[str, str] = {}
    failures_file = root / "failures.json"
    failures_file.unlink(missing_ok=True)  # what failed before is tried again
    total = sum(grid_cell.config.training.epochs for grid_cell in grid.cells)
    futures = {executor.submit(runs[one.config.name].path): one for one in waiting}
    finished = [one for one in grid.cells if one not in waiting]
    columns = [TextColumn("{task.fields[note]}")]

    def epochs_done() -> int:
        """What earlier calls and running cells have done; a cell writes down its epochs every few seconds."""
        begun = [one for one in grid.cells if one not in finished]
        done = sum(one.config.training.epochs for one in finished)
        return done + sum(len(runs[one.config.name].history()) for one in begun)

    options = {"transient": True, "disable": not console.is_terminal, "speed_estimate_period": ESTIMATE_SECONDS}
    try:
        with bar(*columns, **options) as progress:
            task = progress.add_task("epochs", total=total, completed=epochs_done(), note="")
            pending = set(futures)
            while pending:
                done, pending = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                for future in done:
                    one = futures[future]
                    run = runs[one.config.name]
                    if failure := _failure(future):
                        failures[one.config.name] = failure
                        write_json(failures_file, failures)
                        log.error("%s, seed %d failed: %s", one.variant, one.seed, failure)
                    else:
                        score = run.metrics()[cell.SPLIT]["mean_iou"]["dataset"]
                        log.info("%s, seed %d: mean IoU %.4f", one.variant, one.seed, score)
                    finished.append(one)
                note = f"{len(finished)}/{len(grid.cells)} cells" + (f", {len(failures)} failed" if failures else "")
                progress.update(task, completed=epochs_done(), note=note)
    except KeyboardInterrupt:
        log.warning("stopping after this step; Ctrl-C again stops at once")
        executor.stop()
        try:
            wait(futures)
        except KeyboardInterrupt:
            executor.stop()
            wait(futures)
        log.warning("stopped; the same command goes on")
        raise
    return failures


def _failure(future: Future) -> str | None:
    """What went wrong with a cell, be it that its worker is gone."""
    try:
        return future.result()
    except Exception as error:
        cause = getattr(error, "cause", None) or error  # Ray hands on what its worker raised
        return f"{type(cause).__name__}: {cause}"


def prepare_data(grid: Grid) -> None:
    """Decode the grid's data once, before several processes want them."""
    from unet import data  # brings Keras along, which Ray's workers need not load

    for config in {one.config.data.model_dump_json(): one.config.data for one in grid.cells}.values():
        data.prepare(config)


def finished_runs(grid: Grid, root: Path) -> list[Run]:
    """Run directories of the cells that are finished, in the grid's order."""
    runs = [Run(root / one.config.name) for one in grid.cells]
    return [run for run in runs if run.config_file.is_file() and cell.is_finished(run)]


def complete(runs: list[Run], environment: dict[str, str]) -> None:
    """Measure what an ablation's cells have and these trained runs lack.

    Raises:
        InputError: A run is not trained to its end.
        RunError: A measurement failed.
    """
    missing = [run for run in runs if not cell.is_finished(run)]
    for run in missing:
        if not is_trained(run):
            raise InputError(f"{run.path} is not trained to its end; go on: unet train {run.path}")
    with contextlib.closing(LocalExecutor(environment)) as executor:
        for run in track(missing, len(missing), "measuring"):
            if problem := executor.submit(run.path).result():
                raise RunError(f"{run.path}: {problem}")


class LocalExecutor:
    """Processes on this machine, at most ``workers`` at once, each with a device or a share of the cores of its own.

    On a CPU the last bits of a result depend on the number of cores, and so on the number of workers.

    Args:
        environment: Of the processes; the devices are taken from its CUDA_VISIBLE_DEVICES or from ``nvidia-smi``.
        workers: How many at once. More than there are GPUs share them.
    """

    def __init__(self, environment: dict[str, str], workers: int = 1):
        self._slots: queue.Queue[dict[str, str]] = queue.Queue()
        for share in shares(environment, workers):
            self._slots.put(environment | share)
        self._threads = ThreadPoolExecutor(workers)
        self._presses: list[str] = []

    def submit(self, run: Path) -> Future:
        """Queue a cell."""
        return self._threads.submit(self._work, run)

    def stop(self) -> None:
        """Send all processes what Ctrl-C sends; a second call kills them."""
        self._presses.append("Ctrl-C")

    def close(self) -> None:
        """Kill what still runs, and wait for its end."""
        self._presses += ["close", "close"]
        self._threads.shutdown(cancel_futures=True)

    def _work(self, run: Path) -> str | None:
        if self._presses:
            return "not started"
        slot = self._slots.get()
        try:
            return run_process(run, slot, self._presses)
        finally:
            self._slots.put(slot)


class RayExecutor:
    """Tasks on a Ray cluster whose machines share the file system with this one, and have the project at one path.

    Args:
        environment: KERAS_BACKEND and what else the processes need.
        address: Of the cluster, ``host:port``; default: RAY_ADDRESS, else one is started on this machine.
        workers: How many cells at once on each GPU of the cluster or, if it has none, on each of its machines.

    Raises:
        InputError: Ray is not installed, or no cluster answers at the address.
    """

    def __init__(self, environment: dict[str, str], address: str | None = None, workers: int = 1):
        try:
            import ray
        except ImportError:
            raise InputError("--executor ray: Ray is not installed: pip install '.[ray]'") from None
        self._ray = ray
        address = address or environment.get("RAY_ADDRESS")
        _check_answers(address)
        try:
            with _devices_of(environment):
                ray.init(
                    address=address or "local",
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    include_dashboard=False if address is None else None,
                )
        except (ConnectionError, ValueError) as error:
            hint = "; a cluster with token authentication needs RAY_AUTH_MODE=token" if address else ""
            raise InputError(f"--address: no Ray cluster answers at {address}: {error}{hint}") from None
        kept = ("KERAS_BACKEND", "UNET_CACHE", "JAX_PLATFORMS")
        self._environment = {key: environment[key] for key in kept if key in environment}
        if ray.cluster_resources().get("GPU"):
            share: dict[str, Any] = {"num_gpus": 1 / workers}
            self._environment |= _memory_share(workers)
        else:
            cores = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
            share = {"num_cpus": max(1, int(min(filter(None, cores), default=1)) // workers)}
        self._task = ray.remote(max_retries=0, **share)(_ray_task)
        self._references: list = []

    def submit(self, run: Path) -> Future:
        """Queue a cell."""
        reference = self._task.remote(str(run.absolute()), self._environment)
        self._references.append(reference)
        return reference.future()

    def stop(self) -> None:
        """Cancel all tasks, which end their processes as Ctrl-C would; a second call kills them."""
        for reference in self._references:
            self._ray.cancel(reference)

    def close(self) -> None:
        """Leave the cluster, which ends the tasks that still run; one that was started here ends too."""
        self._ray.shutdown()


def _check_answers(address: str | None) -> None:
    """Whether anything listens there: Ray itself would try for two minutes, and then end the process."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise InputError(f"--address: no Ray cluster answers at {address}: {error}") from None


@contextlib.contextmanager
def _devices_of(environment: dict[str, str]) -> Iterator[None]:
    """Give this process, for a while, the devices of the cells' environment, which a Ray started here then finds."""
    keys = ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS")
    before = {key: os.environ.pop(key) for key in keys if key in os.environ}
    os.environ.update({key: environment[key] for key in keys if key in environment})
    try:
        yield
    finally:
        for key in keys:
            os.environ.pop(key, None)
        os.environ.update(before)


def _ray_task(run: str, environment: dict[str, str]) -> str | None:
    """What a Ray worker does; Ray has set CUDA_VISIBLE_DEVICES for it."""
    if not (Path(run) / "config.yaml").is_file():
        return f"{run} is not visible on {os.uname().nodename}: the machines must share the file system"
    return run_process(Path(run), dict(os.environ) | environment, [])


def run_process(run: Path, environment: dict[str, str], presses: list[str]) -> str | None:
    """Work on a run directory in a new process; return what went wrong, or ``None``.

    The process is interrupted when ``presses`` comes to have an element, and killed when it has a second one; it loses
    nothing by that, as every file appears whole or not at all.
    """
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "unet.ablation.run.cell", str(run)],
            env=environment | PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,  # so that the terminal's Ctrl-C reaches it through ``presses`` alone
        )
        sent = 0
        while True:
            try:
                process.wait(0.2)
                break
            except subprocess.TimeoutExpired:
                pass
            except KeyboardInterrupt:  # what Ray cancels a task with
                presses.append("cancelled")
            if sent < len(presses):
                if sent:
                    process.kill()
                else:
                    process.send_signal(signal.SIGINT)
                sent += 1
        if process.returncode == 0:
            return None
        errors.seek(0)
        return reason(errors.read(), process.returncode)


def reason(errors: str, code: int) -> str:
    """What a process that ended with ``code`` said about it on standard error."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    starts = [index for index, line in enumerate(lines) if line.startswith("error: ")]
    if starts:
        return "\n".join(lines[starts[-1] :]).removeprefix("error: ")
    if code == 130:
        return "stopped by Ctrl-C"
    if code < 0:
        name = signal.Signals(-code).name
        memory = " (out of memory, probably)" if name == "SIGKILL" else ""
        return f"ended by {name}{memory}"
    return lines[-1] if lines else f"ended with exit code {code}"


def shares(environment: dict[str, str], workers: int) -> Iterator[dict[str, str]]:
    """Environment variables that give each of ``workers`` processes its own device, or its part of one."""
    gpus = _gpus(environment)
    if gpus:
        together = -(-workers // len(gpus))
        for index in range(workers):
            yield {"CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]} | _memory_share(together)
        return
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    for index in range(workers):
        start, end = (edge * len(cores) // workers for edge in (index, index + 1))
        own = cores[start : max(end, start + 1)]  # more workers than cores share them
        yield {"UNET_CORES": ",".join(map(str, own))} if workers > 1 and own else {}


def _memory_share(together: int) -> dict[str, str]:
    """Environment variables for processes that share a GPU: JAX and TensorFlow would each take all of its memory."""
    if together == 1:
        return {}
    return {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / together:.3f}", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}


def _gpus(environment: dict[str, str]) -> list[str]:
    """Indices of the NVIDIA GPUs that the backend may use."""
    if "CUDA_VISIBLE_DEVICES" in environment:
        named = [name.strip() for name in environment["CUDA_VISIBLE_DEVICES"].split(",")]
        return [name for name in named if name not in ("", "-1")]
    if environment.get("JAX_PLATFORMS") == "cpu" or not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, env=environment)
    count = sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
    return [str(index) for index in range(count)]


def measure(what: str, runs: dict[str, Run], output: Path, environment: dict[str, str]) -> dict:
    """Call a function of :mod:`unet.ablation.run.timing` in a process of its own, with the device.

    Raises:
        RunError: The process failed; the message is its own.
    """
    process = subprocess.run(
        [sys.executable, "-m", "unet.ablation.run.timing", what, str(output)],
        input=json.dumps({variant: str(run.path) for variant, run in runs.items()}),
        env=environment | PROJECT,
        text=True,
        stderr=None if console.is_terminal else subprocess.PIPE,
    )
    if process.returncode:
        raise RunError(f"measuring {what} failed: {reason(process.stderr or '', process.returncode)}")
    return json.loads(output.read_text(encoding="utf-8"))
