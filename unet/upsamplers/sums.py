"""Sums over the k×k neighbourhood of every pixel, for kernels m, maps x and results y.

All are parts of the trilinear form ``Σ m[h, w, g, s, Δ] · x[(h, w) + Δ, g·] · y[h, w, g, s, ·]``, with g the group of
channels and s the pixel in the 2×2 cell; each is the gradient of the two others. m has the shape
``(B, h, w, groups, 4, k²)`` and y ``(B, h, w, groups, 4, C/groups)``. x is given with k//2 pixels around it:
``(B, h + k - 1, w + k - 1, C)``. The size (h, w) is an argument because tf2onnx misreads the sizes of a tensor that has
just been reshaped.
"""

import math
from typing import Any

import keras
from keras import ops

BLOCK = 4
"""Smallest number of pixels of a row that are processed by one matrix product."""


def accurate(x):
    """Half precision as float32: the sum of two float16 logits may overflow, and bfloat16 has 8 significant bits."""
    return ops.cast(x, "float32") if keras.backend.standardize_dtype(x.dtype) in ("float16", "bfloat16") else x


class Taps:
    """Sums as loops over the taps, each of a shifted slice times one plane of weights, for XLA to fuse."""

    @staticmethod
    def reassemble(shape, kernels, around):
        """Sum m·x over Δ: ``(B, h, w, groups, 4, C/groups)``."""
        groups, _, taps = kernels.shape[-3:]
        kernels, around = accurate(kernels), _grouped(accurate(around), groups)
        return sum(
            kernels[..., tap : tap + 1] * around[:, i : i + shape[0], j : j + shape[1], :, None]
            for tap, (i, j) in enumerate(_offsets(math.isqrt(taps)))
        )

    @staticmethod
    def correlate(shape, cells, around, size):
        """Sum y·x over the channels of a group: ``(B, h, w, groups, 4, k²)``.

        A loop over channels: of a sum over an axis XLA would make one matrix product per pixel and tap.
        """
        cells = ops.transpose(accurate(cells), (5, 4, 3, 0, 1, 2))
        around = ops.transpose(_grouped(accurate(around), cells.shape[2]), (4, 3, 0, 1, 2))

        def add(channel, totals):
            y, x = ops.take(cells, channel, axis=0), ops.take(around, channel, axis=0)
            return tuple(
                total + y * x[..., i : i + shape[0], j : j + shape[1]] for total, (i, j) in zip(totals, _offsets(size))
            )

        totals = ops.fori_loop(0, cells.shape[0], add, (ops.zeros_like(cells[0]),) * size**2)
        return ops.transpose(ops.stack(totals, axis=-1), (2, 3, 4, 1, 0, 5))

    @staticmethod
    def scatter(shape, kernels, cells):
        """Sum m·y over output pixels into the pixel that each tap reads: ``(B, h + k - 1, w + k - 1, C)``."""
        size = math.isqrt(kernels.shape[-1])
        rim, margin = size - 1, [[0, 0], [size - 1, size - 1], [size - 1, size - 1], [0, 0], [0, 0], [0, 0]]
        height, width = shape[0] + rim, shape[1] + rim
        kernels, cells = (ops.pad(accurate(part), margin) for part in (kernels, cells))
        total = 0
        for tap, (i, j) in enumerate(_offsets(size)):
            rows, columns = slice(rim - i, rim - i + height), slice(rim - j, rim - j + width)
            for pixel in range(4):
                weight = kernels[:, rows, columns, :, pixel, tap : tap + 1]
                total = total + weight * cells[:, rows, columns, :, pixel]
        return ops.reshape(total, (-1, height, width, cells.shape[3] * cells.shape[5]))


class Blocks:
    """Sums as one matrix product for each block of n pixels in a row; results as in Taps.

    A block reads k rows of n + k - 1 neighbours. Each of its 4n kernels is a row of a matrix over all of them, with
    zeros for those it does not read. Such products are much faster than a smaller one for every pixel.
    """

    @staticmethod
    def reassemble(shape, kernels, around):
        """Sum m·x over Δ: ``(B, h, w, groups, 4, C/groups)``."""
        layout = _Layout(shape, math.isqrt(kernels.shape[-1]), kernels.shape[3])
        return layout.from_blocks(ops.matmul(layout.matrices(kernels), layout.neighbours(around)))

    @staticmethod
    def correlate(shape, cells, around, size):
        """Sum y·x over the channels of a group: ``(B, h, w, groups, 4, k²)``."""
        layout = _Layout(shape, size, cells.shape[3])
        return layout.kernels(ops.matmul(layout.to_blocks(cells), ops.swapaxes(layout.neighbours(around), 1, 2)))

    @staticmethod
    def scatter(shape, kernels, cells):
        """Sum m·y over output pixels into the pixel that each tap reads: ``(B, h + k - 1, w + k - 1, C)``."""
        layout = _Layout(shape, math.isqrt(kernels.shape[-1]), cells.shape[3])
        return layout.image(ops.matmul(ops.swapaxes(layout.matrices(kernels), 1, 2), layout.to_blocks(cells)))


class TapsAndBlocks(Taps):
    """For each sum, the form that is faster on a CPU where XLA compiles TensorFlow's graph or parts of it."""

    correlate = Blocks.correlate


