"""Train a configuration, or go on with a run."""

from pathlib import Path
from typing import Annotated

import typer

from unet import backend


def main(
    what: Annotated[
        Path, typer.Argument(metavar="CONFIG_OR_RUN", help="A YAML file, or a run directory to go on with.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="As training.epochs=8.")
    ] = None,
    root: Annotated[Path, typer.Option(help="Directory of the run directories.")] = Path("runs"),
):
    """Train CONFIG into runs/NAME, or go on with a run directory.

    An interrupted run goes on where it stopped when the same command is given again.

    unet train configs/pets.yaml model.upsampler=bilinear name=pets_bilinear
    """
    backend.use_backend()
    from unet import config
    from unet.errors import InputError
    from unet.runs import Run
    from unet.training import train

    if what.is_dir():
        if overrides:
            raise InputError(
                f"{what} is a run with its own configuration: overrides such as {overrides[0]} need a YAML file"
            )
        run = Run.open(what)
    else:
        run = Run.create(config.load(what, overrides or ()), root)
    try:
        train(run)
    except KeyboardInterrupt:
        print(f"resume with: unet train {run.path}")
        raise
    print(f"next: unet evaluate {run.path}")
