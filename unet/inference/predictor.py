"""A loaded network applied to images of any size.

Every network is used through its logits (:meth:`unet.formats.LoadedNetwork.logits`): resizing, blending and averaging
apply to logits, before softmax or sigmoid, whether the file itself returns logits or probabilities. Class ids of a file
that returns nothing else are enlarged to the nearest pixel.
"""

import operator
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypedDict, Unpack, cast

import numpy as np

from unet.data.heads import softmax as softmax
from unet.data.images import placed, resize_image, resize_logits, resize_mask, resized_bands, scaled
from unet.deprecation import renamed
from unet.errors import InputError, nearest
from unet.formats import LoadedNetwork
from unet.inference.inputs import as_images, as_pixels
from unet.inference.tiling import batches, blended_bands, spans

MODES = ("resize", "tile")


class Options(TypedDict, total=False):
    """Options of segmentation."""

    mode: str | None
    """``"resize"``: resize each image to the size the network was trained at, as in training, and enlarge the logits.
    ``"tile"``: process each image at its own resolution, in overlapping tiles if it is larger than one. Objects should
    then have about the same size in pixels as in training. ``None``: as in training, so ``"tile"`` if the network was
    trained on windows (``data.sampling: crop``), else ``"resize"``."""
    tile: tuple[int, int] | None
    """Height and width of the tiles in pixels (up to ``2**depth - 1`` more, so that the last tile ends with the
    image); ``None``: the size the network was trained at. A network of a fixed size accepts no other."""
    overlap: float
    """Least share of a tile that its neighbour covers, 0 to below 1. In each overlap, the quarter next to a tile's
    edge is taken from the other tile; if the receptive field does not exceed it, the result is that of the whole
    image."""
    flip: bool
    """Average the logits of each image, or tile, and its mirror image: takes twice the time."""
    batch_size: int
    """Images, or tiles of an image, processed at a time. A larger batch takes more memory, and less time on a GPU."""


def check_options(
    *,
    mode: str | None = None,
    tile: tuple[int, int] | None = None,
    overlap: float = 0.25,
    flip: bool = False,
    batch_size: int = 8,
) -> None:
    """Check what can be checked of :class:`Options` without a network.

    Raises:
        InputError: An option has an invalid value.
    """
    if mode not in (*MODES, None):
        raise InputError(f"{mode!r} is not one of {', '.join(MODES)}{nearest(mode, MODES)}", "mode")
    if batch_size < 1:
        raise InputError(f"must be 1 or more, received {batch_size}", "batch_size")
    if mode == "resize":
        if tile is not None:
            raise InputError("can be set only with mode 'tile'", "tile")
        return
    try:
        _, _ = map(operator.index, (0, 0) if tile is None else tile)
    except (TypeError, ValueError):
        raise InputError(f"expected height and width in pixels, as (512, 512), received {tile!r}", "tile") from None
    if not 0 <= overlap < 1:
        raise InputError(f"must be at least 0 and below 1, a share of the tile, received {overlap}", "overlap")


class Prediction(NamedTuple):
    """The segmentation of one image, at its own size."""

    mask: np.ndarray
    """uint8 ``(H, W)``: class ids; or sets of labels, in which bit k, of value 2ᵏ, is label k."""
    probabilities: np.ndarray | None
    """float32 ``(H, W, classes)``, summing to 1 over classes, or the probability of each label, if requested."""


