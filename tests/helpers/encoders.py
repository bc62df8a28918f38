"""Encoders on their own, and what the tests need to know about them beyond the registry."""

import functools

import keras
import numpy as np

from unet import encoders, upsamplers
from unet.blocks import StageBlock
from unet.encoders import ENCODERS
from unet.encoders.plan import Plan

WIDTH = 4
"""Width of stems, plain encoders and decoders."""
PRETRAINED = [name for name, entry in ENCODERS.items() if entry.pretrained]
STRIDED = [name for name, entry in ENCODERS.items() if not entry.pools]


def full_depth(name: str) -> int:
    """Number of times that an encoder halves the resolution by default."""
    return Plan.of(name, None, WIDTH, None, None, "nearest").depth


def build_maps(name: str, depth: int | None = None, seed: int = 0, dtype: str | None = None) -> keras.Model:
    """A model from pixels of any size to the feature maps at strides 1, 2, 4, …; those that pool keep the positions."""

    def pool(x, name):
        return upsamplers.MaxPoolWithArgmax(dtype=dtype, name=name)(x)

    plan = Plan.of(name, depth, WIDTH, None, None, "nearest")
    stage = StageBlock("plain", "batch", 0.0, "relu", "he_normal", seed, dtype)
    pixels = keras.Input((None, None, 3), name="pixels")
    levels = encoders.create(name).levels(pixels, plan.depth, plan.encoder, stage, pool)
    return keras.Model(pixels, [level.features for level in levels])


maps = functools.cache(build_maps)
"""The same, built once; not to be changed."""


def randomize(network: keras.Model, rng: np.random.Generator) -> None:
    """Give every bias and every batch normalization random values, so that none does nothing; kernels are random."""
    for weight in network.weights:
        if weight.path.endswith(("gamma", "moving_variance")):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif weight.path.endswith(("beta", "bias", "moving_mean")):
            weight.assign(rng.normal(0, 0.3, weight.shape))
