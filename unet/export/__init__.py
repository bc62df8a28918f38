"""A trained run becomes a file for another runtime, proven by loading it there."""

import contextlib
import dataclasses
import json
import logging
import os
import tempfile
from importlib import metadata as packages
from pathlib import Path

import keras
import numpy as np

from unet import config as configuration
from unet import data
from unet.console import quiet_stderr, track
from unet.data.images import resize_image, resize_mask
from unet.errors import InputError, RunError
from unet.files import write_json, write_text
from unet.formats import Format, LoadedNetwork, Metadata, choose, describe
from unet.formats.base import logarithm
from unet.inference import softmax
from unet.metrics import Tally
from unet.model import from_config
from unet.runs import Run
from unet.upsamplers import UPSAMPLERS

log = logging.getLogger("unet")

RECORD = "export.json"
CARD = "model_card.md"
PROOF_IMAGES = 16
"""Test images that a float file is compared on."""
CALIBRATION_IMAGES = 128
"""Training images that the ranges of int8 numbers are found on."""
LARGEST_DIFFERENCE = 1e-3
"""Of logits, in float32."""
WITHIN = 0.99
"""Share of pixels that must differ by no more than that where the network is not continuous: max-unpooling jumps where
two values of a window are equal but for rounding, and every runtime rounds in its own way."""
SAME_CLASS = 0.999
"""Share of pixels."""
LARGEST_LOSS = 0.01
"""Of mean IoU on the test split, by quantisation."""
BATCH = 16


def export(
    run: Run,
    name: str,
    size: tuple[int, int] | str | None = None,
    activation: str = "softmax",
    quantize: str = "none",
    out: Path | None = None,
    overrides: tuple[str, ...] = (),
) -> tuple[Path, dict]:
    """Write a run's best network in another format, load it there, and compare.

    Args:
        run: A trained run, of any backend and precision; the file is float32 before quantisation.
        name: One of ``unet.formats.FORMATS``; Keras must be on its backend.
        size: Height and width, ``"dynamic"`` for any, or ``None``: any where the format can, else the training's.
        activation: ``"softmax"``: the file gives probabilities; ``"none"``: logits.
        quantize: ``"none"``, or one of the format's quantisations.
        out: Directory; default ``export`` in the run directory.
        overrides: ``data.key=value``: where the run's data are now.

    Returns:
        The file, and its entry in export.json.

    Raises:
        InputError: The run, an argument or the data cannot be used.
        RunError: The file does not do what the network does; it is not left behind.
    """
    file_format = choose(name, activation, quantize)
    run.trained_network()
    config = configuration.with_data_at(run.config, overrides)
    metadata = _metadata(run, file_format, size, activation, quantize)
    dataset = data.prepare(config.data)
    directory = Path(out or run.path / "export")
    target = directory / (run.name + ("" if quantize == "none" else f"_{quantize}") + file_format.ending)
    trained_on = json.loads(run.environment_file.read_text(encoding="utf-8"))["starts"][-1]["backend"]
    if file_format.backend not in (None, trained_on):
        log.info("trained on %s; rebuilt on %s with the same weights", trained_on, file_format.backend)

    network = rebuild(run, metadata)
    complete = with_softmax(network) if activation == "softmax" else network
    directory.mkdir(parents=True, exist_ok=True)
    # The directory appears where the file will be, so that moving it there cannot fail half-way.
    with tempfile.TemporaryDirectory(prefix=".exporting-", dir=directory) as temporary:
        file = Path(temporary) / target.name
        examples = _spread(dataset.train.images, CALIBRATION_IMAGES)
        log.info("writing %s", target)
        split = dataset.test if len(dataset.test) else dataset.train
        with quiet_stderr():
            loaded = write(file_format, complete, file, metadata, examples)
            if quantize == "none":
                proof = prove(loaded, network, _spread(split.images, PROOF_IMAGES))
            else:
                proof = prove_quantized(loaded, network, split, dataset.classes)
        del loaded  # before its files move
        entry = _entry(name, file_format, file, metadata) | {"proof": proof}
        _judge(target, proof, UPSAMPLERS[metadata.upsampler].needs_argmax)
        _move(file, target)
    _record(directory, target.name, entry)
    write_text(directory / CARD, model_card(run, directory))
    return target, entry