class Predictor:
    """Segments images with a run or an exported file.

    Images are paths, PIL images, uint8 arrays ``(H, W)``, ``(H, W, 3)`` or ``(H, W, 4)``, any iterable of these, or a
    uint8 array ``(N, H, W, 3)``, each of any size; for networks of other images, arrays with their channels and type. A
    single image gives a single result, several give a list. For the keyword arguments see :class:`Options`. An invalid
    image or option raises :class:`~unet.errors.InputError`.

    Example:
        ``unet.load("runs/pets").predict("photo.jpg", mode="tile", tile=(512, 512))``

    Attributes:
        network: The network in the runtime of its format.
        metadata: Its description (:class:`~unet.formats.Metadata`): classes, colours, size.
        name: Display name; by default the name of the run or file.
    """

    def __init__(self, network: LoadedNetwork, name: str | None = None):
        self.network = network
        self.metadata = network.metadata
        self.name = name or network.path.name

    @property
    def mode(self) -> str:
        """The default mode: how the network saw images in training."""
        return "tile" if self.metadata.sampling == "crop" else "resize"

    @renamed(large="mode")
    def predict(self, images: Any, **options: Unpack[Options]) -> np.ndarray | list[np.ndarray]:
        """Return class ids, uint8 ``(H, W)``, of one image, or a list of such masks.

        Of a network for several labels per pixel: bool ``(H, W, labels)``, whether each label is set.
        """
        images, single = as_images(images)
        masks = [prediction.mask for prediction in self.segment(images, **options)]
        head, count = self.metadata.meaning, len(self.metadata.classes)
        if head.labels:
            masks = [np.stack([head.of(mask, index) for index in range(count)], axis=-1) for mask in masks]
        return masks[0] if single else masks

    @renamed(large="mode")
    def probabilities(self, images: Any, **options: Unpack[Options]) -> np.ndarray | list[np.ndarray]:
        """Return probabilities, float32 ``(H, W, classes)``, of one image, or a list of such arrays."""
        images, single = as_images(images)
        predictions = self.segment(images, probabilities=True, **options)
        arrays = [cast(np.ndarray, prediction.probabilities) for prediction in predictions]
        return arrays[0] if single else arrays

    @renamed(large="mode")
    def segment(
        self,
        images: Iterable,
        *,
        probabilities: bool = False,
        mode: str | None = None,
        tile: tuple[int, int] | None = None,
        overlap: float = 0.25,
        flip: bool = False,
        batch_size: int = 8,
    ) -> Iterator[Prediction]:
        """Yield predictions one at a time while ``images`` are being read, so that not all need to fit in memory."""
        mode = mode or self.mode
        check_options(mode=mode, tile=tile, overlap=overlap, batch_size=batch_size)
        for wanted, purpose, argument in (
            (mode == "tile", "blending tiles", "mode"),
            (flip, "averaging with the mirror image", "flip"),
            (probabilities, "computing probabilities", "probabilities"),
        ):
            if wanted:
                self.network.needs_values(purpose, argument)
        if mode == "resize":
            return self._resized(images, probabilities, flip, batch_size)
        tile = self._checked_tile(tile)
        return (
            self._tiled(as_pixels(image, self.metadata.pixels), probabilities, tile, overlap, flip, batch_size)
            for image in images
        )

    def _resized(self, images, probabilities: bool, flip: bool, batch_size: int) -> Iterator[Prediction]:
        """Segment whole images at the size the network was trained at."""

        def prepared():
            for image in images:
                pixels = as_pixels(image, self.metadata.pixels)
                yield resize_image(pixels, self.metadata.size), pixels.shape[:2]

        for batch in batches(prepared(), batch_size):
            if self.network.returns_classes:
                for ids, (_, size) in zip(self.network.class_ids(np.stack([pixels for pixels, _ in batch])), batch):
                    yield Prediction(resize_mask(ids, size), None)
                continue
            for logits, (_, size) in zip(self._logits(np.stack([pixels for pixels, _ in batch]), flip), batch):
                yield self._prediction(logits, size, probabilities)

    def _prediction(self, logits: np.ndarray, size: tuple[int, int], probabilities: bool) -> Prediction:
        """The segmentation of an image from logits ``(h, w, classes)``, which are enlarged to its size."""
        head = self.metadata.meaning
        shares = head.probabilities(resize_logits(logits, size)) if probabilities else None
        return Prediction(head.resized_mask(logits, size), shares)

    def _checked_tile(self, tile: tuple[int, int] | None) -> tuple[int, int]:
        """The tile's height and width, which the network accepts."""
        size = self.metadata.size
        height, width = tile = size if tile is None else (operator.index(tile[0]), operator.index(tile[1]))
        if not self.metadata.dynamic and tile != size:
            raise InputError(
                f"{self.name} accepts {size[0]}×{size[1]} pixels only (height × width), received {height}×{width}",
                "tile",
            )
        if min(tile) < self.metadata.stride:
            raise InputError(
                f"must be {self.metadata.stride} pixels or more, the factor by which the network reduces an image, "
                f"received {height}×{width}",
                "tile",
            )
        return height, width

    def _tiled(self, image, probabilities: bool, tile, overlap: float, flip: bool, batch_size: int) -> Prediction:
        """Segment an image at its own resolution, times the scale of the training images."""
        size = image.shape[:2]
        bands = self.logit_bands(image, tile, overlap, flip, batch_size)
        head = self.metadata.meaning
        mask = np.empty(size, np.uint8)
        shares = np.empty((*size, len(self.metadata.classes)), np.float32) if probabilities else None
        for rows, logits in placed(bands):
            mask[rows] = head.mask(logits)
            if shares is not None:
                shares[rows] = head.probabilities(logits)
        return Prediction(mask, shares)

    def logit_bands(
        self,
        image: np.ndarray,
        tile: tuple[int, int] | None = None,
        overlap: float = 0.25,
        flip: bool = False,
        batch_size: int = 8,
    ) -> Iterator[np.ndarray]:
        """Compute the blended logits of an image in tiles, from top to bottom.

        Args:
            image: ``(H, W, channels)``, of the type of ``metadata.pixels``.
            tile: Height and width of the tiles; ``None``: the size the network was trained at.
            overlap: See :class:`Options`, as for the other arguments.
            flip: Average with the mirror images.
            batch_size: Tiles processed at a time.

        Yields:
            float32 ``(rows, W, classes)``; all bands together have the size of the image.
        """
        whole = image.shape[:2]
        image = resize_image(image, scaled(whole, self.metadata.scale))
        size, stride = image.shape[:2], self.metadata.stride
        tile = tile or self.metadata.size
        if self.metadata.dynamic:  # enlarge the tiles so that the last one ends with the image
            height, width = (min(length, side + (length - side) % stride) for length, side in zip(size, tile))
            tile = height, width
        rows, columns = (spans(length, side, overlap, stride) for length, side in zip(size, tile))
        bands = blended_bands(lambda tiles: self._logits(tiles, flip), image, rows, columns, batch_size)
        return bands if size == whole else resized_bands(bands, size[0], whole)

    def _logits(self, pixels: np.ndarray, flip: bool) -> np.ndarray:
        """Logits ``(B, H, W, classes)`` of images ``(B, H, W, channels)``."""
        logits = self.network.logits(pixels)
        if flip:
            mirrored = self.network.logits(np.ascontiguousarray(pixels[:, :, ::-1]))
            logits = (logits + mirrored[:, :, ::-1]) / 2
        return logits
