"""Masks of images of any size, by a run or an exported file.

A network gives logits or probabilities. Both become *scores*, logits or the logarithms of the probabilities, which
differ by one number for all classes of a pixel: resizing, blending and averaging weigh all classes alike, so that both
lead to the same mask. Everything is averaged as scores, before the softmax.
"""

import itertools
import operator
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, Unpack, cast

import numpy as np
from PIL import Image

from unet.data.images import read_image, resize_image, resize_logits, resized_argmax, to_rgb
from unet.errors import InputError, nearest
from unet.formats import LoadedNetwork

LARGE = ("resize", "tile")


class Options(TypedDict, total=False):
    """How images are segmented."""

    large: str
    """``"resize"``: every image is resized to the size the network was trained at, as in training, and the scores are
    enlarged. ``"tile"``: the network sees every image in its own pixels, larger ones in overlapping tiles; what is in
    them should be as many pixels large as in training."""
    tile: tuple[int, int] | None
    """Height and width of the tiles in pixels (less than ``2**depth`` may be added, for the last one to end with the
    image); ``None``: the size the network was trained at, the only one where a network takes no other."""
    overlap: float
    """Share of a tile that its neighbour covers at least, 0 to below 1. Of what two tiles share, a quarter at each end
    is left to the tile whose edge is further off; a network that sees no further gives what it gives for the whole."""
    flip: bool
    """Average the scores of each image, or tile, and its mirror image: twice the time."""
    batch_size: int
    """Images, or tiles of an image, that the network sees at a time: more take more memory, and on a GPU less time."""


class Prediction(NamedTuple):
    """What is known of one image, at its own size."""

    mask: np.ndarray
    """uint8 ``(H, W)``: class ids."""
    probabilities: np.ndarray | None
    """float32 ``(H, W, classes)``, summing to 1, where they were asked for."""


