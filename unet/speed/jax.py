"""Remedies for Keras on JAX: slow starts, convolutions and counts, and training again with averaged weights."""

import functools
import math
from collections.abc import Callable

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp
from keras.src.backend.jax import core, nn, random
from keras.src.metrics import iou_metrics
from keras.src.optimizers import base_optimizer

from unet.speed import Remedy

LARGEST = 49
"""Largest number of taps that are written out; a convolution with more compiles slowly."""

MOST_CLASSES = 8
"""Largest number of classes whose confusion matrix is counted by comparisons."""

MOST_NUMBERS = 2**24
"""Largest number of random numbers that are drawn in one dimension."""


def as_sum(convolve: Callable) -> Callable:
    """Depthwise convolution of maps ``(B, H, W, C)`` as a sum of shifted maps, each times one weight per channel.

    XLA fuses the sum into one loop. Its own depthwise convolution takes 10 to 50 times as long on a CPU, and the
    gradients 2 to 28 times.
    """

    @functools.wraps(convolve)
    def add_up(inputs, kernel, strides=1, padding="valid", data_format=None, dilation_rate=1):
        inputs, kernel = core.convert_to_tensor(inputs), core.convert_to_tensor(kernel)
        given = (inputs, kernel, strides, padding, data_format, dilation_rate)
        if (
            jax.default_backend() != "cpu"
            or nn.backend.standardize_data_format(data_format) != "channels_last"
            or inputs.ndim != 4
            or inputs.shape[-1] != kernel.shape[2]
            or kernel.shape[0] * kernel.shape[1] > LARGEST
        ):
            return convolve(*given)
        strides, dilations = ((value, value) if isinstance(value, int) else value for value in (strides, dilation_rate))
        window = [(size - 1) * dilation + 1 for size, dilation in zip(kernel.shape[:2], dilations, strict=True)]
        pads = lax.padtype_to_pads(inputs.shape[1:3], window, strides, padding.upper())
        padded = [size + sum(pad) for size, pad in zip(inputs.shape[1:3], pads, strict=True)]
        spans = [size - reach + 1 for size, reach in zip(padded, window, strict=True)]
        if min(spans) < 1:  # nothing is left
            return convolve(*given)
        dtype = jnp.promote_types(inputs.dtype, "float32")
        x, weights = jnp.pad(inputs.astype(dtype), [(0, 0), *pads, (0, 0)]), kernel.astype(dtype)
        total = sum(
            x[:, top : top + spans[0] : strides[0], left : left + spans[1] : strides[1], :, None] * weights[i, j]
            for i, top in enumerate(range(0, window[0], dilations[0]))
            for j, left in enumerate(range(0, window[1], dilations[1]))
        )
        return total.reshape(*total.shape[:3], -1).astype(inputs.dtype)

    return add_up


def compared(scatter: Callable) -> Callable:
    """Confusion matrix of a few classes, on a GPU by comparing every pixel with each of them.

    XLA fuses the comparisons into one loop. Keras adds one to a cell per pixel, and on a GPU these additions wait for
    each other.
    """

    @functools.wraps(scatter)
    def count(labels, predictions, num_classes, weights=None, dtype="int32"):
        if jax.default_backend() == "cpu" or num_classes > MOST_CLASSES or labels.ndim != 1 or predictions.ndim != 1:
            return scatter(labels, predictions, num_classes, weights, dtype)
        classes = jnp.arange(num_classes)
        true, predicted = (values.astype("int32")[:, None] == classes for values in (labels, predictions))
        added = jnp.ones_like(labels, dtype) if weights is None else jnp.asarray(weights, dtype)
        return jnp.sum(jnp.where(true[:, :, None] & predicted[:, None, :], added[:, None, None], 0), axis=0)

    return count


def in_one_dimension(draw: Callable) -> Callable:
    """Random numbers as the first of a vector, whose length is a power of four.

    XLA compiles the drawing for every shape, and longer for four dimensions than for one: for the weights of a small
    network, most of the time in which it is built. JAX's generator numbers the values, so the first of a longer vector
    are the same.
    """

    @functools.wraps(draw)
    def draw_first(shape, *args, seed=None, **kwargs):
        seed, size = random.jax_draw_seed(seed), math.prod(shape)
        numbered = seed.shape == (2,) and jax.threefry_partitionable.value  # a key of Threefry
        if isinstance(seed, jax.core.Tracer) or not numbered or not 0 < size <= MOST_NUMBERS:
            return draw(shape, *args, seed=seed, **kwargs)
        bits = max(10, (size - 1).bit_length())
        values = draw((2 ** (bits + bits % 2),), *args, seed=seed, **kwargs)
        if isinstance(values, jax.core.Tracer):  # within a compiled function, but with a known seed
            return draw(shape, *args, seed=seed, **kwargs)
        return jnp.asarray(np.asarray(values)[:size].reshape(shape))

    return draw_first


def with_copies(overwrite: Callable) -> Callable:
    """Assign moving averages to the weights at the end of ``fit`` as copies.

    In Keras a weight and its average are then one buffer. The next training step donates it twice, which is an error.
    """

    @functools.wraps(overwrite)
    def copy(optimizer, variables):
        overwrite(optimizer, variables)
        for variable in variables:
            variable.assign(jnp.copy(variable.value))

    return copy


REMEDIES: tuple[Remedy, ...] = (
    *((random, name, in_one_dimension) for name in ("normal", "truncated_normal", "uniform")),
    (nn, "depthwise_conv", as_sum),
    (iou_metrics, "confusion_matrix", compared),
    (base_optimizer.BaseOptimizer, "_overwrite_model_variables_with_average_value", with_copies),
)
