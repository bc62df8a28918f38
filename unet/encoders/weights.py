"""Pretrained weights: reading them, and putting them into a network."""

from pathlib import Path

import keras
import numpy as np

from unet.encoders import create
from unet.encoders.base import IMAGENET
from unet.errors import InputError
from unet.files import expanded, open_file

OWN = ("encoder_", "bottleneck")
"""Beginnings of the names of an encoder's layers; a stem in front of a pretrained encoder is not one of them."""


def is_encoder(layer: keras.Layer) -> bool:
    """Whether a layer of a network belongs to its encoder."""
    return layer.name.startswith(OWN)


def is_encoder_variable(variable: keras.Variable) -> bool:
    """Whether a variable of a network, or of a model that contains it, belongs to the network's encoder."""
    return variable.path.startswith(OWN)


def read_pretrained(encoder: str, source: str | Path) -> dict[str, list[np.ndarray]]:
    """Read the pretrained weights of an encoder, and check that they are its own.

    Args:
        encoder: Name of the encoder.
        source: ``"imagenet"``, or a file in the format of the encoder's source.

    Returns:
        Weights of every layer by its name.

    Raises:
        InputError: The weights cannot be had, or are those of another network.
    """
    try:
        if source != IMAGENET:
            source = expanded(source)
            open_file(source).close()
        return create(encoder).weights(source)
    except OSError as error:
        raise InputError(
            f"model.weights: {source}: cannot be read: {error.strerror or error}; give imagenet, none, or the path of "
            "a file"
        ) from None
    except InputError as error:
        raise InputError(f"model.weights: {error}") from error


def assign_pretrained(network: keras.Model, weights: dict[str, list[np.ndarray]]) -> None:
    """Replace the weights of the network's encoder by those that :func:`read_pretrained` returned.

    If images have other channels than red, green and blue, the first kernel is that of :func:`for_channels`.
    """
    for layer in network.layers:
        if is_encoder(layer) and layer.weights:
            values = weights[layer.name]
            wanted = layer.weights[0].shape
            if values[0].shape != wanted and values[0].shape[2] == 3:
                values = [for_channels(values[0], wanted[2]), *values[1:]]
            layer.set_weights(values)


def for_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Adapt a kernel for red, green and blue to another number of channels, as timm does.

    Channels take the weights of red, green, blue, red, … times 3 / channels, so that responses keep their size. A
    single channel takes their sum.

    Args:
        kernel: ``(height, width, 3, filters)``.
        channels: Number of channels of the images.

    Returns:
        ``(height, width, channels, filters)``.
    """
    if channels == 1:
        return kernel.sum(2, keepdims=True)
    return kernel[:, :, np.arange(channels) % 3] * (3 / channels)