class Predictor:
    """Masks of images, by a run or an exported file.

    Images are paths, PIL images, uint8 arrays ``(H, W)``, ``(H, W, 3)`` or ``(H, W, 4)``, any iterable of these, or a
    uint8 array ``(N, H, W, 3)``, each of any size. One image gives one result, several give a list. All options are
    those of :class:`Options`; every fault of an image or an option is an :class:`~unet.errors.InputError`.

    Attributes:
        network: In the runtime of its format.
        metadata: What it says about itself (:class:`~unet.formats.Metadata`): classes, colours, size.
        name: To show; the name of the run or file unless given.
    """

    def __init__(self, network: LoadedNetwork, name: str | None = None):
        self.network = network
        self.metadata = network.metadata
        self.name = name or network.path.name

    def predict(self, images: Any, **options: Unpack[Options]) -> np.ndarray | list[np.ndarray]:
        """Class ids, uint8 ``(H, W)``, of one image, or a list of such masks.

        Example: ``unet.load("runs/pets").predict("photo.jpg", large="tile", tile=(512, 512))``.
        """
        images, single = _listed(images)
        masks = [prediction.mask for prediction in self.segment(images, **options)]
        return masks[0] if single else masks

    def probabilities(self, images: Any, **options: Unpack[Options]) -> np.ndarray | list[np.ndarray]:
        """Probabilities, float32 ``(H, W, classes)``, of one image, or a list of such arrays."""
        images, single = _listed(images)
        predictions = self.segment(images, probabilities=True, **options)
        shares = [cast(np.ndarray, prediction.probabilities) for prediction in predictions]
        return shares[0] if single else shares

    def segment(
        self,
        images: Iterable,
        *,
        probabilities: bool = False,
        large: str = "resize",
        tile: tuple[int, int] | None = None,
        overlap: float = 0.25,
        flip: bool = False,
        batch_size: int = 8,
    ) -> Iterator[Prediction]:
        """Predictions one after the other, while ``images`` are being read, for more of them than memory holds."""
        if large not in LARGE:
            raise InputError(f"large: {large!r} is not one of {', '.join(LARGE)}{nearest(large, LARGE)}")
        if batch_size < 1:
            raise InputError(f"batch_size: must be 1 or more, received {batch_size}")
        if large == "resize":
            if tile is not None:
                raise InputError("tile: goes with large='tile'")
            return self._resized(images, probabilities, flip, batch_size)
        tile = self._checked_tile(tile, overlap)
        return (self._tiled(_pixels(image), probabilities, tile, overlap, flip, batch_size) for image in images)

    # === The whole image at the size the network was trained at ===

    def _resized(self, images, probabilities: bool, flip: bool, batch_size: int) -> Iterator[Prediction]:
        def prepared():
            for image in images:
                pixels = _pixels(image)
                yield resize_image(pixels, self.metadata.size), pixels.shape[:2]

        for batch in _batches(prepared(), batch_size):
            for scores, (_, size) in zip(self._scores(np.stack([pixels for pixels, _ in batch]), flip), batch):
                yield Prediction(
                    resized_argmax(scores, size),
                    softmax(resize_logits(scores, size)) if probabilities else None,
                )

    # === Tiles in the image's own pixels ===

    @property
    def _stride(self) -> int:
        """Pixels between the places where the pooling windows of all stages begin together."""
        return 2 ** self.metadata.config["model"]["depth"]

    def _checked_tile(self, tile, overlap: float) -> tuple[int, int]:
        size = tuple(self.metadata.size)
        try:
            height, width = tile = size if tile is None else tuple(map(operator.index, tile))
        except (TypeError, ValueError):
            raise InputError(f"tile: expected height and width in pixels, as (512, 512), received {tile!r}") from None
        if not self.metadata.dynamic and tile != size:
            raise InputError(
                f"tile: {self.name} takes {size[0]}×{size[1]} pixels only (height × width), received {height}×{width}"
            )
        if min(tile) < self._stride:
            raise InputError(
                f"tile: must be {self._stride} pixels or more, by how much the network reduces an image, "
                f"received {height}×{width}"
            )
        if not 0 <= overlap < 1:
            raise InputError(f"overlap: must be at least 0 and below 1, a share of the tile, received {overlap}")
        return height, width

    def _tiled(self, image, probabilities: bool, tile, overlap: float, flip: bool, batch_size: int) -> Prediction:
        mask = np.empty(image.shape[:2], np.uint8)
        shares = np.empty((*mask.shape, len(self.metadata.classes)), np.float32) if probabilities else None
        top = 0
        for scores in self._bands(image, tile, overlap, flip, batch_size):
            rows = slice(top, top + len(scores))
            mask[rows] = scores.argmax(-1)
            if shares is not None:
                shares[rows] = softmax(scores)
            top = rows.stop
        return Prediction(mask, shares)

    def _bands(self, image, tile, overlap: float, flip: bool, batch_size: int) -> Iterator[np.ndarray]:
        """Blended scores ``(rows, W, classes)`` from top to bottom; no more than a row of tiles is kept."""
        height, width = image.shape[:2]
        if self.metadata.dynamic:  # the last tile is to end with the image
            tile = [min(length, side + (length - side) % self._stride) for length, side in zip((height, width), tile)]
        rows, columns = (spans(length, side, overlap, self._stride) for length, side in zip((height, width), tile))
        beyond = rows[-1].stop - height, columns[-1].stop - width
        image = np.pad(image, ((0, beyond[0]), (0, beyond[1]), (0, 0)), mode="reflect") if any(beyond) else image

        def scored():
            for batch in _batches(itertools.product(rows, columns), batch_size):
                tiles = np.stack([image[row.start : row.stop, column.start : column.stop] for row, column in batch])
                yield from zip(batch, self._scores(tiles, flip))

        top = 0
        band = np.zeros((tile[0], columns[-1].stop, len(self.metadata.classes)), np.float32)
        for (row, column), scores in scored():
            if row.start > top:
                ready = row.start - top
                yield band[:ready, :width]
                band = np.concatenate([band[ready:], np.zeros_like(band[:ready])])
                top = row.start
            band[:, column.start : column.stop] += row.weights[:, None, None] * column.weights[:, None] * scores
        yield band[: height - top, :width]

    # === Running the network ===

    def _scores(self, pixels: np.ndarray, flip: bool) -> np.ndarray:
        """Scores ``(B, H, W, classes)`` of uint8 ``(B, H, W, 3)``."""
        scores = self.network.scores(pixels)
        if flip:
            mirrored = self.network.scores(np.ascontiguousarray(pixels[:, :, ::-1]))
            scores = (scores + mirrored[:, :, ::-1]) / 2
        return scores


