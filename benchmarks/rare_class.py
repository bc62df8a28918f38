"""What helps a rare class: ``python -m benchmarks.rare_class``.

Scenes are drawn: stones on the ground, and rarely a piece of ore, which differs from a stone by its tint alone, and not
always clearly. A small U-Net is trained on windows of them with each remedy for rare classes. When all runs have
finished, docs/results/rare_class.json and rare_class.md are written; an interrupted measurement resumes.
"""

import os
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from scipy import ndimage

from benchmarks.runs import measure, score_table, seeds_text, write_results
from unet import console
from unet.console import say
from unet.files import temporary_folder

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "rare_class"
BASE = "pets_cpu"
CLASSES = ("ground", "stone", "ore")
SIDE = 256
"""Height and width of a scene in pixels."""
SCENES = {"train": 96, "test": 64}
STONES, PIECES = 54, 1.7
"""Stones in a scene, and pieces of ore on average: 10 % and 0.3 % of the pixels."""
RADIUS = (4, 8)
"""Range of the radius of both in pixels."""
TINT, SPREAD = 28, 8
"""Mean tint of ore, and standard deviation of the tint of ore and stones, whose mean is 0, in grey levels of red."""
NOISE = 6
"""Standard deviation of every pixel, in grey levels."""

SETTINGS = (
    *("data.source=folder", "data.size=64", "data.sampling=crop", "data.windows=8", "data.validation=0.25"),
    f"data.folder.classes=[{', '.join(CLASSES)}]",
    *(f"data.folder.{split}={{images: {split}/images, masks: {split}/masks}}" for split in SCENES),
    *("augmentation.scale=[1, 1]", "augmentation.ratio=[1, 1]", "augmentation.vertical_flip=0.5"),
    *("augmentation.brightness=0", "augmentation.contrast=0", "augmentation.saturation=0"),
    *("model.width=8", "model.depth=2", "model.block=plain", "loss.dice=0", "training.epochs=16"),
)
WEIGHTS, SAMPLING, HARDEST = "loss.class_weights=auto", "data.sampling_weights={ore: 0.5}", "loss.hardest=0.25"
VARIANTS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "plain, twice as long": ("training.epochs=32",),
    "class weights": (WEIGHTS,),
    "sampling weights": (SAMPLING,),
    "hardest": (HARDEST,),
    "sampling weights and class weights": (SAMPLING, WEIGHTS),
    "sampling weights and hardest": (SAMPLING, HARDEST),
}


def main(
    settings: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings of all runs.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 3,
    root: Annotated[Path, typer.Option(help="Directory of the scenes and the runs.")] = Path("runs/rare_class"),
    output: Annotated[Path, typer.Option(help="Files that are written, without ending.")] = RESULTS,
):
    """Train and score every variant with every seed, then write the table. About ten minutes of two CPU cores."""
    scenes = root / "scenes"
    draw_scenes(scenes)
    place = f"data.data_dir={scenes.absolute()}"
    variants = {name: (*SETTINGS, *own) for name, own in VARIANTS.items()}
    scores = measure(BASE, variants, [place, *(settings or [])], seeds, root, native=False)
    found = {
        "base": BASE,
        "settings": [*SETTINGS, *(settings or [])],
        "variants": VARIANTS,
        "share": ore_share(scenes / "test" / "masks"),
        "scores": scores,
    }
    write_results(output, found, as_markdown(found))
    say(f"results: {output.with_suffix('.md')}")


def draw_scenes(folder: Path) -> None:
    """Write all scenes, unless they are there: ``SPLIT/images/N.png`` and ``SPLIT/masks/N.png``."""
    if folder.exists():
        return
    with temporary_folder(folder.parent) as temporary:
        for split_index, (split, count) in enumerate(SCENES.items()):
            for kind in ("images", "masks"):
                (temporary / "new" / split / kind).mkdir(parents=True)
            for index in range(count):
                image, mask = draw_scene(np.random.default_rng((split_index, index)))
                for kind, pixels in (("images", image), ("masks", mask)):
                    Image.fromarray(pixels).save(temporary / "new" / split / kind / f"{index:03d}.png")
        os.replace(temporary / "new", folder)


def draw_scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one scene: image uint8 ``(256, 256, 3)`` and mask uint8 ``(256, 256)`` with the ids of ``CLASSES``."""
    light = ndimage.gaussian_filter(rng.normal(0, 1, (SIDE, SIDE)), 12)
    image = np.repeat(110 + 15 * (light / light.std())[..., None], 3, axis=2)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    y, x = np.mgrid[:SIDE, :SIDE]
    for index in [1] * STONES + [2] * rng.poisson(PIECES):
        radius, (row, column) = rng.uniform(*RADIUS), rng.uniform(0, SIDE, 2)
        inside = (y - row) ** 2 + (x - column) ** 2 <= radius**2
        tint = rng.normal(TINT if index == 2 else 0, SPREAD)
        image[inside] = rng.uniform(140, 190) + np.array([tint, 0, -tint])
        mask[inside] = index
    return np.clip(image + rng.normal(0, NOISE, image.shape), 0, 255).astype(np.uint8), mask


def ore_share(masks: Path) -> float:
    """Share of the pixels of all masks in a folder that are ore."""
    return float(np.mean([np.mean(np.asarray(Image.open(path)) == 2) for path in sorted(masks.iterdir())]))


def as_markdown(found: dict) -> str:
    """The text of docs/results/rare_class.md."""
    columns = {
        "IoU ore": lambda scores: scores["iou"]["ore"]["dataset"],
        "precision ore": lambda scores: scores["precision"]["ore"]["dataset"],
        "recall ore": lambda scores: scores["recall"]["ore"]["dataset"],
        "IoU stone": lambda scores: scores["iou"]["stone"]["dataset"],
        "mean IoU": lambda scores: scores["mean_iou"]["dataset"],
    }
    variants = "\n".join(
        f"- {name}: {', '.join(f'`{setting}`' for setting in own)}" for name, own in found["variants"].items() if own
    )
    table = score_table(columns, found["scores"])
    seeds = len(found["scores"]["plain"])
    return f"""# A rare class

Written by `python -m benchmarks.rare_class`. {SCENES["test"]} test scenes of {SIDE}×{SIDE} pixels have {STONES} stones
each. {found["share"]:.2%} of their pixels are ore, which differs from stone by its tint alone. The tints overlap: no
network finds all ore without taking some stones for ore. All runs: `{found["base"]}` with
{", ".join(f"`{setting}`" for setting in found["settings"])}.

{variants}

Scores of whole test scenes, in overlapping tiles (`unet evaluate RUN`). {seeds_text(seeds)}
The second row shows whether the first had been trained for long enough.

{table}
"""


if __name__ == "__main__":
    console.run(lambda: typer.run(main))
