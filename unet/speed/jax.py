"""Remedies for Keras on JAX: slow starts, layers and counts, and training again with averaged weights."""

import functools
import math
from collections.abc import Callable

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp
from keras.distribution import distribution
from keras.src.backend.jax import core, nn, random
from keras.src.metrics import iou_metrics
from keras.src.optimizers import base_optimizer

from unet.speed import Remedy

LARGEST = 49
"""Largest number of taps that are written out; a convolution with more compiles slowly."""

MOST_CLASSES = 8
"""Largest number of classes whose confusion matrix is counted by comparisons."""

FEW_OUTPUTS = 16
"""Largest number of channels that a 1×1 convolution computes as a matrix product on a GPU."""

LARGEST_WINDOW = 16
"""Largest number of positions of a window in which the maximum is found by comparisons."""

MOST_NUMBERS = 2**24
"""Largest number of random numbers that are drawn in one dimension."""


def _are_maps(inputs, data_format) -> bool:
    """Whether ``inputs`` are maps ``(B, H, W, C)``."""
    return inputs.ndim == 4 and nn.backend.standardize_data_format(data_format) == "channels_last"


def _pair(value) -> tuple[int, ...]:
    """One number for each axis of a map."""
    return (value, value) if isinstance(value, int) else tuple(value)


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
            or not _are_maps(inputs, data_format)
            or inputs.shape[-1] != kernel.shape[2]
            or kernel.shape[0] * kernel.shape[1] > LARGEST
        ):
            return convolve(*given)
        strides, dilations = _pair(strides), _pair(dilation_rate)
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


def as_product(convolve: Callable) -> Callable:
    """1×1 convolution of maps ``(B, H, W, C)`` as a matrix product: on a CPU, and on a GPU if it has few outputs.

    On a CPU, XLA's convolution and its gradients take two to six times as long. On a GPU, cuDNN's convolution to the
    logits of a few classes would need a copy of the whole map in float32.
    """

    @functools.wraps(convolve)
    def multiply(inputs, kernel, strides=1, padding="valid", data_format=None, dilation_rate=1):
        inputs, kernel = core.convert_to_tensor(inputs), core.convert_to_tensor(kernel)
        if (
            (jax.default_backend() != "cpu" and kernel.shape[-1] > FEW_OUTPUTS)
            or not _are_maps(inputs, data_format)
            or kernel.shape[:3] != (1, 1, inputs.shape[-1])
            or _pair(strides) != (1, 1)
            or 0 in inputs.shape
        ):
            return convolve(inputs, kernel, strides, padding, data_format, dilation_rate)
        product = inputs.astype(kernel.dtype).reshape(-1, inputs.shape[-1]) @ kernel[0, 0]
        return product.reshape(*inputs.shape[:3], -1)

    return multiply


def by_comparisons(pool: Callable) -> Callable:
    """Maximum of windows that do not overlap, in maps ``(B, H, W, C)``, and its gradient by comparisons.

    XLA fuses them into one loop each. The gradient that JAX has searches every window again: on a CPU, max-pooling
    takes 4 to 18 times as long in training; on a GPU, it adds to single values, which wait for each other.
    """

    @functools.wraps(pool)
    def compare(inputs, pool_size, strides=None, padding="valid", data_format=None):
        inputs = core.convert_to_tensor(inputs)
        size = _pair(pool_size)
        if (
            not _are_maps(inputs, data_format)
            or len(size) != 2
            or (strides is not None and _pair(strides) != size)
            or not 1 < math.prod(size) <= LARGEST_WINDOW
            or not jnp.issubdtype(inputs.dtype, jnp.floating)
            or 0 in inputs.shape
        ):
            return pool(inputs, pool_size, strides, padding, data_format)
        pads = lax.padtype_to_pads(inputs.shape[1:3], size, size, padding.upper())
        windows = [(n + sum(pad)) // of for n, pad, of in zip(inputs.shape[1:3], pads, size)]
        edges = [
            (before, count * of - n - before, 0)
            for (before, _), count, of, n in zip(pads, windows, size, inputs.shape[1:3])
        ]
        x = lax.pad(inputs, jnp.array(-jnp.inf, inputs.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
        return _largest(x.reshape(x.shape[0], windows[0], size[0], windows[1], size[1], x.shape[3]))

    return compare


@jax.custom_jvp
def _largest(windows):
    """Largest values ``(B, h, w, C)`` of windows ``(B, h, p, w, q, C)``."""
    return functools.reduce(jnp.maximum, _positions(windows))


@_largest.defjvp
def _largest_with_tangent(primals, tangents):
    (windows,), (tangent,) = primals, tangents
    largest, *others = _positions(windows)
    first = jnp.zeros(largest.shape, "int8")
    for number, values in enumerate(others, start=1):
        first = jnp.where(values > largest, jnp.int8(number), first)
        largest = jnp.maximum(largest, values)
    rows, columns = windows.shape[2], windows.shape[4]
    numbers = jnp.arange(rows * columns, dtype="int8").reshape(1, 1, rows, 1, columns, 1)
    chosen = first[:, :, None, :, None] == numbers
    return largest, jnp.sum(jnp.where(chosen, tangent, 0), axis=(2, 4))


def _positions(windows) -> list[jax.Array]:
    """The first values of all windows, the second, and so on, by rows."""
    return [windows[:, :, i, :, j] for i in range(windows.shape[2]) for j in range(windows.shape[4])]


def in_one_pass(moments: Callable) -> Callable:
    """Mean and variance from the sums of ``x − s`` and of its square, where ``s`` is the value in the middle.

    XLA adds both in one pass over the map, and their gradient needs no sums over the map. Keras has one pass for the
    mean, one for the variance, and more in the gradient of the variance. Because ``s`` is a value of the map, the
    result is as exact for a large mean. Several devices would have to send it to each other; there, Keras computes.
    """

    @functools.wraps(moments)
    def both(x, axes, keepdims=False, synchronized=False):
        x = core.convert_to_tensor(x)
        axes = (axes,) if isinstance(axes, int) else axes
        if synchronized or not axes or x.dtype != jnp.float32 or 0 in x.shape or distribution():
            return moments(x, axes, keepdims, synchronized)
        axes = tuple(axis % x.ndim for axis in axes)
        mean, variance = _moments(x, axes)
        return (mean, variance) if keepdims else (jnp.squeeze(mean, axes), jnp.squeeze(variance, axes))

    return both


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _moments(x, axes):
    """Mean and variance along ``axes``, which are kept."""
    middle = x[tuple(slice(n // 2, n // 2 + 1) if axis in axes else slice(None) for axis, n in enumerate(x.shape))]
    apart = x - middle
    mean = jnp.mean(apart, axes, keepdims=True)
    variance = jnp.mean(jnp.square(apart), axes, keepdims=True) - jnp.square(mean)
    return mean + middle, jnp.maximum(variance, 0)


@_moments.defjvp
def _moments_with_tangents(axes, primals, tangents):
    (x,), (tangent,) = primals, tangents
    mean, variance = _moments(x, axes)
    of_variance = 2 * jnp.mean((x - mean) * tangent, axes, keepdims=True)
    return (mean, variance), (jnp.mean(tangent, axes, keepdims=True), of_variance)


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
    (nn, "conv", as_product),
    (nn, "max_pool", by_comparisons),
    (nn, "moments", in_one_pass),
    (iou_metrics, "confusion_matrix", compared),
    (base_optimizer.BaseOptimizer, "_overwrite_model_variables_with_average_value", with_copies),
)
