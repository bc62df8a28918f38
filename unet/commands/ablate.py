"""Compare upsamplers: train every cell of a grid, then report."""

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from unet import backend


def main(
    path: Annotated[Path, typer.Argument(metavar="GRID", help="A YAML file, as configs/ablation/upsamplers.yaml.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="For all cells, as training.epochs=8, or vary.seed=[0,1]."),
    ] = None,
    root: Annotated[Path, typer.Option(help="Directory of the ablation's own directory.")] = Path("runs"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show cells, costs and time; train nothing.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Cells at once; ray: on each GPU, else each machine.")] = 1,
    executor: Annotated[str, typer.Option(help="local, or ray: pip install '.[ray]'.")] = "local",
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster; default: RAY_ADDRESS, else start one here.")
    ] = None,
):
    """Train every cell of GRID into runs/NAME and write report.html there. What is finished is not done again.

    unet ablate configs/ablation/upsamplers.yaml --dry-run
    """
    from unet.errors import InputError, RunError, nearest

    executors = ("local", "ray")
    if executor not in executors:
        raise InputError(f"--executor: {executor!r} is not one of local, ray{nearest(executor, executors)}")
    environment = backend.use_backend_without_devices()

    from unet.ablation.plan import dry_run as plan
    from unet.ablation.plan import grid
    from unet.ablation.report import page as report
    from unet.ablation.run import execution
    from unet.runs import logging_to

    loaded = grid.load(path, overrides or ())
    directory = root / loaded.name
    if dry_run:
        plan.show(loaded, directory, environment, workers)
        return
    with logging_to(directory / "log.txt"):
        execution.prepare_data(loaded)
        local = executor == "local"
        chosen = (
            execution.LocalExecutor(environment, workers)
            if local
            else execution.RayExecutor(environment, address, workers)
        )
        with contextlib.closing(chosen):
            failures = execution.run_cells(loaded, directory, chosen)
        runs = execution.finished_runs(loaded, directory)
        try:
            report.write(runs, directory, loaded.name, loaded.baseline, environment, failures)
        except InputError as error:
            if not failures:
                raise
            share = f"{len(failures)} of {len(loaded.cells)} cells"
            raise RunError(f"{share} failed, and the others cannot be compared: {error}") from None
    print(f"report: {directory / 'report.html'}")
    if failures:
        raise RunError(f"{len(failures)} of {len(loaded.cells)} cells failed; the report is about the others")
