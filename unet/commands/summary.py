"""Show what a configuration's network costs, stage by stage."""

from pathlib import Path
from typing import Annotated

import typer

from unet import backend


def main(
    path: Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="As model.width=16.")] = None,
):
    """Print parameters, multiply-adds, activation memory and output shape of every stage, for one image.

    unet summary configs/pets.yaml model.upsampler=max_unpool
    """
    backend.use_backend()
    from unet import config, cost, data
    from unet.model import from_config
    from unet.tables import cost_table

    loaded = config.load(path, overrides or ())
    classes = data.class_names(loaded.data)
    network = from_config(loaded, len(classes), fixed_size=True)
    height, width = loaded.data.size
    upsampler = loaded.model.upsampler.name
    cost_table(cost.stages(network), f"{loaded.name}: {upsampler}, {height}×{width}, {len(classes)} classes")