def write(file_format: Format, network: keras.Model, file: Path, metadata: Metadata, examples) -> LoadedNetwork:
    """Write a file and load it in its own runtime; arguments as in :meth:`unet.formats.Format.write`.

    Raises:
        InputError: What the format needs is not installed.
        RunError: The converter or the runtime refused the network.
    """
    try:
        file_format.write(network, file, metadata, examples)
        return file_format.load(file)
    except InputError:
        raise
    except Exception as error:  # every converter has its own
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise RunError(f"{file.name}: could not be converted: {type(error).__name__}: {(lines or [''])[-1]}") from error


def rebuild(run: Run, metadata: Metadata) -> keras.Model:
    """The run's network in float32 on this backend, from pixels to logits, for the file's size or any."""
    config = run.config
    trained = keras.saving.load_model(run.trained_network(), compile=False)
    training = config.training.model_copy(update={"precision": "float32"})
    fixed = config.data.model_copy(update={"size": metadata.size})
    config = config.model_copy(update={"training": training, "data": fixed})
    network = from_config(config, len(metadata.classes), fixed_size=not metadata.dynamic)
    if _layers(network) != _layers(trained):
        raise RunError(f"{run.path}: best.keras is not the network that config.yaml describes")
    network.set_weights(trained.get_weights())
    network.jit_compile = False
    return network


def _layers(network: keras.Model) -> list[tuple]:
    return [(layer.name, type(layer)) for layer in network.layers]


# === Proof ===


