"""Compare finished runs."""

from pathlib import Path
from typing import Annotated

import typer

from unet import backend


def main(
    paths: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run directories, trained to their end.")],
    output: Annotated[Path, typer.Option(help="Directory to write the report to.")] = Path("runs/comparison"),
    baseline: Annotated[
        str | None, typer.Option(help="Variant to compare with, as nearest; default: the first.")
    ] = None,
):
    """Write the report of an ablation for any finished runs: statistics, costs and pictures, side by side.

    Runs that differ only in their seed are repetitions of one variant. What has not been measured yet is.

    unet compare runs/pets_nearest runs/pets_carafe
    """
    environment = backend.use_backend_without_devices()

    from unet.ablation.report import page as report
    from unet.ablation.run import execution
    from unet.runs import Run

    runs = [Run.open(path) for path in paths]
    execution.complete(runs, environment)
    report.write(runs, output, output.name, baseline, environment)
    print(f"report: {output / 'report.html'}")
