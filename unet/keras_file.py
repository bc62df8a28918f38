"""Checks of a ``.keras`` file before Keras builds what it describes: no code, and no more weights than it holds.

Keras itself checks the sizes of compressed members and arrays, and follows no links out of the file.
"""

import contextlib
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from unet import records
from unet.console import quiet_stderr
from unet.errors import InputError
from unet.upsamplers import Upsampler

LAYERS = {
    *("Activation", "Add", "BatchNormalization", "Concatenate", "Conv2D", "DepthwiseConv2D", "Dropout"),
    *("GlobalAveragePooling2D", "GroupNormalization", "InputLayer", "MaxPooling2D", "Multiply", "ReLU", "Rescaling"),
    *("Reshape", "Softmax", "ZeroPadding2D"),
}
"""Layers of Keras that the networks of this package consist of, besides the package's own."""
MOST_LAYERS = 2000
WEIGHTS = "model.weights.h5"
MEMBERS = {"config.json", WEIGHTS, "metadata.json", "model_info.json"}
"""Members of the archive; Keras would unpack others."""
_LOADING = threading.Lock()


def _check(path: Path, text: str | None) -> None:
    """Check the network that ``config.json`` of a ``.keras`` file describes.

    Raises:
        InputError: It is missing or damaged, or contains code or anything else that is no part of such a network.
    """
    if text is None:
        raise InputError(f"{path}: has no config.json, so it is not a .keras file; give a run or an exported file")
    try:
        content = records.parse(text, dict[str, Any])
    except ValueError as error:
        raise InputError(f"{path}: config.json {error}") from None
    for part in _parts(content):
        _check_part(path, part)
    layers = content["config"].get("layers") if isinstance(content.get("config"), dict) else None
    if content.get("class_name") != "Functional" or not isinstance(layers, list) or len(layers) > MOST_LAYERS:
        raise InputError(f"{path}: config.json does not describe a network of this package")


def _parts(content) -> Iterator[dict]:
    """Every serialized object in a configuration."""
    if isinstance(content, dict):
        if "class_name" in content or "registered_name" in content or "module" in content:
            yield content
        for value in content.values():
            yield from _parts(value)
    elif isinstance(content, list):
        for value in content:
            yield from _parts(value)


def _check_part(path: Path, part: dict) -> None:
    """Accept only the objects that networks of this package consist of."""
    module, name, registered = (part.get(key) for key in ("module", "class_name", "registered_name"))
    if name in ("Lambda", "__lambda__"):
        raise InputError(f"{path}: contains a Lambda layer, which is code, and is refused; code in a file is never run")
    if not isinstance(name, str):
        raise InputError(f"{path}: contains an object without a name, and is refused")
    known = keras.saving.get_registered_object(registered) if isinstance(registered, str) else None
    is_upsampler = isinstance(known, type) and issubclass(known, Upsampler)  # a program may register its own
    own = is_upsampler or str(registered).startswith("unet>")
    if not (
        (own and getattr(known, "__name__", None) == name)
        or (module == "keras.layers" and name in LAYERS)
        or (module == "keras.src.models.functional" and name == "Functional")
        or (module == "keras.initializers" and isinstance(getattr(keras.initializers, name, None), type))
        or (module == "keras" and name == "DTypePolicy")
        or (module is None and name in ("__keras_tensor__", "__tuple__", "__ellipsis__"))
    ):
        described = f"{module}.{name}" if isinstance(module, str) else name
        raise InputError(f"{path}: contains {described[:80]}, which is no part of such a network; it is refused")


def load(path: Path) -> keras.Model:
    """Check a file and load it for inference.

    Raises:
        InputError: It is damaged, contains code or anything else that is no part of such a network, or Keras cannot
            load it.
    """
    with records.open_archive(path) as archive:
        sizes = {member.filename: member.file_size for member in archive.infolist()}
        text = records.text_of_member(archive, "config.json", path)
    if unknown := sorted(sizes.keys() - MEMBERS):
        raise InputError(f"{path}: contains {unknown[0][:80]}, which is no part of such a network; it is refused")
    _check(path, text)
    try:
        with _weights_limited_to(sizes.get(WEIGHTS, 0), path), quiet_stderr():  # Keras warns before it fails
            return keras.saving.load_model(path, compile=False, safe_mode=True)
    except InputError:
        raise
    except Exception as error:  # Keras, HDF5 and the backends raise many classes of errors
        reason = str(error).rpartition("Exception encountered: ")[2]  # Keras quotes the configuration before
        raise InputError(f"{path}: Keras cannot load it ({records.cause(reason or error)})") from error


@contextlib.contextmanager
def _weights_limited_to(numbers: int, path: Path) -> Iterator[None]:
    """Let this thread add a limited quantity of numbers as weights to layers.

    What a network will hold is known only when its layers are built, which allocates them.
    """
    thread = threading.get_ident()

    def add_weight(layer, shape=None, *args, **kwargs):
        nonlocal numbers
        if threading.get_ident() == thread:
            numbers -= math.prod(shape or ())
            if numbers < 0:
                raise InputError(f"{path}: describes more parameters than it holds; it is damaged or malicious")
        return original(layer, shape, *args, **kwargs)

    with _LOADING:
        original = keras.Layer.add_weight
        keras.Layer.add_weight = add_weight
        try:
            yield
        finally:
            keras.Layer.add_weight = original
