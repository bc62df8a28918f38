"""The command ``unet train``."""

from pathlib import Path
from typing import Annotated

import typer


def main(
    what: Annotated[
        Path,
        typer.Argument(metavar="CONFIG_OR_RUN", help="A YAML file, or the directory of an interrupted run to resume."),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings to change, as in training.epochs=8.")
    ] = None,
    root: Annotated[Path, typer.Option(help="Directory that holds the run directories.")] = Path("runs"),
):
    """Train CONFIG into runs/NAME, or resume a run.

    The same command resumes an interrupted run from its last checkpoint.

    unet train configs/pets.yaml model.upsampler=bilinear name=pets_bilinear
    """
    from unet import config
    from unet.backend import use_backend
    from unet.errors import InputError
    from unet.runs import Run

    if what.is_dir():
        run = Run.open(what)
        if overrides:
            raise InputError(f"{what} is a run with its own configuration: {overrides[0]} needs a YAML file")
    else:
        run = Run.create(config.load(what, overrides or ()), root)
    use_backend()
    from unet.training import train

    try:
        train(run)
    except KeyboardInterrupt:
        print(f"resume with: unet train {run.path}")
        raise
    print(f"next: unet evaluate {run.path}")
    print(f"      unet predict {run.path} IMAGES")
