"""The command ``unet summary``."""

from pathlib import Path
from typing import Annotated

import typer

from unet.commands._arguments import Configuration, Overrides

SAMPLES = 8
"""Images in a row of the picture of augmentations."""
OPACITY = 0.15
"""Opacity of the masks, which must not hide changes of colour."""


def main(
    path: Configuration,
    overrides: Overrides = None,
    augmentations: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png", help="Also draw training images under every augmentation of CONFIG, and under all."
        ),
    ] = None,
):
    """Print parameters, multiply-adds, activation memory and output shape of every stage, for one image.

    unet summary pets model.upsampler=max_unpool

    unet summary runs/pets

    unet summary mine.yaml augmentation.rotation=15 --augmentations samples.png
    """
    from unet import config
    from unet.backend import use_backend
    from unet.errors import InputError, shortened

    if augmentations is not None and augmentations.suffix.lower() != ".png":
        raise InputError(f"must end in .png, received {shortened(str(augmentations))}", "augmentations")
    loaded = config.load(path, overrides or ())
    use_backend()
    from unet import cost, data
    from unet.model import from_config
    from unet.tables import cost_table

    trained = (path / "config.yaml").is_file()  # then its data may have moved
    classes = data.recorded_class_names(loaded.data) if trained else data.class_names(loaded.data)
    network = from_config(loaded, len(classes), fixed_size=True)
    height, width = loaded.data.size
    kind = "labels" if loaded.model.head == "labels" else "classes"
    parts = f"{loaded.model.encoder}, {loaded.model.upsampler.name}"
    cost_table(cost.stages(network), f"{loaded.name}: {parts}, {height}×{width}, {len(classes)} {kind}")
    if augmentations is not None:
        _draw_augmentations(loaded, augmentations)


def _draw_augmentations(config, path: Path) -> None:
    """Write a picture of training images: as they are, under each augmentation alone, and under all together."""
    import keras
    import numpy as np

    from unet import data, figures
    from unet.colours import chosen_colours
    from unet.console import say
    from unet.data.augmentation import COLOURS, OFF, Augmentation
    from unet.data.heads import head_of

    dataset = data.prepare(config.data)
    chosen = np.linspace(0, len(dataset.train) - 1, min(SAMPLES, len(dataset.train))).astype(int)
    images, masks = dataset.train.read(chosen)
    settings = config.augmentation.model_dump()
    without_effect = () if config.data.is_rgb else COLOURS
    active = {name: value for name, value in settings.items() if value != OFF[name] and name not in without_effect}
    moments = None if config.data.is_rgb else dataset.train.moments()
    shown = {"as they are": {}} | {f"{name}: {_text(value)}": {name: value} for name, value in active.items()}
    if len(active) > 1:
        shown["all together"] = active
    examples: list[tuple[str, np.ndarray, np.ndarray]] = []
    for title, changes in shown.items():
        augmented = Augmentation(**OFF | changes, seed=config.seed, moments=moments)(images, masks)
        titles = [title] + [""] * (len(chosen) - 1)
        changed, ids = map(keras.ops.convert_to_numpy, augmented)
        examples += zip(titles, changed.astype(images.dtype), ids.astype("uint8"), strict=True)
    head = head_of(config.model.head)
    table = head.table(chosen_colours(dataset.classes, config.data.colors or {}))
    picture = figures.contact_sheet(examples, dataset.classes, table, columns=len(chosen), opacity=OPACITY, head=head)
    figures.save_picture(picture, path)
    say(f"augmentations: {path}")


def _text(value) -> str:
    return " to ".join(f"{number:g}" for number in value) if isinstance(value, tuple) else f"{value:g}"
