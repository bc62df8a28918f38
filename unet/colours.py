"""Colours of classes in pictures."""

from collections.abc import Iterable
from typing import Annotated

import numpy as np
from pydantic import Field

Colour = Annotated[str, Field(pattern=r"^#[0-9A-Fa-f]{6}$")]
"""A colour as ``#RRGGBB``."""

PALETTE = ["#E69F00", "#0072B2", "#F0E442", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000"]
"""Okabe and Ito's eight colours, distinguishable under every common form of colour blindness."""
CLASS_COLOURS = [
    *("#E69F00", "#0072B2", "#F0E442", "#009E73", "#CC79A7", "#56B4E9", "#000000", "#8800EE"),
    *("#00FF00", "#FF00C3", "#4B0F78", "#FF005A", "#5A4B00", "#4BA500", "#780F1E", "#0069FF"),
    *("#00FF96", "#00FFFF", "#FFA587", "#C3E196", "#D287FF", "#1E5A5A", "#0F5A00", "#FF0000"),
    *("#5A3C5A", "#87005A", "#A5F000", "#96961E", "#C3B4FF", "#0000A5", "#96695A", "#A50FB4"),
    *("#FFD278", "#F01EFF", "#78875A", "#F04B96", "#B4000F", "#B4782D", "#87FFC3", "#785AA5"),
]
"""Colours of classes: eight for every form of colour vision, seven of them by Okabe and Ito, then 32, each as far as
possible in CIELAB from those before it, from white, ``ERROR_COLOUR`` and ``IGNORE_COLOUR``."""
ERROR_COLOUR = "#D55E00"
"""Colour of pixels with a wrong class."""
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
    """Table of colours by class id, uint8 ``(256, 3)``: 40 distinct ones, then hues; 255 (ignored) is grey."""
    hues = [_hue(index / classes) for index in range(classes - len(CLASS_COLOURS))]
    return colour_table([*CLASS_COLOURS, *hues][:255])


def hex_colours(classes: int) -> tuple[str, ...]:
    """Colour of each class as ``"#RRGGBB"``, in the order of the class ids."""
    return tuple(f"#{r:02X}{g:02X}{b:02X}" for r, g, b in class_colours(classes)[:classes])


def chosen_colours(classes: tuple[str, ...], chosen: dict[str, str]) -> tuple[str, ...]:
    """Colour of each class as ``"#RRGGBB"``: the chosen one, else the default, or another if that was chosen already.

    Args:
        classes: Class names.
        chosen: Colours of some classes by name.
    """
    taken = {colour.upper() for colour in chosen.values()}
    spare = (colour for colour in hex_colours(255)[len(classes) :] if colour not in taken)
    return tuple(
        chosen.get(name) or (default if default not in taken else next(spare, default))
        for name, default in zip(classes, hex_colours(len(classes)))
    )


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
