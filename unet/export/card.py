"""The record of exported files (export.json) and the model card (model_card.md) made from it."""

from importlib import metadata as packages
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from unet.errors import InputError
from unet.export.proof import read_proof
from unet.files import write_json
from unet.formats import describe
from unet.records import check, read_json
from unet.runs import Average, Run

RECORD = "export.json"
CARD = "model_card.md"


def records(directory: Path) -> dict:
    """Entries of export.json by file name; empty if there is none.

    Raises:
        InputError: It is damaged.
    """
    path = directory / RECORD
    entries = read_json(path, dict[str, dict[str, Any]]) if path.exists() else {}
    for name, entry in entries.items():
        try:
            read_proof(entry["proof"])
        except (AttributeError, KeyError, TypeError):
            raise InputError(f"{path}: {name} has no valid proof; restore the file from a copy, or delete it") from None
    return entries


def record(directory: Path, file: str, entry: dict) -> None:
    """Add a file's entry to export.json."""
    write_json(directory / RECORD, records(directory) | {file: entry})


class CardScores(TypedDict):
    """What the model card shows of an evaluated split."""

    images: int
    size: str | tuple[int, int]
    mean_iou: Average
    iou: dict[str, Average]
    pixel_accuracy: Average
    precision: NotRequired[dict[str, Average]]
    """By class; runs that an earlier version evaluated have neither precision nor recall."""
    recall: NotRequired[dict[str, Average]]
    mean_precision: NotRequired[Average]
    mean_recall: NotRequired[Average]


def card_scores(run: Run) -> dict[str, dict[str, Any]]:
    """Scores that the model card shows, by evaluated split.

    Raises:
        InputError: metrics.json is damaged, or lacks some of them.
    """
    scores = {split: entry for split, entry in run.metrics().items() if "mean_iou" in entry}
    for split, entry in scores.items():
        check(entry, CardScores, f"{run.metrics_file}: {split}")
        for key, title in (("iou", "IoU"), ("precision", "precision"), ("recall", "recall")):
            if missing := [name for name in run.info.classes if key in entry and name not in entry[key]]:
                names = ", ".join(missing)
                raise InputError(f"{run.metrics_file}: {split} has no {title} of {names}; evaluate the run again")
    return scores


def model_card(run: Run, directory: Path) -> str:
    """Render the model card in Markdown: what the network is, its scores, its files and their terms."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("unet.export"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    files = {name: entry | {"proof": read_proof(entry["proof"])} for name, entry in records(directory).items()}
    metrics = card_scores(run)
    added = {"precision", "recall", "mean_precision", "mean_recall"}
    return environment.get_template("model_card.md.j2").render(
        name=run.name,
        about=describe(run),
        config=run.config,
        metrics=metrics,
        rates={split: scores for split, scores in metrics.items() if added <= scores.keys()},
        files=files,
        version=packages.version("unet-upsamplers"),
    )
