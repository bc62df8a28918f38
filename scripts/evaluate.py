#!/usr/bin/env python
"""Score a trained run and draw its figures."""

from pathlib import Path
from typing import Annotated

import typer

from unet import cli


def main(
    path: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    native: Annotated[bool, typer.Option("--native", help="Score at each image's own size.")] = False,
):
    """Score the best network of RUN: metrics.json, per_image_SPLIT.csv and figures/ in the run directory.

    python scripts/evaluate.py runs/pets --native
    """
    from unet.errors import InputError, nearest

    splits = ("train", "validation", "test")
    if split not in splits:
        raise InputError(f"--split: {split!r} is not one of {', '.join(splits)}{nearest(split, splits)}")
    cli.use_backend()
    from unet.evaluation import evaluate
    from unet.runs import Run
    from unet.tables import metrics_table

    run = Run.open(path)
    with run.logging():
        scores = evaluate(run, split, native)
    metrics_table(scores, f"{run.path.name}, {split}{', native size' if native else ''}")
    print(f"scores: {run.metrics_file}")
    for figure in sorted(run.figures.glob("*.png")):
        print(f"figure: {figure}")


if __name__ == "__main__":
    cli.run(main)
