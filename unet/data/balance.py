"""Balance of the classes in prepared data, and class weights that make up for it."""

import math

from unet.data.cache import Split
from unet.data.heads import CLASSES, Head
from unet.data.sources import IGNORE

RARE = 0.01
"""Share of the pixels below which a class counts as rare."""
SHOWN = 12
"""Most classes that are named in one line."""


def class_pixels(split: Split, classes: int, head: Head = CLASSES) -> list[int]:
    """Number of pixels of each class in a split, and of ignored pixels at the end."""
    return [*head.areas(split.pixels, classes).tolist(), int(split.pixels[IGNORE])]


def inverse_log_weights(pixels: list[int], total: int | None = None) -> list[float]:
    """Weights ``1 / ln(1.02 + p)`` of classes with share p of the pixels, 1.4 to 50.5 (ENet, Paszke et al. 2016).

    Args:
        pixels: Number of pixels of each class.
        total: Number of all pixels, if they may have several labels or none; otherwise the sum.

    Example:
        >>> [round(weight, 2) for weight in inverse_log_weights([90, 10, 0])]
        [1.53, 8.82, 50.5]
    """
    total = max(sum(pixels) if total is None else total, 1)
    return [1 / math.log(1.02 + count / total) for count in pixels]


def describe(pixels: list[int], classes: tuple[str, ...], weighted: bool, total: int | None = None) -> list[str]:
    """Lines about the balance of a split: share of each class, and what to do about rare classes.

    Args:
        pixels: From :func:`class_pixels`.
        classes: Class names.
        weighted: Whether classes have weights in the loss already.
        total: As for :func:`inverse_log_weights`, without the ignored pixels.
    """
    *counts, ignored = pixels
    total = max(sum(counts) if total is None else total, 1)
    shares = sorted(zip((count / total for count in counts), classes), reverse=True)
    line = f"class balance: {_listed(shares)}; {ignored / max(total + ignored, 1):.1%} of the pixels are ignored"
    rare = [(share, name) for share, name in shares if share < RARE]
    if not rare:
        return [line]
    cure = "" if weighted else "; loss.class_weights=auto gives rare classes more weight"
    return [line, f"under {RARE:.0%} of the pixels: {_listed(rare)}{cure}"]


def _listed(shares: list[tuple[float, str]]) -> str:
    shown = ", ".join(f"{name} {share:.2%}" for share, name in shares[:SHOWN])
    return shown + (f" and {len(shares) - SHOWN} more" if len(shares) > SHOWN else "")
