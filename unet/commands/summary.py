"""The command ``unet summary``."""

from typing import Annotated

import typer

from unet.commands._arguments import Configuration, settings


def main(
    path: Configuration,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings to change, as in model.width=16.", autocompletion=settings),
    ] = None,
):
    """Print parameters, multiply-adds, activation memory and output shape of every stage, for one image.

    unet summary pets model.upsampler=max_unpool

    unet summary runs/pets
    """
    from unet import config
    from unet.backend import use_backend

    loaded = config.load(path, overrides or ())
    use_backend()
    from unet import cost, data
    from unet.model import from_config
    from unet.tables import cost_table

    trained = (path / "config.yaml").is_file()  # then its data may have moved
    classes = data.recorded_class_names(loaded.data) if trained else data.class_names(loaded.data)
    network = from_config(loaded, len(classes), fixed_size=True)
    height, width = loaded.data.size
    parts = f"{loaded.model.encoder}, {loaded.model.upsampler.name}"
    cost_table(cost.stages(network), f"{loaded.name}: {parts}, {height}×{width}, {len(classes)} classes")