def softmax(scores: np.ndarray) -> np.ndarray:
    """Probabilities of scores ``(..., C)``."""
    shares = scores - scores.max(-1, keepdims=True)
    np.exp(shares, out=shares)
    shares /= shares.sum(-1, keepdims=True)
    return shares


# === Where the tiles lie, along one side of the image ===


class Span(NamedTuple):
    """What a tile covers along one side, and how much it counts there."""

    start: int
    stop: int
    weights: np.ndarray
    """float32 ``(stop - start,)``, 0 to 1; those of all tiles add up to 1 at every pixel."""


def spans(length: int, tile: int, overlap: float, stride: int) -> list[Span]:
    """Cover ``length`` pixels by tiles that begin at multiples of ``stride``, evenly apart.

    Where two neighbours overlap, each counts for nothing in its outer quarter of the overlap, for all in the other's,
    and in between its weight is a raised cosine. So what a network makes of a cut edge stays out of the result, as long
    as it sees no further than that quarter.

    Args:
        length: Of the image's side, in pixels.
        tile: Of the tile's side, in pixels, at least ``stride``.
        overlap: Share of the tile that the next one covers at least, 0 to below 1, if ``stride`` is not too large for
            it.
        stride: Total stride of the network.

    Returns:
        Tiles from the first to the last, which ends less than ``stride`` pixels beyond the image if there are several.
    """
    strides = -(-max(length - tile, 0) // stride)  # to the last tile
    count = -(-strides // max(int(tile * (1 - overlap)) // stride, 1))  # of steps from tile to tile
    starts = [stride * (index * strides // max(count, 1)) for index in range(count + 1)]

    def taken(index: int, places: np.ndarray) -> np.ndarray:
        """How far the tile has taken over there from those before it."""
        if index in (0, len(starts)):
            return np.full(tile, 1.0 if index == 0 else 0.0)
        shared = starts[index - 1] + tile - starts[index]
        share = np.clip((places - starts[index] - shared / 4) / max(shared / 2, 1e-9), 0, 1)
        return np.sin(np.pi / 2 * share) ** 2

    found = []
    for index, start in enumerate(starts):
        places = np.arange(start, start + tile) + 0.5
        weights = taken(index, places) - taken(index + 1, places)
        found.append(Span(start, start + tile, weights.astype(np.float32)))
    return found


# === What is given as an image ===


def _listed(images: Any) -> tuple[Iterable, bool]:
    """The images as an iterable, and whether a single one was given."""
    if isinstance(images, str | os.PathLike | Image.Image):
        return [images], True
    if hasattr(images, "__array__"):
        array = np.asarray(images)
        return (array, False) if array.ndim == 4 else ([array], True)
    if isinstance(images, Iterable):
        return images, False
    return [images], True


def _pixels(image: Any) -> np.ndarray:
    """An image as uint8 ``(H, W, 3)``."""
    if isinstance(image, str | os.PathLike):
        try:
            return read_image(Path(image))
        except FileNotFoundError:
            raise InputError(f"{image}: there is no such file") from None
        except OSError as error:
            raise InputError(f"{image}: cannot be read as an image ({error})") from error
    if isinstance(image, Image.Image):
        try:
            return to_rgb(image)
        except OSError as error:
            raise InputError(f"the image cannot be used ({error})") from error
    expected = "expected a path, a PIL image or a uint8 array (H, W), (H, W, 3) or (H, W, 4)"
    if not hasattr(image, "__array__"):
        raise InputError(f"{expected}, received {type(image).__name__}")
    array = np.asarray(image)
    if array.dtype != np.uint8:
        hint = "; if the values are 0 to 1: np.uint8(np.round(image * 255))" if array.dtype.kind == "f" else ""
        raise InputError(f"{expected} of values 0 to 255, received {array.dtype}{hint}")
    if 0 in array.shape or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise InputError(f"{expected}, received shape {array.shape}")
    return array if array.ndim == 3 and array.shape[2] == 3 else to_rgb(Image.fromarray(array))


def _batches(items: Iterable, size: int) -> Iterator[list]:
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch
