"""The command ``unet compare``."""

from pathlib import Path
from typing import Annotated

import typer


def main(
    paths: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Directories of trained runs.")],
    output: Annotated[Path, typer.Option(help="Directory of the report.")] = Path("runs/comparison"),
    baseline: Annotated[
        str | None, typer.Option(help="Variant that the others are compared with, such as nearest; default: the first.")
    ] = None,
):
    """Write the report of an ablation for any trained runs: statistics, costs and pictures.

    Runs that differ only in their seed are repetitions of one variant. Whatever has not been measured yet is measured.

    unet compare runs/pets_nearest runs/pets_carafe
    """
    from unet import backend
    from unet.ablation.run.finished import arrange
    from unet.console import say
    from unet.runs import Run

    runs = arrange([Run.open(path) for path in paths])
    runs.check_baseline(baseline)
    environment = backend.use_backend_without_devices()

    from unet.ablation.report import page
    from unet.ablation.run.cells import finish
    from unet.ablation.run.measurements import measure

    finish(list(runs.runs.values()), environment)
    page.write(runs, measure(runs, output, environment), output, output.name, baseline)
    say(f"report: {output / 'report.html'}")
