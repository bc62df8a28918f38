"""``training.remat``: the gradient computes activations again, for less memory (Chen et al. 2016, arXiv:1604.06174)."""

import re
from collections.abc import Callable

import keras
from keras import ops, tree

from unet.encoders.weights import is_encoder

_STAGE = re.compile(r"(encoder|decoder)_\d+|bottleneck|stem")
"""What the names of a stage's layers begin with."""


def with_remat(network: keras.Model, frozen: bool = False) -> Callable:
    """Make a training call that keeps the tensors between stages; the gradient computes those within a stage again.

    Results do not change: random numbers repeat, and batch statistics are updated once. ``keras.RematScope`` wraps
    single layers, whose inputs are most of what a network keeps, and updates batch statistics twice.

    Args:
        network: Model from :func:`unet.model.build_unet`, also with the logits of its coarser stages.
        frozen: Whether its encoder is not trained; see :func:`unet.training.freezing.with_frozen_encoder`.

    Returns:
        Function from pixels to the network's outputs, called like the network, of whose layers it consists.
    """
    stages: dict[str, list[keras.Layer]] = {}
    for layer in network.layers:
        if not isinstance(layer, keras.layers.InputLayer):
            stage = _STAGE.match(layer.name)
            stages.setdefault(stage.group() if stage else layer.name, []).append(layer)
    parts = [_Part(layers, network, frozen and is_encoder(layers[0])) for layers in stages.values()]

    def call(pixels, training=False):
        values = {id(network.inputs[0]): pixels}
        waiting = list(parts)
        while waiting:
            part = next(part for part in waiting if part.inputs <= values.keys())
            waiting.remove(part)
            values |= part(values, training)
        return tree.map_structure(lambda tensor: values[id(tensor)], network.output)

    return call


class _Part:
    """Some layers of a network, as a function of the tensors that they get from others.

    Args:
        layers: The layers.
        network: The network.
        fixed: Whether they work as in inference, and no gradient flows into them.
    """

    def __init__(self, layers: list[keras.Layer], network: keras.Model, fixed: bool):
        others = [layer for layer in network.layers if layer not in layers]
        inner, outer = (
            {id(tensor) for layer in group for tensor in tree.flatten(layer.output)} for group in (layers, others)
        )
        needed = [tensor for layer in others for tensor in tree.flatten(layer.input)] + network.outputs
        given = [tensor for layer in layers for tensor in tree.flatten(layer.input)]
        inputs = {id(tensor): tensor for tensor in given if id(tensor) in outer}
        outputs = {id(tensor): tensor for tensor in needed if id(tensor) in inner}
        self.inputs, self.outputs = inputs.keys(), outputs.keys()
        self.model = keras.Model(list(inputs.values()), list(outputs.values()))
        self.fixed = fixed

    def __call__(self, values: dict, training: bool) -> dict:
        """Values of the tensors that others get, by their ``id``, from those of ``self.inputs``."""
        inputs = [values[key] for key in self.inputs]
        inputs = inputs if len(inputs) > 1 else inputs[0]
        if self.fixed:
            outputs = [ops.stop_gradient(output) for output in tree.flatten(self.model(inputs, training=False))]
        elif training:
            outputs = self._recomputed(inputs)
        else:
            outputs = tree.flatten(self.model(inputs, training=False))
        return dict(zip(self.outputs, outputs, strict=True))

    def _recomputed(self, inputs: list) -> list:
        """Outputs in training, which are computed again for the gradient."""
        trained, state = self.model.trainable_variables, self.model.non_trainable_variables

        @keras.remat
        def pure(weights, values, inputs):
            return self.model.stateless_call(weights, values, inputs, training=True)

        outputs, new = pure([each.value for each in trained], [ops.copy(each) for each in state], inputs)
        for variable, value in zip(state, new, strict=True):
            variable.assign(value)
        return tree.flatten(outputs)
