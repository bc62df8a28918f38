"""Conversion of a trained run to a file for another runtime."""

import contextlib
import dataclasses
import errno
import logging
import math
import os
import shutil
from importlib import metadata as packages
from pathlib import Path

import keras
import numpy as np

from unet import config as configuration
from unet import data
from unet.blocks import ClassIds, LabelSets
from unet.config import Config, DataConfig
from unet.console import quiet_stderr
from unet.data.heads import head_of
from unet.data.images import resize_image
from unet.deprecation import renamed
from unet.errors import InputError, RunError
from unet.export.card import CARD, card_scores, model_card, record, records
from unet.export.proof import Proof, prove, prove_classes, prove_quantized, to_json
from unet.files import locked, remedy, remove_unfinished, temporary_folder, write_text, writing
from unet.formats import Format, LoadedNetwork, Metadata, choose, describe
from unet.formats.base import LARGEST_SIZE
from unet.model import from_config, load_saved
from unet.runs import Run

log = logging.getLogger("unet")

PROOF_IMAGES = 16
"""Number of images that a float file is compared on."""
CALIBRATION_IMAGES = 128
"""Number of training images that int8 ranges are calibrated on."""
LEAST_SPACE = 2**20
"""Bytes: with less free space a converter's error is taken for that of a full disk, which some do not name."""


@renamed(name="format")
def export(
    run: Run,
    format: str,
    size: tuple[int, int] | str | None = None,
    activation: str = "softmax",
    quantize: str = "none",
    out: Path | None = None,
    overrides: tuple[str, ...] = (),
) -> tuple[Path, dict]:
    """Write a run's best network in another format, load the file in its runtime, and compare the two.

    The run's data are used where they can be found: test images for the comparison, and training images to calibrate
    int8 files, which cannot be written without them. Other files are compared on drawn images if there are no data.

    Args:
        run: A trained run, of any backend and precision; the file is float32 before quantization.
        format: One of ``unet.formats.FORMATS``; Keras must use the format's backend.
        size: Height and width, ``"dynamic"`` for any, or ``None``: any if the format supports it, else the training
            size.
        activation: ``"softmax"``: the file returns probabilities; ``"none"``: logits; ``"classes"``: the id of each
            pixel's class, uint8 ``(B, H, W)``. If a pixel may have several labels, probabilities are those of each
            label, ``"sigmoid"``, which ``"softmax"`` then stands for, and ``"classes"`` gives the set of its labels.
        quantize: ``"none"``, or one of the format's quantizations.
        out: Directory; default ``export`` in the run directory.
        overrides: ``data.key=value``: the current location of the run's data.

    Returns:
        The file, and its entry in export.json.

    Raises:
        InputError: The run, an argument or the data cannot be used.
        RunError: The file does not do what the network does; it is deleted.

    Example:
        ``file, entry = export(Run.open("runs/pets"), "onnx")``
    """
    file_format = choose(format, activation, quantize)
    if file_format.backend not in (None, keras.backend.backend()):
        raise InputError(
            f"{format} files are written on the {file_format.backend} backend, and this process runs Keras on "
            f"{keras.backend.backend()}; set KERAS_BACKEND={file_format.backend} before Keras is imported",
            "format",
        )
    run.trained_network()
    head = head_of(run.config.model.head)
    if activation == "softmax":
        activation = head.activation
    if activation == "sigmoid" and not head.labels:
        raise InputError("'sigmoid' needs several labels per pixel; this network gives it one class", "activation")
    config = configuration.with_data_at(run.config, overrides)
    metadata = _metadata(run, file_format, size, activation, quantize)
    if quantize == "int8" and metadata.dtype != "uint8":
        raise InputError(
            f"int8 has 256 levels, and the images have pixels of {metadata.dtype}; use float16 or none", "quantize"
        )
    dataset = _dataset(config, metadata, required=bool(overrides))
    directory = Path(out or run.path / "export")
    records(directory)  # reports damaged files before anything is written
    card_scores(run)
    kinds = [run.name, *["classes"] * (activation == "classes"), *[quantize] * (quantize != "none")]
    target = directory / ("_".join(kinds) + file_format.ending)
    trained_on = run.starts()[-1]["backend"]
    if file_format.backend not in (None, trained_on):
        log.info("trained on %s; rebuilt on %s with the same weights", trained_on, file_format.backend)

    network = rebuild(run, metadata)
    ending = {"softmax": with_softmax, "sigmoid": with_sigmoid, "classes": with_sets if head.labels else with_argmax}
    complete = ending.get(activation, lambda network: network)(network)
    examples = _spread(dataset.train, CALIBRATION_IMAGES) if dataset else drawn_images(config.data, metadata.size)
    # In the target's directory, so that the file can be moved there in one step.
    with temporary_folder(directory) as temporary:
        remove_unfinished(directory)
        file = temporary / target.name
        log.info("writing %s", target)
        loaded = write(file_format, complete, file, metadata, examples)
        proof = _prove(loaded, network, dataset, config.data)
        del loaded  # before its files move
        if failure := proof.judge(metadata):
            raise RunError(f"{target}: the file does not do what the network does: {failure}; nothing was written")
        entry = _entry(format, file_format, file, metadata) | {"proof": to_json(proof)}
        with locked(directory / ".export.lock"):  # two formats may be exported at the same time
            with writing(target):
                _move(file, target)
            record(directory, target.name, entry)
            write_text(directory / CARD, model_card(run, directory))
    return target, entry


