"""Training on windows of photographs beside training on resized ones: ``python -m benchmarks.crops data.data_dir=DIR``.

DIR is the official archive of Oxford-IIIT Pets, or a part of it. Both networks start from the same pretrained encoder
and see equally many windows, or images, of the same number of pixels. Both are scored at the size of the photographs.
When all runs have finished, docs/results/crops.json and crops.md are written; an interrupted measurement resumes.
"""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.runs import measure, score_table, seeds_text, write_results
from unet import console
from unet.console import say

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "crops"
BASE = "pets_encoder"
SETTINGS = ("data.source=folder", "data.size=160", "model.encoder=efficientnet_lite0", "training.epochs=10")
VARIANTS: dict[str, tuple[str, ...]] = {
    "resize": (),
    "crop": ("data.sampling=crop", "data.scale=0.5", "augmentation.scale=[0.5, 2]"),
}


def main(
    settings: Annotated[
        list[str], typer.Argument(metavar="KEY=VALUE", help="Settings of all runs: data.data_dir=DIR.")
    ],
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 2,
    root: Annotated[Path, typer.Option(help="Directory of the runs.")] = Path("runs/crops"),
    output: Annotated[Path, typer.Option(help="Files that are written, without ending.")] = RESULTS,
):
    """Train and score every variant with every seed, then write the table. About ten minutes of two CPU cores."""
    variants = {name: (*SETTINGS, *own) for name, own in VARIANTS.items()}
    scores = measure(BASE, variants, settings, seeds, root, native=True)
    found = {"base": BASE, "settings": _public([*SETTINGS, *settings]), "variants": VARIANTS, "scores": scores}
    write_results(output, found, as_markdown(found))
    say(f"results: {output.with_suffix('.md')}")


def _public(settings: list[str]) -> list[str]:
    """Settings without places on this machine."""
    return [setting for setting in settings if not setting.startswith(("data.data_dir=", "data.cache_dir="))]


def as_markdown(found: dict) -> str:
    """The text of docs/results/crops.md."""
    columns = {
        "mean IoU": lambda scores: scores["mean_iou"]["dataset"],
        "IoU pet": lambda scores: scores["iou"]["pet"]["dataset"],
        "IoU border": lambda scores: scores["iou"]["border"]["dataset"],
        "mean Boundary IoU": lambda scores: scores["mean_boundary_iou"]["dataset"],
        "Boundary IoU border": lambda scores: scores["boundary_iou"]["border"]["dataset"],
    }
    table = score_table(columns, {f"`{name}`": scores for name, scores in found["scores"].items()})
    seeds, images = len(found["scores"]["resize"]), found["scores"]["resize"][0]["images"]
    variants = "\n".join(f"- `{name}`: {_listed(own)}" for name, own in found["variants"].items())
    return f"""# Windows of photographs, and resized photographs

Written by `python -m benchmarks.crops data.data_dir=DIR` with a part of the official archive of Oxford-IIIT Pets:
{images} test photographs. All runs: `{found["base"]}` with
{_listed(found["settings"])}.

{variants}

Both have equally many steps, of equally many pixels. Both are scored on whole photographs at their own size
(`unet evaluate RUN --native`). The logits of `resize` are enlarged; `crop` covers the photograph, times its scale, with
overlapping tiles, whose logits are blended and enlarged. {seeds_text(seeds)}

{table}
"""


def _listed(settings) -> str:
    return ", ".join(f"`{setting}`" for setting in settings) or "no other settings"


if __name__ == "__main__":
    console.run(lambda: typer.run(main))
