"""Checks of a ``.keras`` file before Keras builds what it describes: no code, and no more memory than its weights take.

Keras itself checks the sizes of compressed members and arrays, and follows no links out of the file.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from unet import records
from unet.errors import InputError
from unet.upsamplers import Upsampler

LAYERS = {
    *("Activation", "Add", "BatchNormalization", "Concatenate", "Conv2D", "DepthwiseConv2D", "Dropout"),
    *("GlobalAveragePooling2D", "GroupNormalization", "InputLayer", "MaxPooling2D", "Multiply", "ReLU", "Rescaling"),
    *("Reshape", "Softmax", "ZeroPadding2D"),
}
"""Layers of Keras that the networks of this package consist of, besides the package's own."""
MOST_LAYERS = 2000
EXCESS = 16
"""A network may claim this many times the parameters that its file holds, before it counts as damaged."""


def check(path: Path) -> None:
    """Check the network that a ``.keras`` file describes.

    Raises:
        InputError: The file is damaged, contains code, or describes more parameters than it holds.
    """
    text = records.text_in(path, "config.json")
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
    claimed = sum(_claimed(layer) for layer in layers)
    if claimed > EXCESS * path.stat().st_size + 2**20:
        raise InputError(f"{path}: describes {claimed:,} parameters but holds fewer; it is damaged or malicious")


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
    known = keras.saving.get_registered_object(registered) if isinstance(registered, str) else None
    is_upsampler = isinstance(known, type) and issubclass(known, Upsampler)  # a program may register its own
    if not (
        (known is not None and (is_upsampler or str(registered).startswith("unet>")))
        or (module == "keras.layers" and name in LAYERS)
        or (module == "keras.src.models.functional" and name == "Functional")
        or (module == "keras.initializers" and isinstance(getattr(keras.initializers, str(name), None), type))
        or (module == "keras" and name == "DTypePolicy")
        or (module is None and name in ("__keras_tensor__", "__tuple__", "__ellipsis__"))
    ):
        described = ".".join(str(word) for word in (module, name) if word)
        raise InputError(
            f"{path}: contains {described or 'an object without a name'}, which does not belong in such a "
            "network, and is refused"
        )


def _claimed(layer) -> int:
    """About how many parameters a layer would have: inputs × outputs × kernel."""
    if not isinstance(layer, dict) or not isinstance(config := layer.get("config"), dict):
        return 0
    plain = {key: value for key, value in config.items() if key != "seed" and not isinstance(value, dict)}
    numbers = {key: list(_numbers(value)) for key, value in plain.items()}
    kernel = math.prod(numbers.pop("kernel_size", [1]))
    wide = [number for values in numbers.values() for number in values]
    return kernel * max(wide, default=1) * max(_numbers(layer.get("build_config")), default=1)


def _numbers(value) -> Iterator[int]:
    """Positive whole numbers in a value, in lists and dictionaries too."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from _numbers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(inner)
    elif isinstance(value, int) and value > 0:
        yield value


def load(path: Path) -> keras.Model:
    """Load a checked file for inference.

    Raises:
        InputError: See :func:`check`; or Keras cannot load it.
    """
    check(path)
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras, HDF5 and the backends raise many classes of errors
        raise InputError(f"{path}: Keras cannot load it ({records.cause(error)})") from error
