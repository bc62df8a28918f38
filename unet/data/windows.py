"""Windows of one size in images of any size: where they are, and their pixels."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from unet.data.sources import IGNORE

BAND = 256
"""Rows of a mask that are searched for a class at a time."""


@dataclass(frozen=True)
class Windows:
    """How windows are chosen in an image."""

    size: tuple[int, int]
    """Height and width of every window in pixels."""
    count: int = 1
    """Windows of each image in an epoch."""
    chances: Mapping[int, float] = field(default_factory=dict)
    """Probability that a training window is centred on a pixel of a class, by class id."""

    def anywhere(self, image: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
        """Draw the top left corner of a window in an image of a given size.

        All positions within the image are equally probable. Along an axis where the image is smaller than the window,
        these are the positions that contain the image, so the corner may be negative.
        """
        top, left = (int(rng.integers(low, high + 1)) for low, high in self._limits(image))
        return top, left

    def around(self, image: tuple[int, int], pixel: tuple[int, int]) -> tuple[int, int]:
        """The top left corner of the window with a pixel at its centre, or as near to it as the image allows."""
        top, left = (
            min(max(place - side // 2, low), high)
            for place, side, (low, high) in zip(pixel, self.size, self._limits(image))
        )
        return top, left

    def _limits(self, image: tuple[int, int]) -> list[tuple[int, int]]:
        """Lowest and highest start of a window along each axis."""
        return [(min(0, length - side), max(0, length - side)) for length, side in zip(image, self.size)]

    def draw(
        self, mask: np.ndarray, pixels: Mapping[int, int], rng: np.random.Generator, balanced: bool
    ) -> tuple[int, int]:
        """Draw the top left corner of a window.

        Args:
            mask: uint8 ``(H, W)``; read only if the window is centred on a class.
            pixels: Number of pixels of each class id in the mask.
            rng: Random numbers.
            balanced: Whether ``chances`` apply.
        """
        remaining = rng.random() if balanced and self.chances else 1.0
        for index, chance in self.chances.items():
            if remaining < chance:
                if pixels.get(index):
                    return self.around(mask.shape, nth_pixel(mask, index, int(rng.integers(pixels[index]))))
                break
            remaining -= chance
        return self.anywhere(mask.shape, rng)

    def cut(self, image: np.ndarray, mask: np.ndarray, corner: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Copy the pixels of a window. What is beyond the image is ignored in the mask.

        There, pictures (uint8 RGB) are black, and other images repeat their border, as 0 may be far from their values.

        Args:
            image: ``(H, W, C)``.
            mask: uint8 ``(H, W)``.
            corner: Top and left of the window.
        """
        source = tuple(slice(max(start, 0), start + side) for start, side in zip(corner, self.size))
        pixels, ids = image[source], mask[source]
        before = [max(-start, 0) for start in corner]
        beyond = [(least, side - least - n) for least, side, n in zip(before, self.size, ids.shape)]
        is_picture = image.dtype == np.uint8 and image.shape[2] == 3
        return (
            np.pad(pixels, [*beyond, (0, 0)], "constant" if is_picture else "edge"),
            np.pad(ids, beyond, constant_values=IGNORE),
        )


def nth_pixel(mask: np.ndarray, index: int, n: int) -> tuple[int, int]:
    """Row and column of pixel number ``n`` of a class, counted from 0 and row by row.

    Raises:
        IndexError: The class has no more than ``n`` pixels in the mask.
    """
    for top in range(0, len(mask), BAND):
        found = mask[top : top + BAND] == index
        count = int(np.count_nonzero(found))
        if n < count:
            row, column = divmod(int(np.flatnonzero(found)[n]), mask.shape[1])
            return top + row, column
        n -= count
    raise IndexError(f"the mask has too few pixels of class {index}")
