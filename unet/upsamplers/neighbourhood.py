"""Reassembly and correlation over the k×k neighbourhood of every pixel, the core of CARAFE, SAPA and FADE.

The k² neighbours of every pixel would take k² times the memory of the map. Compiled by XLA, the sums are loops over the
taps, fused into kernels that store no neighbours (:class:`~unet.upsamplers.sums.Taps`). Otherwise they are matrix
products (:class:`~unet.upsamplers.sums.Blocks`) of one strip of rows after the other. In training on TensorFlow, XLA
compiles what is computed for a strip, if it does not compile the whole step.
"""

import math

import keras
from keras import ops

from unet.backend import compiled_by_xla, in_turn
from unet.gradients import differentiable, fused
from unet.upsamplers.strips import edges, joined
from unet.upsamplers.sub_pixel import pixel_shuffle, pixel_unshuffle
from unet.upsamplers.sums import Blocks, Taps, TapsAndBlocks, accurate


def reassemble(logits, x, share=None):
    """``y[2h+i, 2w+j, c] = Σ_Δ m[h, w, 4·group(c) + 2i + j, Δ] · x[(h, w) + Δ, c]``, with zeros around the image.

    The kernels are ``m = share · softmax_Δ(logits)``, computed in float32 if x is in half precision, then rounded.

    Args:
        logits: ``(B, h, w, groups·4, k²)``, Δ in row-major order.
        x: ``(B, h, w, C)``; channel c belongs to group ``c // (C/groups)``.
        share: ``(B, h, w, 1, 1)``, or ``None`` for 1.

    Returns:
        ``(B, 2h, 2w, C)``. The backward pass computes the kernels again instead of storing them.
    """
    groups, taps = logits.shape[-2] // 4, logits.shape[-1]
    size = math.isqrt(taps)

    def kernels_of(shape, logits, share):
        soft = ops.softmax(accurate(logits))
        kernels = soft if share is None else soft * accurate(share)
        return soft, ops.reshape(ops.cast(kernels, x.dtype), (-1, *shape, groups, 4, taps))

    def sums_of(shape, near, logits, share=None):
        _, kernels = kernels_of(shape, logits, share)
        y = _sums().reassemble(shape, kernels, near)
        return (_from_cells(ops.cast(y, x.dtype), shape),)

    def slopes_of(shape, near, dy, logits, share=None):
        sums, cells = _sums(), _to_cells(dy, shape, groups)
        soft, kernels = kernels_of(shape, logits, share)
        slope = ops.reshape(accurate(sums.correlate(shape, cells, near, size)), (-1, *shape, 4 * groups, taps))
        weighted = soft * slope
        found = [sums.scatter(shape, kernels, cells)]
        if share is not None:
            found.append(ops.cast(ops.sum(weighted, axis=(-2, -1), keepdims=True), share.dtype))
            weighted = weighted * accurate(share)
        slope = weighted - soft * ops.sum(weighted, axis=-1, keepdims=True)
        return ops.cast(slope, logits.dtype), *found

    sums_of, slopes_of = _fused(x, sums_of, slopes_of)

    def forward(logits, x, share=None):
        return joined(*_strips(sums_of, x, size, logits, share))

    def backward(dy, logits, x, share=None):
        slopes, scattered, *shares = _strips(slopes_of, x, size, dy, logits, share)
        return joined(slopes), _cropped(scattered, x, size), *map(joined, shares)

    return differentiable(forward, backward)(*((logits, x) if share is None else (logits, x, share)))


def correlate(queries, keys, size: int):
    """``m[h, w, 2i + j, Δ] = ⟨queries[2h+i, 2w+j], keys[(h, w) + Δ]⟩``, with zeros around the image.

    Args:
        queries: ``(B, 2h, 2w, C)``.
        keys: ``(B, h, w, C)``.
        size: Side k of the neighbourhood in pixels, odd.

    Returns:
        ``(B, h, w, 4, k²)``.
    """

    def products_of(shape, near, queries):
        found = _sums().correlate(shape, _to_cells(queries, shape, 1), near, size)
        return (ops.reshape(ops.cast(found, keys.dtype), (-1, *shape, 4, size * size)),)

    def slopes_of(shape, near, dm, queries):
        sums, dm = _sums(), ops.reshape(dm, (-1, *shape, 1, 4, size * size))
        slope = _from_cells(ops.cast(sums.reassemble(shape, dm, near), queries.dtype), shape)
        return slope, sums.scatter(shape, dm, _to_cells(queries, shape, 1))

    products_of, slopes_of = _fused(keys, products_of, slopes_of)

    def forward(queries, keys):
        return joined(*_strips(products_of, keys, size, queries))

    def backward(dm, queries, keys):
        slopes, scattered = _strips(slopes_of, keys, size, dm, queries)
        return joined(slopes), _cropped(scattered, keys, size)

    return differentiable(forward, backward)(queries, keys)


def _sums():
    if not compiled_by_xla():
        return Blocks
    return Taps if keras.backend.backend() == "jax" else TapsAndBlocks


def _fused(x, *functions):
    """The functions that compute a strip, compiled by XLA in training on TensorFlow if the size of x is known."""
    return functions if None in x.shape[1:3] else [fused(function) for function in functions]


def _from_cells(cells, shape):
    """``(B, h, w, groups, 4, C/groups)`` to ``(B, 2h, 2w, C)``."""
    groups, _, depth = cells.shape[-3:]
    if groups > 1:
        cells = ops.swapaxes(cells, -2, -3)
    return pixel_shuffle(ops.reshape(cells, (-1, *shape, 4 * groups * depth)))


def _to_cells(y, shape, groups):
    """Undo :func:`_from_cells`."""
    cells = ops.reshape(pixel_unshuffle(y), (-1, *shape, 4, groups, y.shape[-1] // groups))
    return ops.swapaxes(cells, -2, -3)


# === Strips ===


def _strips(function, x, size, *maps):
    """Apply ``function((rows, width), near, *parts)``, which returns a tuple of tensors, to strips of rows of x.

    ``near`` is the strip of x with k//2 pixels around it, and ``parts`` those of ``maps``, which have as many rows as x
    or twice as many. A map whose height is unknown, or that XLA compiles, is one strip.

    Returns:
        For each value of the function, the list of those of all strips from top to bottom.
    """
    height, width = ops.shape(x)[1:3]
    half, given = size // 2, [part for part in maps if part is not None]
    around = ops.pad(x, [[0, 0], [half, half], [half, half], [0, 0]])
    strips = edges(height)
    if len(strips) == 1:
        return list(zip(function((height, width), around, *given)))
    found: list[tuple] = []
    for start, stop in strips:
        near, *wholes = in_turn(found[-1] if found else (), around, *given)
        parts = [whole[:, whole.shape[1] // height * start : whole.shape[1] // height * stop] for whole in wholes]
        found.append(function((stop - start, width), near[:, start : stop + 2 * half], *parts))
    return list(zip(*found))


def _cropped(parts, x, size):
    """The gradient of x from those of its strips with the pixels around them, which overlap."""
    height, width = ops.shape(x)[1:3]
    whole, carried = [], None
    for part in parts:
        if carried is not None:
            part = part + ops.pad(carried, [[0, 0], [0, part.shape[1] - size + 1], [0, 0], [0, 0]])
        rows = ops.shape(part)[1] - size + 1
        whole.append(part[:, :rows])
        carried = part[:, rows:]
    whole = joined([*whole, carried])
    half = size // 2
    return ops.cast(whole[:, half : half + height, half : half + width], x.dtype)
