"""Checkerboard artifacts (Odena et al. 2016) as one number: how much an output depends on the phase of the pixel grid.

Away from the border, an upsampler without phase dependence maps a constant input to a constant output. Variation with
the position modulo the upsampling factor is a pattern of the upsampler itself: uneven overlap (kernel 3, stride 2),
unequal weights for the pixels of a cell, or zeros between values (unpooling).
"""

import keras
import numpy as np
from keras import ops

from unet.upsamplers import MaxPoolWithArgmax, Upsampler


def phase_dependence(response: np.ndarray, period: int) -> float:
    """Fraction of the response to a constant input that depends on the position modulo ``period``.

    Root mean square of the deviation of the phases from their mean, divided by the root mean square of the response: 0
    for a constant response, 0.866 if one pixel of 2×2 is not zero, at most 1.

    Args:
        response: ``(B, H, W, C)`` without pixels that the border influences; H and W at least ``period``.
        period: Upsampling factor in pixels.

    Returns:
        Number from 0 to 1; 0 for a response that is zero everywhere.

    Raises:
        ValueError: The response is smaller than one period.
    """
    batch, height, width, channels = response.shape
    rows, columns = height // period, width // period
    if not rows or not columns:
        raise ValueError(f"response must have at least {period}×{period} pixels, received {height}×{width}")
    response = np.asarray(response, "float64")[:, : rows * period, : columns * period]
    cells = response.reshape(batch, rows, period, columns, period, channels)
    phases = cells.mean((1, 3))  # (B, period, period, C)
    deviation = phases - phases.mean((1, 2), keepdims=True)
    whole = np.sqrt(np.mean(response**2))
    return float(np.sqrt(np.mean(deviation**2)) / whole) if whole else 0.0


def of_upsampler(layer: Upsampler, channels: int, skip_channels: int | None = None, seed: int = 0) -> float:
    """Phase dependence of an upsampler, built or not, on constant maps with normally distributed channels.

    Args:
        layer: The upsampler.
        channels: Channels of the input.
        skip_channels: Channels of the skip, which is constant too; ``None``: those of the output.
        seed: Seed of the constants.
    """
    size, margin, batch = 16, 4, 16
    filters = layer.output_channels(channels)
    rng = np.random.default_rng(seed)

    def constant(size, channels):
        return np.tile(rng.normal(size=(batch, 1, 1, channels)), (1, size, size, 1)).astype("float32")

    x, skip = constant(size, channels), constant(2 * size, skip_channels or filters)
    argmax = MaxPoolWithArgmax()(constant(2 * size, filters))[1] if layer.needs_argmax else None
    y = ops.convert_to_numpy(ops.cast(layer(x, skip, argmax), "float32"))
    return phase_dependence(y[:, 2 * margin : -2 * margin, 2 * margin : -2 * margin], 2)


def of_network(network: keras.Model, depth: int, seed: int = 0) -> float:
    """Phase dependence of a network's logits on images of one colour; arguments as in :func:`response`."""
    return phase_dependence(response(network, depth, seed), 2**depth)


def response(network: keras.Model, depth: int, seed: int = 0) -> np.ndarray:
    """Logits in the centre of images of one colour, large enough that their borders have little influence.

    Args:
        network: Network from :func:`unet.model.build_unet` with dynamic size, trained or not.
        depth: Number of times it halves the resolution.
        seed: Seed of the colours.

    Returns:
        ``(B, 2·2**depth, 2·2**depth, classes)``; a dependence on position repeats every ``2**depth`` pixels.
    """
    period = 2**depth
    size = 24 * period
    colours = np.random.default_rng(seed).uniform(0, 255, size=(4, 1, 1, network.input_shape[-1]))
    images = np.tile(colours, (1, size, size, 1)).astype("float32")
    middle = slice((size - 2 * period) // 2 // period * period, None)
    # JAX would compile every operation by itself.
    compute = network.predict_on_batch if keras.backend.backend() == "jax" else network
    logits = ops.convert_to_numpy(ops.cast(compute(images), "float32"))[:, middle, middle]
    return logits[:, : 2 * period, : 2 * period]


def harmonics(response: np.ndarray, period: int) -> np.ndarray:
    """Amplitude of each frequency of a pattern that repeats every ``period`` pixels.

    Args:
        response: ``(B, H, W, C)``; H and W multiples of ``period``.
        period: Period in pixels.

    Returns:
        ``(period, period)``: root mean square over images and channels, divided by that of the response; the mean, in
        the centre, is set to 0. The squares sum to the square of :func:`phase_dependence`. Entry ``[i, j]`` has
        ``i − period/2`` vertical and ``j − period/2`` horizontal cycles per period.
    """
    batch, height, width, channels = response.shape
    cells = np.asarray(response, "float64").reshape(batch, height // period, period, width // period, period, channels)
    spectrum = np.fft.fft2(cells.mean((1, 3)), axes=(1, 2)) / period**2
    amplitude = np.sqrt(np.mean(abs(spectrum) ** 2, axis=(0, 3)))
    amplitude[0, 0] = 0
    whole = np.sqrt(np.mean(np.asarray(response, "float64") ** 2))
    return np.fft.fftshift(amplitude) / (whole or 1.0)
