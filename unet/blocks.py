"""What encoder and decoder are built from: the convolutions of a stage, and weights that a name decides."""

import math
import zlib
from dataclasses import dataclass

import keras
from keras import layers

BLOCKS = ("plain", "residual")
NORMALIZATIONS = ("batch", "group", "none")
MOMENTUM = 0.9
"""Momentum of the moving statistics of every batch normalization."""


@dataclass(frozen=True)
class StageBlock:
    """Two 3×3 convolutions with normalization and activation, as :func:`unet.model.build_unet` describes them.

    Calling it adds the layers of one stage to a functional model.
    """

    kind: str
    normalization: str
    dropout: float
    activation: str
    kernel_initializer: str
    seed: int
    dtype: str | None

    def __call__(self, x, filters: int, name: str):
        """Apply the stage called ``name``: ``(B, h, w, C)`` to ``(B, h, w, filters)``."""
        y = self.convolution(x, filters, 3, f"{name}_conv_1")
        y = self.activate(y, f"{name}_act_1")
        if self.dropout:
            layer_name = f"{name}_dropout"
            seed = seed_of(self.seed, layer_name)
            y = layers.Dropout(self.dropout, seed=seed, dtype=self.dtype, name=layer_name)(y)
        y = self.convolution(y, filters, 3, f"{name}_conv_2")
        if self.kind == "residual":
            if x.shape[-1] != filters:
                x = self.convolution(x, filters, 1, f"{name}_shortcut")
            y = layers.Add(dtype=self.dtype, name=f"{name}_add")([x, y])
        return self.activate(y, f"{name}_act_2")

    def convolution(self, x, filters: int, kernel_size: int, name: str):
        """Apply a convolution with normalization: ``(B, h, w, C)`` to ``(B, h, w, filters)``."""
        x = layers.Conv2D(
            filters,
            kernel_size,
            padding="same",
            data_format="channels_last",
            use_bias=self.normalization == "none",
            kernel_initializer=self.initializer(name),
            dtype=self.dtype,
            name=name,
        )(x)
        if self.normalization == "batch":
            x = layers.BatchNormalization(momentum=MOMENTUM, dtype=self.dtype, name=f"{name}_norm")(x)
        elif self.normalization == "group":
            x = layers.GroupNormalization(math.gcd(filters, 8), dtype=self.dtype, name=f"{name}_norm")(x)
        return x

    def activate(self, x, name: str):
        """Apply the activation."""
        return layers.Activation(self.activation, dtype=self.dtype, name=name)(x)

    def initializer(self, layer_name: str) -> keras.initializers.Initializer:
        """Kernel initializer of the layer called ``layer_name``, with its own seed."""
        return seeded(keras.initializers.get(self.kernel_initializer), seed_of(self.seed, layer_name))


def seeded(initializer: keras.initializers.Initializer, seed: int) -> keras.initializers.Initializer:
    """Copy a random initializer with a seed; others are returned as they are."""
    config = initializer.get_config()
    return type(initializer).from_config(config | {"seed": seed}) if "seed" in config else initializer


def seed_of(seed: int, name: str) -> int:
    """Derive the seed of the part called ``name``: the same on every machine and in any order of construction."""
    return zlib.crc32(f"{seed}/{name}".encode()) & 0x7FFFFFFF
