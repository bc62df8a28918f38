"""The interface of a source of images and masks: a cache key, and a stream of samples and problems."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from unet.console import escaped
from unet.data.images import PixelFormat

SPLITS = ("train", "validation", "test")
IGNORE = 255
"""Class id of ignored pixels."""


@dataclass(frozen=True)
class Sample:
    """One image and its mask, at their original size."""

    name: str
    split: str
    """``"train"``, ``"validation"`` or ``"test"``."""
    image: np.ndarray
    """uint8 ``(H, W, 3)``, or with the channels and type of the source's pixels."""
    mask: np.ndarray
    """uint8 ``(H, W)``: class ids, 255 is ignored."""
    mask_type: str = ""
    """Format of the mask's file and what its pixels are, such as ``"PNG, palette"``, if it was read from one."""
    labels: bool = False
    """Whether the mask holds sets of labels instead of class ids: bit k of a pixel is label k."""


@dataclass(frozen=True)
class Problem:
    """Something wrong with the data; ``fatal`` problems prevent the data from being used."""

    kind: str
    where: str
    message: str
    fatal: bool = True
    cause: str = ""
    """The message without what is true of this file only, so that problems with the same cause can be told at once."""

    def __str__(self):
        return escaped(f"{self.where}: {self.message}")


class Source(Protocol):
    """Images and masks with class names, divided into splits."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of their ids."""
        ...

    @property
    def pixels(self) -> PixelFormat:
        """Channels and type of the images."""
        ...

    def key(self) -> dict:
        """JSON that determines the content: equal keys mean equal samples. Must not decode anything."""
        ...

    def count(self) -> int | None:
        """Total number of samples, for a progress bar; ``None`` if unknown beforehand."""
        ...

    def samples(self, split: str | None = None) -> Iterator[Sample | Problem]:
        """Decode every sample (of one split) in a fixed order; yield a problem instead of a broken sample."""
        ...


def draw(names: list[str], share: float, purpose: str) -> set[str]:
    """Choose ``round(share · n)`` of the names by a hash of each, independently of machine and order.

    Adding an image therefore moves few others between splits.
    """
    import hashlib

    ranked = sorted(names, key=lambda name: hashlib.sha256(f"{purpose}/{name}".encode()).digest())
    return set(ranked[: round(share * len(names))])


def native_samples(source: Source, split: str, names: set[str] | None = None) -> Iterator[Sample]:
    """Decode the samples of a split, all or those with the given names, at their own size."""
    for item in source.samples(split):
        if isinstance(item, Sample) and (names is None or item.name in names):
            yield item