class _Layout:
    """Matrices of the N = B·h·⌈w/n⌉·groups blocks of n pixels; the last block of a row is filled up with zeros."""

    def __init__(self, shape, size: int, groups: int):
        self.shape, self.size, self.groups = shape, size, groups
        self.length = max(BLOCK, size - 1)
        self.reach = self.length + size - 1
        self.count = (shape[1] + self.length - 1) // self.length  # ONNX rounds negative numbers towards 0

    def to_blocks(self, cells):
        """``(B, h, w, groups, 4, d)`` to ``(N, 4n, d)``."""
        depth = cells.shape[-1]
        cells = self._filled(ops.reshape(cells, (-1, *self.shape, self.groups * 4 * depth)))
        return ops.reshape(self._by_group(cells, self.length, 4 * depth), (-1, 4 * self.length, depth))

    def from_blocks(self, blocks):
        """Undo :meth:`to_blocks`."""
        depth, (height, width) = blocks.shape[-1], self.shape
        cells = self._together(blocks, self.length, 4 * depth)
        cells = ops.reshape(cells, (-1, height, self.count * self.length, self.groups * 4 * depth))
        return ops.reshape(cells[:, :, :width], (-1, height, width, self.groups, 4, depth))

    def matrices(self, kernels):
        """``(B, h, w, groups, 4, k²)`` to ``(N, 4n, k·(n + k - 1))``."""
        n, k, row = self.length, self.size, 4 * self.size * self.reach
        kernels = ops.reshape(self.to_blocks(kernels), (-1, n, 4 * k, k))
        kernels = ops.reshape(ops.pad(kernels, [[0, 0], [0, 0], [0, 0], [0, n - 1]]), (-1, n, row))
        # With one zero more in every row, each begins one later than the row above it when they are cut again.
        kernels = ops.reshape(ops.pad(kernels, [[0, 0], [0, 0], [0, 1]]), (-1, n * (row + 1)))
        return ops.reshape(kernels[:, : n * row], (-1, 4 * n, k * self.reach))

    def kernels(self, matrices):
        """The values of the neighbours that each pixel reads: undo :meth:`matrices`."""
        n, k, row = self.length, self.size, 4 * self.size * self.reach
        kernels = ops.pad(ops.reshape(matrices, (-1, n * row)), [[0, 0], [0, n]])
        kernels = ops.reshape(kernels, (-1, n, row + 1))[:, :, :row]
        kernels = ops.reshape(kernels, (-1, n, 4 * k, self.reach))[..., :k]
        return self.from_blocks(ops.reshape(kernels, (-1, 4 * n, k * k)))

    def neighbours(self, around):
        """``(B, h + k - 1, w + k - 1, C)`` to ``(N, k·(n + k - 1), C/groups)``."""
        n, k, height, channels = self.length, self.size, self.shape[0], around.shape[-1]
        around = self._filled(around)
        rows = (-1, height + k - 1, self.count, n * channels)
        next_block = ops.pad(around[:, :, n:], [[0, 0], [0, 0], [0, n - k + 1], [0, 0]])
        next_block = ops.reshape(next_block, rows)[..., : (k - 1) * channels]
        near = ops.concatenate([ops.reshape(around[:, :, : self.count * n], rows), next_block], axis=-1)
        near = ops.stack([near[:, i : i + height] for i in range(k)], axis=3)
        return self._by_group(near, k * self.reach, channels // self.groups)

    def image(self, near):
        """Sum of the neighbours that are the same pixel of x: the adjoint of :meth:`neighbours`."""
        n, k, (height, width), depth = self.length, self.size, self.shape, near.shape[-1]
        channels = depth * self.groups
        near = ops.reshape(
            self._together(near, k * self.reach, depth), (-1, height, self.count, k, self.reach * channels)
        )
        rows: Any = sum(ops.pad(near[:, :, :, i], [[0, 0], [i, k - 1 - i], [0, 0], [0, 0]]) for i in range(k))
        image = (-1, height + k - 1, self.count * n, channels)
        own = ops.reshape(rows[..., : n * channels], image)
        next_block = ops.pad(rows[..., n * channels :], [[0, 0], [0, 0], [0, 0], [0, (n - k + 1) * channels]])
        next_block = ops.pad(ops.reshape(next_block, image), [[0, 0], [0, 0], [n, 0], [0, 0]])
        return (ops.pad(own, [[0, 0], [0, 0], [0, n], [0, 0]]) + next_block)[:, :, : width + k - 1]

    def _filled(self, x):
        rest = self.count * self.length - self.shape[1]
        return x if isinstance(rest, int) and rest == 0 else ops.pad(x, [[0, 0], [0, 0], [0, rest], [0, 0]])

    def _by_group(self, x, rows, depth):
        """``(…, rows·groups·depth)`` to ``(N, rows, depth)``."""
        if self.groups > 1:
            x = ops.swapaxes(ops.reshape(x, (-1, rows, self.groups, depth)), 1, 2)
        return ops.reshape(x, (-1, rows, depth))

    def _together(self, x, rows, depth):
        """Undo :meth:`_by_group`."""
        if self.groups > 1:
            x = ops.swapaxes(ops.reshape(x, (-1, self.groups, rows, depth)), 1, 2)
        return x


def _offsets(size):
    return [(i, j) for i in range(size) for j in range(size)]


def _grouped(x, groups):
    """``(B, h, w, C)`` to ``(B, h, w, groups, C/groups)``."""
    height, width, channels = ops.shape(x)[1:]
    return ops.reshape(x, (-1, height, width, groups, channels // groups))