def prove(loaded: LoadedNetwork, network: keras.Model, images: np.ndarray) -> dict:
    """Compare a loaded file with the network on images, at its size, and at an odd one where it takes any.

    Args:
        loaded: The file, in its runtime.
        network: ``keras.Model`` from pixels to logits.
        images: uint8 ``(N, H, W, 3)``; resized to the file's size.

    Returns:
        ``images``, ``largest_logit_difference``, and two shares of pixels: ``within`` (``LARGEST_DIFFERENCE``) and
        ``same_class``.
    """
    height, width = loaded.metadata.size
    fitting = np.stack([resize_image(image, (height, width)) for image in images])
    batches = [fitting[:1], fitting[1:]]
    if loaded.metadata.dynamic:
        odd = (height + height // 4) | 1, (width - width // 8) | 1
        batches.append(np.stack([resize_image(image, odd) for image in images[:2]]))
    difference, within, same, pixels = 0.0, 0, 0, 0
    for batch in batches:
        if not len(batch):
            continue
        expected = np.asarray(network.predict_on_batch(batch), np.float32)
        found = loaded.scores(batch)
        if found.shape != expected.shape:
            raise RunError(f"the file gives {found.shape} for images of {batch.shape}, the network {expected.shape}")
        same += int((found.argmax(-1) == expected.argmax(-1)).sum())
        pixels += expected[..., 0].size
        if loaded.metadata.activation == "softmax":
            expected = logarithm(softmax(expected))
        apart = np.nan_to_num(np.abs(found - expected).max(-1), nan=np.inf)  # NaN must not pass for small
        within += int((apart <= LARGEST_DIFFERENCE).sum())
        difference = max(difference, float(apart.max()))
    return {
        "images": len(images),
        "largest_logit_difference": difference,
        "within": within / pixels,
        "same_class": same / pixels,
    }


def prove_quantized(loaded: LoadedNetwork, network: keras.Model, split: data.Split, classes: tuple[str, ...]) -> dict:
    """Mean IoU on the test split beside that of the network in float32.

    Returns:
        ``images``, ``mean_iou``, ``mean_iou_float`` and ``same_class``, the share of pixels.
    """
    tallies = {"file": Tally(classes), "network": Tally(classes)}
    same, pixels = 0, 0
    for start in track(range(0, len(split), BATCH), -(-len(split) // BATCH), "comparing on the test split"):
        chosen = slice(start, start + BATCH)
        images, masks = np.asarray(split.images[chosen]), np.asarray(split.masks[chosen])
        if images.shape[1:3] != loaded.metadata.size:
            images = np.stack([resize_image(image, loaded.metadata.size) for image in images])
            masks = np.stack([resize_mask(mask, loaded.metadata.size) for mask in masks])
        scores = {"file": loaded(images), "network": np.asarray(network.predict_on_batch(images), np.float32)}
        for which, tally in tallies.items():
            tally.add(split.names[chosen], masks, scores[which])
        same += int((scores["file"].argmax(-1) == scores["network"].argmax(-1)).sum())
        pixels += masks.size
    reached, expected = (tallies[which].scores()["mean_iou"]["dataset"] for which in ("file", "network"))
    return {"images": len(split), "mean_iou": reached, "mean_iou_float": expected, "same_class": same / pixels}


def _judge(target: Path, proof: dict, jumps: bool) -> None:
    """Raise a RunError where a file is not what the network is; ``jumps``: the network is not continuous."""
    if "mean_iou" in proof:
        loss = proof["mean_iou_float"] - proof["mean_iou"]
        passed = loss <= LARGEST_LOSS
        told = f"it loses {100 * loss:.2f} points of mean IoU (allowed: {100 * LARGEST_LOSS:g})"
    else:
        difference, same = proof["largest_logit_difference"], proof["same_class"]
        passed = proof["within"] >= (WITHIN if jumps else 1) and same >= SAME_CLASS
        told = (
            f"its logits differ by up to {difference:.2g} (allowed: {LARGEST_DIFFERENCE:g}) and {same:.3%} of the "
            f"pixels get the same class (at least {SAME_CLASS:.1%})"
        )
    if not passed:
        raise RunError(f"{target}: the file does not do what the network does: {told}; nothing was written")


# === Parts ===


def _metadata(run: Run, file_format: Format, size, activation: str, quantize: str) -> Metadata:
    described = describe(run)
    reason = file_format.fixed_size(quantize)
    dynamic = size == "dynamic" or (size is None and not reason)
    if size == "dynamic" and reason:
        raise InputError(f"--size: such a file takes one size only ({reason}); give HxW, as 128x128")
    if size is None and reason:
        log.info("height and width are fixed at %d×%d: %s", *described.size, reason)
    return dataclasses.replace(
        described,
        size=described.size if dynamic or size is None else tuple(size),
        dynamic=dynamic,
        activation=activation,
        quantization=quantize,
    )


def with_softmax(network: keras.Model) -> keras.Model:
    """From pixels to probabilities."""
    probabilities = keras.layers.Softmax(dtype="float32", name="probabilities")(network.output)
    return keras.Model(network.input, probabilities, name=network.name)


def _spread(images: np.ndarray, count: int) -> np.ndarray:
    """At most ``count`` images, evenly spread."""
    return np.stack([images[i] for i in np.linspace(0, len(images) - 1, min(count, len(images))).astype(int)])


def _parts(file: Path) -> list[Path]:
    """The files and directories that a written file consists of, the one that names it last."""
    return [*sorted(p for p in file.parent.iterdir() if p.stem == file.stem and p != file), file]


def _move(file: Path, target: Path) -> None:
    for part in _parts(file):
        place = target.with_name(part.name)
        if place.is_dir():  # which cannot be replaced in one step; what is left here is deleted
            os.replace(place, part.with_name(f"before-{part.name}"))
        os.replace(part, place)


def size_of(file: Path) -> int:
    """Bytes of everything that a written file consists of, in a directory of its own."""
    return sum(p.stat().st_size for part in _parts(file) for p in (part.rglob("*") if part.is_dir() else [part]))


def _entry(name: str, file_format: Format, file: Path, metadata: Metadata) -> dict:
    versions = {}
    for package in (
        "keras",
        "tensorflow",
        "tensorflow-cpu",
        "torch",
        "tf2onnx",
        "onnxruntime",
        "ai-edge-litert",
        "openvino",
    ):
        with contextlib.suppress(packages.PackageNotFoundError):
            versions[package] = packages.version(package)
    return {
        "format": name,
        "bytes": size_of(file),
        "size": "dynamic" if metadata.dynamic else list(metadata.size),
        "fixed_because": "" if metadata.dynamic else file_format.fixed_size(metadata.quantization),
        "activation": metadata.activation,
        "quantization": metadata.quantization,
        "backend": keras.backend.backend(),
        "versions": versions,
    }


def _record(directory: Path, file: str, entry: dict) -> None:
    """Add the file's entry to export.json."""
    write_json(directory / RECORD, records(directory) | {file: entry})


def records(directory: Path) -> dict:
    """Entries of export.json by file name; empty where there is none."""
    path = directory / RECORD
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def model_card(run: Run, directory: Path) -> str:
    """Markdown for people who get the files: what the network is, how good, in which files, on what terms."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("unet"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("model_card.md.j2").render(
        name=run.name,
        about=describe(run),
        config=run.config,
        metrics=run.metrics(),
        files=records(directory),
        version=packages.version("unet-upsamplers"),
    )
