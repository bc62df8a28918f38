"""File formats that other runtimes load, and the registry that ``unet export`` names them by.

Adding one: a class (:class:`~unet.formats.base.Format`), and a line in ``FORMATS``. A runtime is imported only
when a file of its format is written or loaded.
"""

from pathlib import Path

from unet import backend
from unet.errors import InputError, nearest
from unet.formats.base import ACTIVATIONS, Format, LoadedNetwork, Metadata
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


def choose(name: str, activation: str = "softmax", quantize: str = "none") -> Format:
    """The format of that name, where it can do what is asked of it.

    Raises:
        InputError: It is not known, or cannot.
    """
    if name not in FORMATS:
        raise InputError(f"--format: {name!r} is not one of {', '.join(FORMATS)}{nearest(name, FORMATS)}")
    possible = ("none", *FORMATS[name].quantizations)
    if quantize not in possible:
        raise InputError(f"--quantize: {quantize!r} is not possible in {name}, which knows {', '.join(possible)}")
    if activation not in ACTIVATIONS:
        raise InputError(f"--activation: {activation!r} is not one of {', '.join(ACTIVATIONS)}")
    return FORMATS[name]


def is_exported(path: Path) -> bool:
    """Whether ``path`` looks like a file that ``unet export`` writes."""
    return any(file_format.recognises(path) for file_format in FORMATS.values())


def load_network(path: str | Path) -> LoadedNetwork:
    """Load a run directory or an exported file, each in its own runtime.

    Raises:
        InputError: It is neither, its runtime is not installed, or the run has not been trained yet.
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
            except ValueError as error:
                raise InputError(f"{path}: its metadata are not what unet export writes: {error}") from error
    endings = ", ".join(file_format.suffix for file_format in FORMATS.values() if file_format.suffix)
    what = "there is no such file or directory" if not path.exists() else "is neither a run nor an exported file"
    raise InputError(f"{path}: {what}; expected a run directory, a SavedModel directory or a file ({endings})")


def describe(run) -> Metadata:
    """What is known of a run's network: from pixels to logits, at any size."""
    config, info = run.config, run.info
    return Metadata(
        classes=info.classes,
        colours=info.colours,
        size=config.data.size,
        dynamic=True,
        activation="none",
        quantization="none",
        upsampler=config.model.upsampler.name,
        normalization="pixels 0 to 255 in RGB order; the network scales them itself",
        licence=_LICENCES.get(config.data.source, "not stated; the terms of the training images apply"),
        config=config.model_dump(mode="json", exclude={"data": {"data_dir", "cache_dir"}}),  # nobody else's paths
    )


__all__ = ["FORMATS", "Format", "LoadedNetwork", "Metadata", "choose", "describe", "is_exported", "load_network"]
