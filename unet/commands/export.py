"""Write a trained run's network for another runtime, and compare it there."""

import re
from pathlib import Path
from typing import Annotated

import typer

from unet import backend
from unet.commands._arguments import DataPlaces
from unet.console import say
from unet.environment import environment_variables


def main(
    path: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    overrides: DataPlaces = None,
    format: Annotated[str, typer.Option(help="savedmodel, onnx, litert, openvino, torch or keras.")] = "onnx",
    size: Annotated[
        str | None, typer.Option(help="HxW, or dynamic for any; default: dynamic if the format supports it.")
    ] = None,
    activation: Annotated[
        str, typer.Option(help="softmax: probabilities, also of labels; none: logits; classes: class ids.")
    ] = "softmax",
    quantize: Annotated[str, typer.Option(help="litert: float16 or int8; onnx: int8.")] = "none",
    out: Annotated[Path | None, typer.Option(help="Directory; default: RUN/export.")] = None,
):
    """Write RUN's best network as a file that takes raw pixels, load it in its own runtime, and compare the two.

    The file, export.json with the results of the comparison, and model_card.md are written to RUN/export. A file that
    fails the comparison is deleted. Only --quantize int8 needs the data of the run.

    unet export runs/pets --format litert --quantize int8
    """
    from unet.formats import choose
    from unet.runs import Run

    pixels = _size(size)
    file_format = choose(format, activation, quantize)
    run = Run.open(path)
    run.trained_network()
    with environment_variables(**{"KERAS_BACKEND": file_format.backend} if file_format.backend else {}):
        backend.use_backend()
    from unet.export import export

    with run.logging():
        file, entry = export(run, format, pixels, activation, quantize, out, tuple(overrides or ()))
    _show(file, entry)
    say(f"file: {file}")
    say(f"card: {file.with_name('model_card.md')}")


def _size(text: str | None) -> tuple[int, int] | str | None:
    from unet.errors import InputError

    if text in (None, "dynamic"):
        return text
    numbers = re.fullmatch(r"([1-9]\d*)[x×]([1-9]\d*)", text or "")
    if not numbers:
        raise InputError(f"expected HxW in pixels, as 128x128, or dynamic; received {text!r}", "size")
    return int(numbers[1]), int(numbers[2])


def _show(file: Path, entry: dict) -> None:
    """Print what an exported file is, and how it compares with the network."""
    from unet.export import read_proof
    from unet.tables import Table, show

    size = entry["size"]
    rows = {
        "input": "any height and width" if size == "dynamic" else f"{size[0]}×{size[1]} pixels, any batch size",
        "output": {"none": "logits", "classes": "class ids, uint8"}.get(entry["activation"], "probabilities"),
        "precision": {"none": "float32"}.get(entry["quantization"], entry["quantization"]),
        "file size": f"{entry['bytes'] / 2**20:.2f} MiB",
    }
    table = Table(f"{file.name}: {entry['format']}", show_header=False)
    for name, value in (rows | read_proof(entry["proof"]).rows()).items():
        table.add_row(name, value)
    show(table)
