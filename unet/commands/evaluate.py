"""Score a trained run or an exported file and draw its figures."""

from pathlib import Path
from typing import Annotated

import typer

from unet import backend


def main(
    path: Annotated[Path, typer.Argument(metavar="RUN_OR_FILE", help="A run directory, or an exported file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Where the data are now, as data.data_dir=pets."),
    ] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    native: Annotated[bool, typer.Option("--native", help="Score at each image's own size.")] = False,
):
    """Score the best network of RUN: metrics.json, per_image_SPLIT.csv and figures/ in the run directory.

    An exported FILE is run in the runtime of its format, and scored into FILE.evaluation/.

    unet evaluate runs/pets --native
    """
    from unet.errors import InputError, nearest

    splits = ("train", "validation", "test")
    if split not in splits:
        raise InputError(f"--split: {split!r} is not one of {', '.join(splits)}{nearest(split, splits)}")
    backend.use_backend()
    from unet.evaluation import evaluate, evaluate_file, evaluation_of
    from unet.formats import is_exported
    from unet.runs import Run, Scores
    from unet.tables import metrics_table

    records: Scores
    if is_exported(path):
        records = evaluation_of(path)
        scores = evaluate_file(path, split, native, tuple(overrides or ()))
    else:
        records = run = Run.open(path)
        with run.logging():
            scores = evaluate(run, split, native, tuple(overrides or ()))
    metrics_table(scores, f"{path.name}, {split}{', native size' if native else ''}")
    print(f"scores: {records.metrics_file}")
    for figure in sorted(records.figures.glob("*.png")):
        print(f"figure: {figure}")