def write(file_format: Format, network: keras.Model, file: Path, metadata: Metadata, examples) -> LoadedNetwork:
    """Write a file and load it in its own runtime; arguments as in :meth:`unet.formats.Format.write`.

    Raises:
        InputError: A package that the format needs is not installed.
        RunError: The converter or the runtime rejected the network.
    """
    try:
        with quiet_stderr():  # converters and runtimes report progress there, some of them on the first call
            file_format.write(network, file, metadata, examples)
            loaded = file_format.load(file)
            loaded(examples[:1])
        return loaded
    except InputError:
        raise
    except Exception as error:  # every converter has its own classes of errors
        no_space = os.strerror(errno.ENOSPC)
        says_so = getattr(error, "errno", None) == errno.ENOSPC or no_space in str(error)
        if says_so or shutil.disk_usage(file.parent).free < LEAST_SPACE:
            advice = remedy(OSError(errno.ENOSPC, no_space))
            raise RunError(f"{file.name}: cannot be written: {no_space}{advice}") from error
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise RunError(f"{file.name}: could not be converted: {type(error).__name__}: {(lines or [''])[-1]}") from error


def rebuild(run: Run, metadata: Metadata) -> keras.Model:
    """Build the run's network in float32 on this backend, from pixels to logits, for the file's size or any.

    Raises:
        RunError: The run's weights do not fit its configuration.
    """
    config = run.config
    trained = load_saved(run.trained_network())
    config = config.with_data(size=metadata.size).with_training(precision="float32")
    network = from_config(config, len(metadata.classes), fixed_size=not metadata.dynamic)
    if _layers(network) != _layers(trained):
        raise RunError(f"{run.path}: best.keras is not the network that config.yaml describes")
    network.set_weights(trained.get_weights())
    network.jit_compile = False
    return network


def _layers(network: keras.Model) -> list[tuple]:
    return [(layer.name, type(layer)) for layer in network.layers]


def _dataset(config: Config, metadata: Metadata, required: bool) -> data.Dataset | None:
    """The run's data at the file's size, or ``None`` if they cannot be found and are not required."""
    config = config.with_data(size=metadata.size)
    calibrates = metadata.quantization == "int8"
    if not (required or calibrates):  # nothing is downloaded just to compare
        config = config.with_data(download=False)
    try:
        dataset = data.prepare(config.data)
    except InputError as error:
        if required:
            raise
        if calibrates:
            raise InputError(f"int8 files are calibrated on the training images of the run: {error}") from error
        log.info("comparing on drawn images, as the data of the run cannot be used: %s", str(error).splitlines()[0])
        return None
    if dataset.classes != metadata.classes:
        raise InputError(
            f"the run has the classes {', '.join(metadata.classes)}; the data have {', '.join(dataset.classes)}"
        )
    return dataset


def _prove(loaded: LoadedNetwork, network: keras.Model, dataset: data.Dataset | None, config: DataConfig) -> Proof:
    """Compare the file with the network: by mean IoU if it is quantized and there are masks, else pixel by pixel."""
    compare = prove_classes if loaded.returns_classes else prove
    if dataset is None:
        return compare(loaded, network, drawn_images(config, loaded.metadata.size), "drawn images")
    split, kind = (dataset.test, "test images") if len(dataset.test) else (dataset.train, "training images")
    if loaded.metadata.quantization != "none":
        return prove_quantized(loaded, network, split, kind)
    return compare(loaded, network, _spread(split, PROOF_IMAGES), kind)


