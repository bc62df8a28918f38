"""The command ``unet train``."""

from pathlib import Path
from typing import Annotated

import typer

from unet.commands._arguments import Address, Executor, check_executor, configurations, settings


def main(
    what: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG_OR_RUN",
            help="A YAML file, the name of a shipped one, or a run directory to resume.",
            autocompletion=configurations,
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE", help="Settings to change, as in training.epochs=8.", autocompletion=settings
        ),
    ] = None,
    root: Annotated[Path, typer.Option(help="Directory that holds the run directories.")] = Path("runs"),
    executor: Executor = "local",
    address: Address = None,
):
    """Train CONFIG into runs/NAME, or resume a run.

    The same command resumes an interrupted run from its last checkpoint. If the data have moved since,
    add data.data_dir=NEW.

    unet train pets model.upsampler=bilinear name=pets_bilinear

    unet train runs/pets_bilinear
    """
    from unet import cluster, config
    from unet.backend import use_backend, use_backend_without_devices
    from unet.console import say
    from unet.runs import Run

    check_executor(executor)
    resumed = (what / "config.yaml").is_file() or (what.is_dir() and config.shipped.find(what) is None)
    if resumed:
        moved = tuple(overrides or ())
        configuration = config.with_data_at(Run.open(what).config, moved)  # a mistake is reported before Keras comes
    else:
        moved = ()
        configuration = config.load(what, overrides or ())
    if executor == "ray":
        from unet.cluster import ray

        arguments = [str(what), *(overrides or ()), f"--root={root}"]
        ray.train(arguments, configuration, use_backend_without_devices(), address)
        return
    with cluster.joined(configuration, lambda: Run.open(what) if resumed else Run.create(configuration, root)) as run:
        use_backend()
        from unet.training import train

        try:
            train(run, moved)
        except (KeyboardInterrupt, SystemExit):
            say(f"resume with: unet train {run.path}")
            raise
        say(f"next: unet evaluate {run.path}")
        say(f"      unet predict {run.path} IMAGES")
