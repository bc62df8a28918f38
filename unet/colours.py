"""Colours of classes in pictures."""

from collections.abc import Iterable
from typing import Annotated

import numpy as np
from pydantic import Field

Colour = Annotated[str, Field(pattern=r"^#[0-9A-Fa-f]{6}$")]
"""A colour as ``#RRGGBB``."""

PALETTE = ["#E69F00", "#0072B2", "#F0E442", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000"]
"""Okabe and Ito's eight colours, distinguishable under every common form of colour blindness."""
IGNORE_COLOUR = "#B0B0B0"
"""Colour of ignored pixels, whose class id is 255."""

# Position on the hue circle and intensity, by channel: matplotlib's colormap "hsv".
_HUES = (
    (
        (0, 0.15873, 0.174603, 0.333333, 0.349206, 0.666667, 0.68254, 0.84127, 0.857143),
        (1, 1, 0.96875, 0.03125, 0, 0, 0.03125, 0.96875, 1),
    ),
    ((0, 0.15873, 0.174603, 0.507937, 0.666667, 0.68254, 1), (0, 0.9375, 1, 1, 0.0625, 0, 0)),
    ((0, 0.333333, 0.349206, 0.507937, 0.84127, 0.857143, 1), (0, 0, 0.0625, 1, 1, 0.9375, 0.09375)),
)


def class_colours(classes: int) -> np.ndarray:
    """Table of colours by class id, uint8 ``(256, 3)``: the palette, then evenly spaced hues; 255 (ignored) is grey."""
    hues = [_hue(index / classes) for index in range(classes - len(PALETTE))]
    return colour_table([*PALETTE, *hues][:255])


def hex_colours(classes: int) -> tuple[str, ...]:
    """Colour of each class as ``"#RRGGBB"``, in the order of the class ids."""
    return tuple(f"#{r:02X}{g:02X}{b:02X}" for r, g, b in class_colours(classes)[:classes])


def colour_table(colours: Iterable) -> np.ndarray:
    """Table by class id, uint8 ``(256, 3)``, of colours given as ``"#RRGGBB"`` or three numbers 0 to 1; 255 is grey."""
    table = np.zeros((256, 3))
    for index, colour in enumerate(colours):
        table[index] = _rgb(colour)
    table[255] = _rgb(IGNORE_COLOUR)
    return np.round(table * 255).astype(np.uint8)


def _rgb(colour) -> tuple[float, ...]:
    """Red, green and blue, 0 to 1."""
    if not isinstance(colour, str):
        return tuple(colour)
    return tuple(int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))


def _hue(position: float) -> tuple[float, ...]:
    """Saturated colour at a position, 0 to 1, on the hue circle, in 256 steps."""
    step = int(position * 256) / 255
    return tuple(float(np.interp(step, *channel)) for channel in _HUES)
