"""Write a trained run's network for another runtime, and prove it there."""

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from unet import backend


def main(
    path: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Where the data are now, as data.data_dir=pets."),
    ] = None,
    name: Annotated[str, typer.Option("--format", help="savedmodel, onnx, litert, openvino, torch or keras.")] = "onnx",
    size: Annotated[
        str | None, typer.Option(help="HxW, or dynamic for any; default: dynamic where the format can.")
    ] = None,
    activation: Annotated[str, typer.Option(help="softmax: probabilities; none: logits.")] = "softmax",
    quantize: Annotated[str, typer.Option(help="litert: float16 or int8; onnx: int8.")] = "none",
    out: Annotated[Path | None, typer.Option(help="Directory; default: RUN/export.")] = None,
):
    """Write RUN's best network as a file that takes raw pixels; load it in its own runtime and compare on test images.

    The file, export.json with the proof, and model_card.md lie in RUN/export. A file that fails the proof is not kept.

    unet export runs/pets --format litert --quantize int8
    """
    from unet.errors import InputError
    from unet.formats import choose
    from unet.runs import Run

    wanted: tuple[int, int] | str | None = size
    if size not in (None, "dynamic"):
        numbers = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", size or "")
        if not numbers:
            raise InputError(f"--size: expected HxW in pixels, as 128x128, or dynamic; received {size!r}")
        wanted = int(numbers[1]), int(numbers[2])
    file_format = choose(name, activation, quantize)
    run = Run.open(path)
    run.trained_network()
    if file_format.backend:
        os.environ["KERAS_BACKEND"] = file_format.backend
    backend.use_backend()
    from unet.export import export
    from unet.tables import export_table

    with run.logging():
        file, entry = export(run, name, wanted, activation, quantize, out, tuple(overrides or ()))
    export_table(file, entry)
    print(f"file: {file}")
    print(f"card: {file.with_name('model_card.md')}")
