"""File formats that other runtimes load, and the registry of their names.

To add one, write a :class:`~unet.formats.base.Format` and register it in ``FORMATS``. A runtime is imported only when a
file of its format is written or loaded.
"""

from pathlib import Path

from pydantic import ValidationError

from unet import backend, records
from unet.config import Config
from unet.encoders import ENCODERS
from unet.errors import InputError, nearest
from unet.formats.base import ACTIVATIONS, LICENCE, OTHER_PIXELS, PIXELS, VERSION, Format, LoadedNetwork, Metadata
from unet.formats.keras import KerasFormat, KerasNetwork
from unet.formats.litert import LiteRT
from unet.formats.onnx import Onnx
from unet.formats.openvino import OpenVINO
from unet.formats.saved_model import SavedModel
from unet.formats.torch import ExportedProgram

FORMATS: dict[str, Format] = {
    "savedmodel": SavedModel(),
    "onnx": Onnx(),
    "litert": LiteRT(),
    "openvino": OpenVINO(),
    "torch": ExportedProgram(),
    "keras": KerasFormat(),
}

_LICENCES = {
    "pets": "trained on Oxford-IIIT Pets (CC BY-SA 4.0; the photographs belong to their owners)",
    "shapes": "Apache-2.0; trained on drawn shapes",
}
"""Terms of the weights, by the data they were trained on."""


def choose(format: str, activation: str = "softmax", quantize: str = "none") -> Format:
    """Look up a format and check that it supports the other arguments.

    Raises:
        InputError: The format is unknown, or does not support an argument.
    """
    if format not in FORMATS:
        raise InputError(f"{format!r} is not one of {', '.join(FORMATS)}{nearest(format, FORMATS)}", "format")
    possible = ("none", *FORMATS[format].quantizations)
    if quantize not in possible:
        raise InputError(f"{quantize!r} is not possible in {format}, which supports {', '.join(possible)}", "quantize")
    if activation not in ACTIVATIONS:
        raise InputError(f"{activation!r} is not one of {', '.join(ACTIVATIONS)}", "activation")
    return FORMATS[format]


def is_exported(path: Path) -> bool:
    """Whether ``path`` looks like an exported file."""
    return any(file_format.recognises(path) for file_format in FORMATS.values())


def load_network(path: str | Path) -> LoadedNetwork:
    """Load a run directory or an exported file in its own runtime. Training data are never opened.

    Raises:
        InputError: The path is neither, its runtime is not installed, or the run has not been trained yet.
    """
    from unet.runs import Run

    path = Path(path)
    if (path / "config.yaml").is_file():
        backend.use_backend()
        run = Run.open(path)
        return KerasNetwork(path, describe(run), run.trained_network())
    for file_format in FORMATS.values():
        if file_format.recognises(path):
            try:
                return file_format.load(path)
            except ValueError as error:  # of the metadata
                raise InputError(f"{path}: {error}") from error
    endings = ", ".join(file_format.suffix for file_format in FORMATS.values() if file_format.suffix)
    what = "is neither a run nor an exported file" if path.exists() else "there is no such file or directory"
    raise InputError(f"{path}: {what}; expected a run directory, a SavedModel directory or a file ({endings})")


def describe(run) -> Metadata:
    """Metadata of a run's network: pixels in, logits out, at any size."""
    config, info = run.config, run.info
    try:
        return Metadata(
            version=1 if config.data.is_rgb and config.model.head != "labels" else VERSION,
            classes=info.classes,
            colours=info.colours,
            size=config.data.size,
            sampling=config.data.sampling,
            scale=config.data.scale,
            channels=config.data.channels,
            dtype=config.data.dtype,
            normalization=PIXELS if config.data.is_rgb else OTHER_PIXELS,
            dynamic=True,
            activation="none",
            encoder=config.model.encoder,
            upsampler=config.model.upsampler.name,
            head=config.model.head,
            licence=_terms(config),
            config=config.without_paths(),
        )
    except ValidationError as error:
        raise InputError(f"{run.path}: {records.reason(error)}") from None


def _terms(config: Config) -> str:
    """Terms of a network's weights, by the data they were trained on and those that its encoder was trained on."""
    terms, model = _LICENCES.get(config.data.source, LICENCE), config.model
    if model.weights == "none":
        return terms
    if model.weights_file is not None:
        return f"{terms}; the encoder started from weights in a file, whose terms apply"
    licence = ENCODERS[model.encoder].licence
    return f"{terms}; the encoder started from {model.encoder} weights trained on ImageNet ({licence})"


__all__ = ["FORMATS", "Format", "LoadedNetwork", "Metadata", "choose", "describe", "is_exported", "load_network"]
