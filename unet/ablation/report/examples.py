"""Small pictures of test images and their segmentations, enlarged where the variants disagree most."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from unet.ablation.run.measurements import Scenes

SIZE = 144
"""Smallest side of a picture, in pixels."""


@dataclass(frozen=True)
class Tile:
    """A picture and its caption."""

    name: str
    note: str
    picture: Image.Image


@dataclass(frozen=True)
class _Window:
    """A square part of an image, in pixels."""

    top: int
    left: int
    side: int


def tiles(scenes: Scenes) -> Iterator[list[Tile]]:
    """Pictures of each test image: the photograph with a frame, and what is in the frame, by truth and by variant."""
    for index, name in enumerate(scenes.names):
        image, predictions = scenes.images[index], scenes.predictions[:, index]
        window = _most_disputed(predictions, len(scenes.classes))
        truth = _enlarge(image, scenes.colours[scenes.masks[index]], window)
        yield [
            Tile("photograph", name, _frame(image, window)),
            Tile("truth", "", truth),
            *(
                Tile(variant, f"mean IoU {score:.2f}", _enlarge(image, scenes.colours[prediction], window))
                for variant, score, prediction in zip(scenes.variants, scenes.scores[:, index], predictions)
            ),
        ]


def _most_disputed(predictions: np.ndarray, classes: int) -> _Window:
    """The square in which the predictions ``(V, H, W)`` differ most."""
    votes = np.stack([(predictions == index).sum(0) for index in range(classes)])
    dissent = len(predictions) - votes.max(0)
    height, width = dissent.shape
    side = max(1, min(height, width) * 3 // 8)
    sums = np.pad(dissent, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    top, left = np.unravel_index(inside.argmax(), inside.shape)
    return _Window(int(top), int(left), side)


def _frame(image: np.ndarray, window: _Window) -> Image.Image:
    """A photograph ``(H, W, 3)`` with a frame around the window."""
    factor = -(-SIZE // min(image.shape[:2]))
    size = (image.shape[1] * factor, image.shape[0] * factor)
    picture = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
    left, top, side = window.left * factor, window.top * factor, window.side * factor
    ImageDraw.Draw(picture).rectangle([left, top, left + side - 1, top + side - 1], outline="white", width=2)
    return picture


def _enlarge(image: np.ndarray, colours: np.ndarray, window: _Window) -> Image.Image:
    """The window of a photograph, under the colours of its classes ``(H, W, 3)``."""
    part = np.s_[window.top : window.top + window.side, window.left : window.left + window.side]
    mixed = (0.4 * image[part] + 0.6 * colours[part]).round().astype(np.uint8)
    side = window.side * -(-SIZE // window.side)
    return Image.fromarray(mixed).resize((side, side), Image.Resampling.NEAREST)
