"""Training a network while its encoder stays as it is."""

from collections.abc import Callable

import keras
from keras import ops

from unet.encoders.weights import is_encoder


def with_frozen_encoder(network: keras.Model) -> Callable:
    """Make the training call of a network whose encoder is not trained.

    Args:
        network: Network from :func:`unet.model.build_unet`, also with the logits of its coarser stages.

    Returns:
        Function from pixels to the network's outputs, called like the network, of whose layers it consists. The encoder
        always works as in inference, with its batch statistics and without dropout, and no gradient flows into it.
    """
    own = [layer for layer in network.layers if is_encoder(layer)]
    others = [layer for layer in network.layers if not is_encoder(layer)]
    outputs = {id(tensor) for layer in own for tensor in keras.tree.flatten(layer.output)}
    inputs = {id(tensor): tensor for layer in others for tensor in keras.tree.flatten(layer.input)}
    features = [tensor for key, tensor in inputs.items() if key in outputs]
    encoder = keras.Model(network.inputs, features)
    decoder = keras.Model([*network.inputs, *features], network.output)

    def call(pixels, training=False):
        frozen = [ops.stop_gradient(feature) for feature in encoder(pixels, training=False)]
        return decoder([pixels, *frozen], training=training)

    return call
