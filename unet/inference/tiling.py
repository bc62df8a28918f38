"""Overlapping tiles: their positions along each side of an image, and the blending of their logits."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np


class Span(NamedTuple):
    """The pixels that a tile covers along one side of the image, and their weights."""

    start: int
    stop: int
    weights: np.ndarray
    """float32 ``(stop - start,)``, 0 to 1; at every pixel the weights of all tiles sum to 1."""


def spans(length: int, tile: int, overlap: float, stride: int) -> list[Span]:
    """Cover ``length`` pixels with evenly spaced tiles that start at multiples of ``stride``.

    Where two neighbours overlap, the weight of each is 0 in its outer quarter of the overlap, 1 in the other's, and a
    raised cosine in between. The effect of a cut edge therefore stays out of the result if the receptive field does not
    exceed that quarter.

    Args:
        length: Side of the image, in pixels.
        tile: Side of the tiles, in pixels, at least ``stride``.
        overlap: Least share of a tile that the next one covers, 0 to below 1; it may be less if ``stride`` is large
            compared with the tile.
        stride: Total stride of the network.

    Returns:
        Tiles from the first to the last. If there are several, the last one ends less than ``stride`` pixels beyond
        the image.

    Example:
        >>> [(span.start, span.stop) for span in spans(300, 128, overlap=0.25, stride=16)]
        [(0, 128), (80, 208), (176, 304)]
    """
    strides = -(-max(length - tile, 0) // stride)  # from the first tile to the last
    steps = -(-strides // max(int(tile * (1 - overlap)) // stride, 1))  # from tile to tile
    starts = [stride * (index * strides // max(steps, 1)) for index in range(steps + 1)]

    def ramp(index: int, places: np.ndarray) -> np.ndarray:
        """Rise from 0 to 1 over the overlap of the tile with the previous one."""
        if index in (0, len(starts)):
            return np.full(tile, 1.0 if index == 0 else 0.0)
        shared = starts[index - 1] + tile - starts[index]
        share = np.clip((places - starts[index] - shared / 4) / max(shared / 2, 1e-9), 0, 1)
        return np.sin(np.pi / 2 * share) ** 2

    covered = []
    for index, start in enumerate(starts):
        places = np.arange(start, start + tile) + 0.5
        weights = ramp(index, places) - ramp(index + 1, places)
        covered.append(Span(start, start + tile, weights.astype(np.float32)))
    return covered


def blended_bands(
    run: Callable[[np.ndarray], np.ndarray], image: np.ndarray, rows: list[Span], columns: list[Span], batch_size: int
) -> Iterator[np.ndarray]:
    """Blend the logits of all tiles, from the top of the image to the bottom.

    Args:
        run: The network, from images ``(B, h, w, C)`` to logits ``(B, h, w, classes)``.
        image: ``(H, W, C)``; it is padded by reflection where tiles extend beyond it.
        rows: Tiles along the height.
        columns: Tiles along the width.
        batch_size: Tiles that the network processes at a time.

    Yields:
        float32 ``(rows, W, classes)``: bands that together make up the image. Only one row of tiles is kept in memory.
    """
    height, width = image.shape[:2]
    y, x = (  # the pixel of the image at each place that tiles cover
        np.pad(np.arange(length), (0, tiles[-1].stop - length), mode="reflect")
        for length, tiles in ((height, rows), (width, columns))
    )
    top, band = 0, None
    for batch in batches(itertools.product(rows, columns), batch_size):
        tiles = np.stack(
            [image[np.ix_(y[row.start : row.stop], x[column.start : column.stop])] for row, column in batch]
        )
        for (row, column), logits in zip(batch, run(tiles)):
            if band is None:
                band = np.zeros((len(row.weights), columns[-1].stop, logits.shape[-1]), np.float32)
            if row.start > top:
                ready = row.start - top
                yield band[:ready, :width]
                band = np.concatenate([band[ready:], np.zeros_like(band[:ready])])
                top = row.start
            band[:, column.start : column.stop] += row.weights[:, None, None] * column.weights[:, None] * logits
    assert band is not None  # there is at least one tile
    yield band[: height - top, :width]


def batches(items: Iterable, size: int) -> Iterator[list]:
    """Split items into lists of ``size``; the last one may be shorter."""
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch
