"""Putting pretrained weights into a network."""

from pathlib import Path

import keras

from unet.encoders import create
from unet.errors import InputError

OWN = ("encoder_", "bottleneck")
"""Beginnings of the names of an encoder's layers; a stem in front of a pretrained encoder is not one of them."""


def is_encoder(layer: keras.Layer) -> bool:
    """Whether a layer of a network belongs to its encoder."""
    return layer.name.startswith(OWN)


def is_encoder_variable(variable: keras.Variable) -> bool:
    """Whether a variable of a network, or of a model that contains it, belongs to the network's encoder."""
    return variable.path.startswith(OWN)


def load_pretrained(network: keras.Model, encoder: str, source: str | Path) -> None:
    """Replace the weights of the network's encoder by pretrained ones.

    Args:
        network: Network from :func:`unet.model.build_unet`.
        encoder: Name of its encoder.
        source: ``"imagenet"``, or a file in the format of the encoder's source.

    Raises:
        InputError: The weights cannot be had, or are those of another network.
    """
    found = create(encoder).weights(source)
    for layer in network.layers:
        if not is_encoder(layer) or not layer.weights:
            continue
        given = [array.shape for array in found.get(layer.name, ())]
        if given != [tuple(weight.shape) for weight in layer.weights]:
            raise InputError(f"model.weights: {source}: does not fit layer {layer.name} of {encoder}")
        layer.set_weights(found[layer.name])