def drawn_images(config: DataConfig, size: tuple[int, int], count: int = PROOF_IMAGES) -> np.ndarray:
    """Drawn scenes ``(count, *size, channels)`` with the type and normalization of data, the same on every call."""
    from unet.data.shapes import draw_scene

    scenes = (draw_scene(np.random.default_rng(index))[0] for index in range(count))
    images = np.stack([resize_image(scene, size) for scene in scenes])
    if config.is_rgb or config.moments is None:
        return images
    mean, deviation = map(np.array, config.moments)
    values = images[..., np.arange(config.channels) % 3].astype(np.float32)
    values = mean + deviation * (values - values.mean((0, 1, 2))) / values.std((0, 1, 2))
    if config.dtype != "float32":
        values = np.clip(np.rint(values), 0, np.iinfo(config.dtype).max)
    return values.astype(config.dtype)


def _metadata(run: Run, file_format: Format, size, activation: str, quantize: str) -> Metadata:
    described = describe(run)
    reason = file_format.fixed_size(quantize)
    dynamic = size == "dynamic" or (size is None and not reason)
    if size == "dynamic" and reason:
        raise InputError(f"such a file accepts one size only ({reason}); give height and width instead", "size")
    if isinstance(size, tuple) and math.prod(size) > LARGEST_SIZE:
        raise InputError(f"must be {LARGEST_SIZE:,} pixels or fewer, received {size[0]}×{size[1]}", "size")
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
    """Append a softmax to a network that returns logits."""
    probabilities = keras.layers.Softmax(dtype="float32", name="probabilities")(network.output)
    return keras.Model(network.input, probabilities, name=network.name)


def with_sigmoid(network: keras.Model) -> keras.Model:
    """Append a sigmoid to a network that returns logits of labels."""
    probabilities = keras.layers.Activation("sigmoid", dtype="float32", name="probabilities")(network.output)
    return keras.Model(network.input, probabilities, name=network.name)


def with_sets(network: keras.Model) -> keras.Model:
    """Let a network that returns logits of labels return the set of each pixel's labels, uint8 ``(B, H, W)``."""
    return keras.Model(network.input, LabelSets(name="classes")(network.output), name=network.name)


def with_argmax(network: keras.Model) -> keras.Model:
    """Let a network that returns logits return the id of each pixel's class, uint8 ``(B, H, W)``."""
    return keras.Model(network.input, ClassIds(name="classes")(network.output), name=network.name)


def _spread(split: data.Split, count: int) -> np.ndarray:
    """At most ``count`` of the split's images, evenly spaced."""
    images, _ = split.read(np.linspace(0, len(split) - 1, min(count, len(split))).astype(int))
    return images


def _parts(file: Path) -> list[Path]:
    """Files and directories that a written file consists of; the file itself comes last."""
    return [*sorted(p for p in file.parent.iterdir() if p.stem == file.stem and p != file), file]


def _move(file: Path, target: Path) -> None:
    parts = _parts(file)
    if len(parts) > 1:  # an old file must not be found with the new parts
        target.unlink(missing_ok=True)
    for part in parts:
        place = target.with_name(part.name)
        if place.is_dir():  # cannot be replaced in one step; this directory is deleted with the old one
            os.replace(place, part.with_name(f"before-{part.name}"))
        os.replace(part, place)


def size_of(file: Path) -> int:
    """Total bytes of a written file and the files that belong to it; it is in a directory of its own."""
    return sum(p.stat().st_size for part in _parts(file) for p in (part.rglob("*") if part.is_dir() else [part]))


def _entry(format: str, file_format: Format, file: Path, metadata: Metadata) -> dict:
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
        "format": format,
        "bytes": size_of(file),
        "size": "dynamic" if metadata.dynamic else list(metadata.size),
        "fixed_because": "" if metadata.dynamic else file_format.fixed_size(metadata.quantization),
        "activation": metadata.activation,
        "quantization": metadata.quantization,
        "backend": keras.backend.backend(),
        "versions": versions,
    }
