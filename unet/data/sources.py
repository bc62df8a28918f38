"""What every source of images and masks gives: a key, and a stream of samples and problems."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

SPLITS = ("train", "validation", "test")
IGNORE = 255


@dataclass(frozen=True)
class Sample:
    """One image and its mask, at their own size."""

    name: str
    split: str
    """``"train"``, ``"validation"`` or ``"test"``."""
    image: np.ndarray
    """uint8 ``(H, W, 3)``."""
    mask: np.ndarray
    """uint8 ``(H, W)``: class ids, 255 is ignored."""


@dataclass(frozen=True)
class Problem:
    """Something wrong with the data, in a sentence; ``fatal`` ones keep the data from being used."""

    kind: str
    where: str
    message: str
    fatal: bool = True

    def __str__(self):
        return f"{self.where}: {self.message}"


class Source(Protocol):
    """Images and masks with class names, in splits."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of their ids."""
        ...

    def key(self) -> dict:
        """What decides the content, as JSON; equal keys mean equal samples. Must not decode anything."""
        ...

    def count(self) -> int | None:
        """How many samples there are in all, for a progress bar; ``None`` if that is not known beforehand."""
        ...

    def samples(self, split: str | None = None) -> Iterator[Sample | Problem]:
        """Decode every sample (of one split) in a fixed order; a broken one yields its problem instead."""
        ...


def draw(names: list[str], share: float, purpose: str) -> set[str]:
    """Choose ``round(share · n)`` of the names, the same ones on every machine and in every order.

    The choice follows a hash of each name, so adding an image moves few others between splits.
    """
    import hashlib

    ranked = sorted(names, key=lambda name: hashlib.sha256(f"{purpose}/{name}".encode()).digest())
    return set(ranked[: round(share * len(names))])


def native_samples(source: Source, split: str, names: set[str] | None = None) -> Iterator[Sample]:
    """Decode the samples of a split, all or those with the given names, at their own size."""
    for item in source.samples(split):
        if isinstance(item, Sample) and (names is None or item.name in names):
            yield item
