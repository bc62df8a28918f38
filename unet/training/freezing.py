"""Training a network while its encoder stays as it is."""

from collections.abc import Callable

import keras
from keras import ops

from unet.encoders.weights import is_encoder

PREPARATION = ("pixels", "normalize")
"""Layers before the encoder, which have no weights."""


def with_frozen_encoder(network: keras.Model) -> Callable:
    """Make the training call of a network whose encoder is not trained.

    Args:
        network: Network from :func:`unet.model.build_unet`, also with the logits of its coarser stages.

    Returns:
        Function from pixels to the network's outputs, called like the network, of whose layers it consists. The encoder
        always works as in inference, with its batch statistics and without dropout, and no gradient flows into it.
    """
    # A stem takes normalized pixels, not those of the input: a model that begins at the input and at other tensors
    # changes the input's place in the graph, and the network cannot be saved any more (Keras 3.15).
    own = [layer for layer in network.layers if is_encoder(layer) or layer.name in PREPARATION]
    others = [layer for layer in network.layers if layer not in own]
    outputs = {id(tensor) for layer in own for tensor in keras.tree.flatten(layer.output)}
    inputs = {id(tensor): tensor for layer in others for tensor in keras.tree.flatten(layer.input)}
    features = [tensor for key, tensor in inputs.items() if key in outputs]
    encoder, decoder = keras.Model(network.inputs, features), keras.Model(features, network.output)

    def call(pixels, training=False):
        return decoder([ops.stop_gradient(feature) for feature in encoder(pixels, training=False)], training=training)

    return call
