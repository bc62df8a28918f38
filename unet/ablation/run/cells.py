"""Finish all cells of a grid on an executor, and follow their progress."""

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path

from rich.progress import TextColumn

from unet import interrupts, tracking
from unet.ablation.plan.grid import Cell, Grid
from unet.ablation.run.executors import Executor
from unet.ablation.run.executors.local import LocalExecutor
from unet.ablation.run.finished import SPLIT, is_finished
from unet.console import bar, console, track
from unet.errors import InputError, RunError
from unet.files import locked, remove_unfinished, temporary_folder, write_json
from unet.runs import Run

log = logging.getLogger("unet")

POLL_SECONDS = 0.5
STOPPING_SECONDS = 60.0
ESTIMATE_SECONDS = 3600.0
"""The remaining time is estimated from the speed of the last hour: cells report epochs infrequently and in bursts."""


@contextlib.contextmanager
def locked_directory(root: Path) -> Iterator[None]:
    """Keep a second process from running the same grid.

    Args:
        root: Directory of the grid's run directories.

    Raises:
        InputError: Another process is running it.
        RunError: The directory cannot be written to.
    """
    with contextlib.ExitStack() as stack:
        try:
            with temporary_folder(root):  # makes the directory
                stack.enter_context(locked(root / ".lock", wait=False))
        except BlockingIOError:
            raise InputError(f"{root}: another unet ablate is running there; wait until it ends, or stop it") from None
        for folder in (root, root / "charts"):
            remove_unfinished(folder)
        yield


def run_cells(grid: Grid, root: Path, executor: Executor) -> dict[str, str]:
    """Finish every cell that is not finished yet.

    Args:
        grid: The cells.
        root: Directory of the grid's run directories. ``failures.json`` there lists the cells that failed.
        executor: Where the cells run.

    Returns:
        Why cells failed, by the name of their run; all other cells are finished.

    Raises:
        InputError: A run directory holds a run with another configuration.
        RunError: The executor can run no more cells.
        KeyboardInterrupt: Ctrl-C, after all running cells have stopped. The same call resumes them.
        SystemExit: SIGTERM or SIGHUP, likewise.
    """
    runs = {cell.config.name: Run.create(cell.config, root) for cell in grid.cells}
    for cell in grid.cells:
        tracking.label(runs[cell.config.name], ablation=grid.name, variant=cell.variant, seed=cell.seed)
    _wait_for_earlier_cells(runs.values())
    progress = _Progress(grid, runs, root / "failures.json")
    waiting = [cell for cell in grid.cells if cell not in progress.finished]
    log.info("%s: %d cells, %d of them already finished", root, len(grid.cells), len(progress.finished))
    stop_signals: list[int] = []

    def request_stop(number: int) -> None:
        stop_signals.append(number)
        log.warning("stopping after the current step; press Ctrl-C again to stop at once")

    with interrupts.stop_gracefully(request_stop), progress:
        pending = {executor.submit(runs[cell.config.name].path): cell for cell in waiting}
        while pending and not stop_signals:
            done, _ = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            if not stop_signals:  # otherwise a cell may have ended because it was stopped
                progress.update((pending.pop(future), future) for future in done)
        if stop_signals:
            executor.stop()
            wait(pending)
            log.warning("stopped; run the same command again to resume")
            raise interrupts.stopped_by(stop_signals[0])
    return progress.failures


def _wait_for_earlier_cells(runs: Iterable[Run]) -> None:
    """Wait for cells whose parent was killed: they stop after their step."""
    limit = time.monotonic() + STOPPING_SECONDS
    for run in runs:
        while time.monotonic() < limit:
            try:
                with run.locked():
                    break
            except InputError:
                time.sleep(POLL_SECONDS)


def check_weights(grid: Grid, root: Path) -> None:
    """Read the pretrained weights that cells will start from, and download them once, before several processes do.

    Those of cells with ``init_from`` are left to the cells, as they may not be needed.

    Raises:
        InputError: They cannot be had, or are those of another network.
    """
    from unet.encoders.weights import read_pretrained  # not needed by Ray's workers, which import this module

    new = (cell.config for cell in grid.cells if not Run(root / cell.config.name).last_file.exists())
    models = (config.model for config in new if config.init_from is None)
    for encoder, weights in dict.fromkeys((m.encoder, m.weights) for m in models if m.weights != "none"):
        read_pretrained(encoder, weights)


