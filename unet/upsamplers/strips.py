"""Strips of rows, in which a map is processed one after the other to save memory."""

import itertools

from keras import ops

from unet.backend import compiled_by_xla

STRIPS = 8
"""Largest number of strips of a map."""
STRIP_ROWS = 16
"""Smallest number of rows of a strip."""


def edges(height) -> list[tuple]:
    """First row of each strip of a map, and the row after its last one.

    A map whose height is unknown, or that XLA compiles, is one strip.
    """
    if not isinstance(height, int) or compiled_by_xla() or height < 2 * STRIP_ROWS:
        return [(0, height)]
    count = min(STRIPS, height // STRIP_ROWS)
    return list(itertools.pairwise(height * i // count for i in range(count + 1)))


def joined(parts):
    """The map ``(B, h, ...)`` of strips from top to bottom."""
    return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=1)
