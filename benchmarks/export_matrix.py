"""Every upsampler in every format: correctness, file size and latency. ``make export-matrix`` runs it.

``python -m benchmarks.export_matrix`` measures the formats that this process's backend writes, adds them to
docs/results/export/matrix.json, and writes docs/results/export.md from that file. With a run as its argument it
measures nothing, but copies the scores that ``unet evaluate`` found for the run and for its exported files.
"""

import dataclasses
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np

from unet import backend, data
from unet.config import DataConfig
from unet.console import quiet_stderr
from unet.evaluation import evaluation_of
from unet.export import prove, records, size_of, with_softmax, write
from unet.files import write_json, write_text
from unet.formats import FORMATS, Metadata
from unet.model import build_unet
from unet.runs import Run
from unet.upsamplers import UPSAMPLERS

HERE = Path(__file__).parent.parent / "docs" / "results"
FLOAT = [(name, "none") for name in FORMATS]
QUANTIZED = [(name, kind) for name, file_format in FORMATS.items() for kind in file_format.quantizations]
WIDTH, DEPTH, SIZE = 16, 4, (128, 128)
CALLS = 21
"""Timed calls per file, after three warm-up calls."""


def writable(name: str) -> bool:
    """Whether this backend writes the format."""
    return FORMATS[name].backend in (None, keras.backend.backend())


def scenes(size, count=4) -> np.ndarray:
    """Drawn scenes, uint8 ``(count, *size, 3)``."""
    shapes = {"train": 2 * count, "test": 1}
    config = DataConfig.model_validate({"source": "shapes", "size": list(size), "shapes": shapes})
    return np.array(data.prepare(config).train.images[:count])


def make_network(upsampler: str, width: int, depth: int, seed: int = 0) -> keras.Model:
    """An untrained network for any image size, with random batch normalization so that no layer is an identity."""
    keras.utils.clear_session()
    network = build_unet(3, width=width, depth=depth, upsampler=upsampler, seed=seed, dtype="float32")
    rng = np.random.default_rng(seed)
    for variable in network.variables:
        if "norm" in variable.path:
            variable.assign(np.abs(np.array(variable) + rng.normal(0, 0.1, variable.shape)))
    return network


def metadata_for(upsampler: str, name: str, quantization: str, size) -> Metadata:
    """Metadata of a file that does not come from a run."""
    return Metadata(
        classes=("pet", "background", "border"),
        colours=("#E69F00", "#0072B2", "#F0E442"),
        size=size,
        dynamic=not FORMATS[name].fixed_size(quantization),
        activation="softmax",
        quantization=quantization,
        upsampler=upsampler,
        config={"model": {"depth": 1}},
    )


def try_out(network, upsampler: str, name: str, quantization: str, size, folder: Path, images) -> dict:
    """Write a file, load it in its runtime, and compare; the result's ``file`` is the loaded network."""
    file_format = FORMATS[name]
    metadata = metadata_for(upsampler, name, quantization, size)
    if not metadata.dynamic:
        weights = network.get_weights()
        network = build_unet(
            3,
            width=network.get_layer("encoder_1_conv_1").filters,
            depth=sum(layer.name.endswith("_up") for layer in network.layers),
            upsampler=upsampler,
            input_shape=(*size, 3),
            dtype="float32",
        )
        network.set_weights(weights)
    path = folder / f"{name}_{quantization}" / f"{upsampler}{file_format.ending}"
    path.parent.mkdir()
    loaded = write(file_format, with_softmax(network), path, metadata, images)
    proof = prove(loaded, network, images, "drawn images")
    return {"file": loaded, "bytes": size_of(path), "dynamic": metadata.dynamic} | dataclasses.asdict(proof)


def latency(loaded, image) -> float:
    """Median time of a call with one image, in seconds."""
    times = []
    for index in range(3 + CALLS):
        start = time.perf_counter()
        loaded(image[None])
        if index >= 3:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure() -> None:
    """Measure the formats that this backend writes, and add them to matrix.json."""
    path = HERE / "export" / "matrix.json"
    found = json.loads(path.read_text()) if path.is_file() else {"machine": {}, "cells": {}}
    found["machine"] = {"device": backend.device_name(), "python": platform.python_version()}
    images = scenes(SIZE, 8)
    for upsampler in UPSAMPLERS:
        network = make_network(upsampler, WIDTH, DEPTH)
        for name, quantization in FLOAT + QUANTIZED:
            if not writable(name) or (name == "keras" and keras.backend.backend() != "tensorflow"):
                continue
            key = name if quantization == "none" else f"{name} {quantization}"
            with tempfile.TemporaryDirectory() as folder:
                try:
                    cell = try_out(network, upsampler, name, quantization, SIZE, Path(folder), images)
                    with quiet_stderr():
                        cell["seconds"] = latency(cell.pop("file"), images[0])
                except Exception as error:
                    cell = {"error": str(error)}
            found["cells"].setdefault(upsampler, {})[key] = cell
            print(upsampler, key, cell, file=sys.stderr)
            write_json(path, found)


def as_markdown(found: dict) -> str:
    """The text of docs/results/export.md."""
    cells = found["cells"]
    floats = [name for name, _ in FLOAT]
    quantized = [f"{name} {kind}" for name, kind in QUANTIZED]

    def table(columns, show):
        head = f"| upsampler | {' | '.join(columns)} |\n| --- |{' ---: |' * len(columns)}"
        rows = (
            f"| `{upsampler}` | {' | '.join(show(cells[upsampler].get(c)) for c in columns)} |" for upsampler in cells
        )
        return "\n".join([head, *rows])

    def correct(cell):
        if cell is None or "error" in cell:
            return "not measured" if cell is None else f"fails: {cell['error']}"
        jumps = "" if cell["within"] == 1 else f" ({cell['within']:.2%} within 1e-3)"
        return f"{cell['largest_logit_difference']:.1e}{jumps}{'' if cell['dynamic'] else ', fixed size'}"

    def cost(cell):
        if cell is None or "error" in cell:
            return "–"
        return f"{cell['bytes'] / 2**20:.2f} MiB, {1000 * cell['seconds']:.1f} ms"

    def agreement(cell):
        return "" if cell is None or "error" in cell else f", {cell['same_class']:.1%}"

    reasons = {f"{name} {kind}": FORMATS[name].fixed_size(kind) for name, kind in FLOAT + QUANTIZED}
    limits = "\n".join(f"- `{name.removesuffix(' none')}`: {reason}." for name, reason in reasons.items() if reason)
    return f"""# Export: every upsampler in every format

Written by `make export-matrix`: a U-Net of width {WIDTH} and depth {DEPTH} with each upsampler is exported to each
format, loaded in the runtime of that format, and run on drawn scenes of {SIZE[0]}×{SIZE[1]} pixels and, if the file
accepts any size, of an odd size. All files accept any batch size.

## Correctness
Largest difference in logits from the network in Keras. At most 1e-3 is allowed, and 99.9 % of the pixels must get the
same class.

{table(floats, correct)}

`max_unpool` is not continuous: where two values of a pooling window are equal up to rounding, as in areas of uniform
colour, runtimes may put the value in different places. So does Keras itself when pixels change by a thousandth of a
grey level. The classes stay the same.

These files accept one height and width only:

{limits}

## Cost
File size, and time for one image of {SIZE[0]}×{SIZE[1]} on {found["machine"]["device"]} (median of {CALLS}
calls). Compare upsamplers within a column and runtimes within a row; times differ on other machines.

{table(floats, cost)}

Keras stores each weight twice in `savedmodel` and `torch` files.

Quantized files, calibrated on 8 drawn scenes. The percentage is the share of pixels that get the same class as in
float32; it is low because the networks are untrained and often give two classes nearly the same value:

{table(quantized, lambda cell: cost(cell) + agreement(cell))}
{_scores()}"""


RUNTIMES = {
    "savedmodel": "TensorFlow",
    "onnx": "ONNX Runtime",
    "litert": "LiteRT",
    "openvino": "OpenVINO",
    "torch": "PyTorch",
    "keras": "Keras",
}


def copy_scores(run: Run) -> None:
    """Write docs/results/export/scores.json: mean IoU of the run and of each of its files on the test split."""
    directory = run.path / "export"
    files = {}
    for file, entry in records(directory).items():
        scores = evaluation_of(directory / file).metrics()["test"]
        files[file] = {
            "runtime": RUNTIMES[entry["format"]],
            "images": scores["images"],
            "mean_iou": scores["mean_iou"]["dataset"],
            "bytes": entry["bytes"],
        }
    network = run.metrics()["test"]
    found = {"run": run.path.name, "images": network["images"], "mean_iou": network["mean_iou"]["dataset"]}
    write_json(HERE / "export" / "scores.json", found | {"files": files})


def _scores() -> str:
    """The table of a run trained on real photographs, if it has been measured."""
    path = HERE / "export" / "scores.json"
    if not path.is_file():
        return ""
    found = json.loads(path.read_text())
    rows = [
        f"| `{file}` | {entry['runtime']} | {100 * entry['mean_iou']:.2f} | "
        f"{100 * (entry['mean_iou'] - found['mean_iou']):+.2f} | {entry['bytes'] / 2**20:.2f} |"
        for file, entry in found["files"].items()
    ]
    return "\n".join(
        [
            "",
            "## A run trained on Oxford-IIIT Pets",
            f"`{found['run']}`, exported with `unet export`, and scored on the official test split",
            f"({found['images']:,} images) through each runtime with `unet evaluate FILE`.",
            f"The run itself, in Keras: mean IoU {100 * found['mean_iou']:.2f} %.",
            "",
            "| file | runtime | mean IoU, % | minus the run | MiB |",
            "| --- | --- | ---: | ---: | ---: |",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    if sys.argv[1:]:
        copy_scores(Run.open(sys.argv[1]))
    else:
        measure()
    write_text(HERE / "export.md", as_markdown(json.loads((HERE / "export" / "matrix.json").read_text())))
