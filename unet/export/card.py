"""The record of exported files (export.json) and the model card (model_card.md) made from it."""

import json
from importlib import metadata as packages
from pathlib import Path

from unet.export.proof import read_proof
from unet.files import write_json
from unet.formats import describe
from unet.runs import Run

RECORD = "export.json"
CARD = "model_card.md"


def records(directory: Path) -> dict:
    """Entries of export.json by file name; empty if there is none."""
    path = directory / RECORD
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def record(directory: Path, file: str, entry: dict) -> None:
    """Add a file's entry to export.json."""
    write_json(directory / RECORD, records(directory) | {file: entry})


def model_card(run: Run, directory: Path) -> str:
    """Render the model card in Markdown: what the network is, its scores, its files and their terms."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("unet.export"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    files = {name: entry | {"proof": read_proof(entry["proof"])} for name, entry in records(directory).items()}
    return environment.get_template("model_card.md.j2").render(
        name=run.name,
        about=describe(run),
        config=run.config,
        metrics=run.metrics(),
        files=files,
        version=packages.version("unet-upsamplers"),
    )
