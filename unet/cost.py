"""Cost of a network: parameters, multiply-adds and activation memory, measured from the built model."""

import math
import re
from dataclasses import dataclass

import keras

from unet.upsamplers import Upsampler


@dataclass
class Stage:
    """Cost of a group of layers, for one image."""

    name: str
    output: tuple[int, ...] = ()
    """Output shape ``(H, W, C)`` of the last layer."""
    parameters: int = 0
    multiply_adds: int = 0
    """Multiply-adds of convolutions and upsamplers; normalization, activation and pooling are not counted."""
    activation_bytes: int = 0
    """Memory of all layer outputs in bytes, which the backward pass needs if nothing is fused or recomputed."""


def stages(model: keras.Model) -> list[Stage]:
    """Cost by stage, in the order of computation.

    Args:
        model: Network from :func:`unet.model.build_unet` with a fixed height and width.

    Raises:
        ValueError: The model has a dynamic size, on which the cost depends.
    """
    if None in model.inputs[0].shape[1:]:
        raise ValueError("cost depends on the image size: build the model with input_shape=(height, width, 3)")
    found: dict[str, Stage] = {}
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        stage = found.setdefault(_stage_name(layer.name), Stage(_stage_name(layer.name)))
        outputs = layer.output if isinstance(layer.output, list | tuple) else [layer.output]
        if len(outputs) == 1:
            stage.output = tuple(outputs[0].shape[1:])
        stage.parameters += layer.count_params()
        stage.multiply_adds += multiply_adds(layer)
        stage.activation_bytes += sum(math.prod(output.shape[1:]) * _bytes(output.dtype) for output in outputs)
    return sorted(found.values(), key=_position)


def multiply_adds(layer: keras.Layer) -> int:
    """Multiply-adds of one layer for one image."""
    if isinstance(layer, Upsampler):
        return layer.multiply_adds(_input_shape(layer))
    if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
        return math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:3])
    return 0


def total(costs: list[Stage]) -> Stage:
    """Sum of all stages, with the output of the last one."""
    whole = Stage("total", costs[-1].output)
    for cost in costs:
        whole.parameters += cost.parameters
        whole.multiply_adds += cost.multiply_adds
        whole.activation_bytes += cost.activation_bytes
    return whole


def surplus(model: keras.Model) -> tuple[int, int]:
    """Parameters and multiply-adds of the upsamplers beyond the projection that all of them share.

    The projection is a 2×2 convolution with bias at low resolution, ``4·C_in·filters + filters`` parameters.
    """
    parameters = work = 0
    for layer in model.layers:
        if isinstance(layer, Upsampler):
            height, width, channels = _input_shape(layer)
            kernel = 4 * channels * layer.filters
            parameters += layer.count_params() - kernel - layer.filters
            work += multiply_adds(layer) - kernel * height * width
    return parameters, work


def _stage_name(layer_name: str) -> str:
    """Stage of a layer: ``encoder_1_conv_2`` belongs to encoder_1; each upsampler is a stage of its own."""
    match = re.match(r"(stem|encoder_\d+|bottleneck|decoder_\d+_up|decoder_\d+)(_|$)", layer_name)
    return match.group(1) if match else layer_name


def _position(stage: Stage) -> int:
    """Position of a stage in the table: Keras has a stem, which the last decoder stage needs, behind the encoder."""
    return ("normalize", "stem").index(stage.name) if stage.name in ("normalize", "stem") else 2


def _input_shape(layer: keras.Layer) -> tuple[int, ...]:
    inputs = layer.input if isinstance(layer.input, list | tuple) else [layer.input]
    return tuple(inputs[0].shape[1:])


def _bytes(dtype: str) -> int:
    bits = "".join(filter(str.isdigit, dtype))
    return int(bits) // 8 if bits else 1  # bool
