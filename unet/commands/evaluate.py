"""The command ``unet evaluate``."""

from pathlib import Path
from typing import Annotated

import typer

from unet.commands._arguments import DataPlaces


def main(
    path: Annotated[Path, typer.Argument(metavar="RUN_OR_FILE", help="A run directory, or an exported file.")],
    overrides: DataPlaces = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    native: Annotated[bool, typer.Option("--native", help="Score at each image's own size.")] = False,
):
    """Score the best network of RUN, and write metrics.json, per_image_SPLIT.csv and figures/ to the run directory.

    An exported FILE is scored in the runtime of its format; the results are written to FILE.evaluation/.

    unet evaluate runs/pets --native
    """
    from unet import config
    from unet.backend import use_backend
    from unet.console import say
    from unet.errors import InputError, nearest
    from unet.formats import is_exported
    from unet.runs import Run, Scores

    splits = ("train", "validation", "test")
    if split not in splits:
        raise InputError(f"{split!r} is not one of {', '.join(splits)}{nearest(split, splits)}", argument="split")
    exported, places = is_exported(path), tuple(overrides or ())
    if not exported:
        run = Run.open(path)
        run.trained_network()
        config.with_data_at(run.config, places)
    use_backend()
    from unet.evaluation import evaluate, evaluate_file, evaluation_of
    from unet.tables import metrics_table

    records: Scores
    if exported:
        records = evaluation_of(path)
        scores = evaluate_file(path, split, native, places)
    else:
        records = run
        with run.logging():
            scores = evaluate(run, split, native, places)
    metrics_table(scores, f"{path.name}, {split}{', native size' if native else ''}")
    say(f"scores: {records.metrics_file}")
    for figure in sorted(records.figures.glob("*.png")):
        say(f"figure: {figure}")