def prepare_tracking(grid: Grid) -> None:
    """Check that the cells can be tracked as configured, and make what they share, before several processes do.

    Raises:
        InputError: The service cannot be used.
    """
    for config in {cell.config.tracking: cell.config for cell in grid.cells}.values():
        tracking.prepare(config)


def prepare_data(grid: Grid) -> None:
    """Prepare the data of all cells, before several processes need them at the same time."""
    from unet import data  # not needed by Ray's workers, which import this module

    for config in {cell.config.data.model_dump_json(): cell.config.data for cell in grid.cells}.values():
        data.prepare(config)


def finished_runs(grid: Grid, root: Path) -> list[Run]:
    """Runs of the finished cells, in the order of the grid."""
    runs = [Run(root / cell.config.name) for cell in grid.cells]
    return [run for run in runs if run.config_file.is_file() and is_finished(run)]


def finish(runs: list[Run], environment: dict[str, str]) -> None:
    """Evaluate trained runs and measure their costs, where that has not been done yet.

    Args:
        runs: Trained runs.
        environment: Environment variables of the processes that do the work.

    Raises:
        InputError: A run has not been trained to its last epoch.
        RunError: A run could not be evaluated or measured.
    """
    unfinished = [run for run in runs if not is_finished(run)]
    if not unfinished:
        return
    from unet.training import is_trained

    for run in unfinished:
        if not is_trained(run):
            raise InputError(f"{run.path} has not been trained to its last epoch; resume it: unet train {run.path}")
    with interrupts.sigterm_as_exit(), contextlib.closing(LocalExecutor(environment)) as executor:
        for run in track(unfinished, len(unfinished), "measuring"):
            if problem := executor.submit(run.path).result():
                raise RunError(f"{run.path}: {problem}")


class _Progress:
    """Which cells have finished or failed, on the terminal and in failures.json."""

    def __init__(self, grid: Grid, runs: dict[str, Run], failures_file: Path):
        self.grid, self.runs, self.failures_file = grid, runs, failures_file
        self.finished = [cell for cell in grid.cells if is_finished(runs[cell.config.name])]
        self.failures: dict[str, str] = {}

    def __enter__(self):
        self.failures_file.unlink(missing_ok=True)  # cells that failed before are tried again
        self._bar = bar(
            TextColumn("{task.fields[note]}"),
            transient=True,
            disable=not console.is_terminal,
            speed_estimate_period=ESTIMATE_SECONDS,
        )
        self._bar.__enter__()
        total = sum(cell.config.training.epochs for cell in self.grid.cells)
        self._task = self._bar.add_task("epochs", total=total, completed=self._epochs(), note="")
        return self

    def __exit__(self, *exception):
        self._bar.__exit__(*exception)

    def update(self, ended: Iterable[tuple[Cell, Future]]) -> None:
        """Record cells that have ended, and show how far the others are."""
        for cell, future in ended:
            if failure := _failure(future):
                self.failures[cell.config.name] = failure
                write_json(self.failures_file, self.failures)
                log.error("%s, seed %d failed: %s", cell.variant, cell.seed, failure)
            else:
                score = self.runs[cell.config.name].metrics()[SPLIT]["mean_iou"]["dataset"]
                log.info("%s, seed %d: mean IoU %.4f", cell.variant, cell.seed, score)
            self.finished.append(cell)
        if console.is_terminal:
            note = f"{len(self.finished)}/{len(self.grid.cells)} cells"
            note += f", {len(self.failures)} failed" if self.failures else ""
            self._bar.update(self._task, completed=self._epochs(), note=note)

    def _epochs(self) -> int:
        """Epochs done by earlier calls and running cells; a cell records its epochs every few seconds."""
        return sum(
            cell.config.training.epochs if cell in self.finished else len(self.runs[cell.config.name].history())
            for cell in self.grid.cells
        )


def _failure(future: Future) -> str | None:
    """Why a cell failed, even if its worker has died; an error of the executor itself is raised."""
    try:
        return future.result()
    except RunError:
        raise
    except Exception as error:
        cause = getattr(error, "cause", None) or error  # Ray wraps what its worker raised
        return f"{type(cause).__name__}: {cause}"
