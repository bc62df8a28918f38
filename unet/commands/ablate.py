"""The command ``unet ablate``."""

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from unet.commands._arguments import Address, Executor, check_executor, configurations, settings


def main(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="GRID",
            help="YAML file of a grid, or the name of a shipped one, such as ablation/upsamplers.",
            autocompletion=configurations,
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Settings of all cells, as in training.epochs=8, or of the grid, as in vary.seed=[0,1].",
            autocompletion=settings,
        ),
    ] = None,
    root: Annotated[Path, typer.Option(help="Directory that holds the ablation's directory.")] = Path("runs"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show cells, costs and an estimate of the time; train nothing.")
    ] = False,
    measure_each: Annotated[
        bool,
        typer.Option("--measure", help="With --dry-run: time every variant for a better estimate."),
    ] = False,
    workers: Annotated[
        int, typer.Option(min=1, help="Cells that run at the same time; with ray, on each GPU or else each machine.")
    ] = 1,
    executor: Executor = "local",
    address: Address = None,
):
    """Train every cell of GRID in runs/NAME and write report.html there. Finished cells are not trained again.

    unet ablate ablation/upsamplers --dry-run
    """
    from unet import backend
    from unet.ablation.plan import grid
    from unet.console import say
    from unet.errors import InputError, RunError
    from unet.runs import logging_to

    check_executor(executor)
    if measure_each and not dry_run:
        raise InputError("is an option of --dry-run; add --dry-run or leave it out", argument="measure")
    cells = grid.load(path, overrides or ())
    directory = root / cells.name
    environment = backend.use_backend_without_devices()
    if dry_run:
        from unet.ablation.run.dry_run import show

        show(cells, directory, environment, workers, measure_each)
        return

    from unet.ablation.report import page
    from unet.ablation.run.cells import (
        check_weights,
        finished_runs,
        locked_directory,
        prepare_data,
        prepare_tracking,
        run_cells,
    )
    from unet.ablation.run.finished import arrange
    from unet.ablation.run.measurements import measure

    with locked_directory(directory), logging_to(directory / "log.txt"):
        prepare_tracking(cells)
        check_weights(cells, directory)
        prepare_data(cells)
        with contextlib.closing(_executor(executor, environment, workers, address)) as started:
            failures = run_cells(cells, directory, started)
        try:
            runs = arrange(finished_runs(cells, directory))
            page.write(runs, measure(runs, directory, environment), directory, cells.name, cells.baseline, failures)
        except InputError as error:
            if not failures:
                raise
            share = f"{len(failures)} of {len(cells.cells)} cells"
            raise RunError(f"{share} failed, and the others cannot be compared: {error}") from None
    say(f"report: {directory / 'report.html'}")
    if failures:
        raise RunError(f"{len(failures)} of {len(cells.cells)} cells failed; the report covers the others")


def _executor(name: str, environment: dict[str, str], workers: int, address: str | None):
    if name == "local":
        from unet.ablation.run.executors.local import LocalExecutor

        return LocalExecutor(environment, workers)
    from unet.ablation.run.executors.ray import RayExecutor

    return RayExecutor(environment, address, workers)
