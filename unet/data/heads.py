"""What the values of a mask mean, and how a network's logits become such values.

A mask holds the class of every pixel (:data:`CLASSES`), or for several masks per image the set of its labels
(:data:`LABELS`): bit k, of value 2ᵏ, is label k. In both, 255 is ignored.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from unet.colours import colour_table
from unet.config.schema import MAX_LABELS
from unet.data.images import placed, resized_bands
from unet.data.sources import IGNORE


class Head:
    """One class for every pixel: the channel with the largest logit.

    Attributes:
        labels: Whether a pixel may have several labels, or none.
        most: Most channels.
        activation: Name of the function that turns logits into probabilities.
    """

    labels = False
    most = IGNORE
    activation = "softmax"

    def mask(self, logits: np.ndarray) -> np.ndarray:
        """Values of a mask, uint8 ``(...)``, from logits ``(..., C)``."""
        return logits.argmax(-1).astype(np.uint8)

    def resized_mask(self, logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """The mask, uint8 ``(H, W)``, of logits ``(h, w, C)`` that are enlarged bilinearly to ``size``.

        It is computed a few rows at a time to save memory.
        """
        if logits.shape[:2] == tuple(size):
            return self.mask(logits)
        mask = np.empty(size, np.uint8)
        for rows, band in placed(resized_bands([logits], len(logits), size)):
            mask[rows] = self.mask(band)
        return mask

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities ``(..., C)`` of logits ``(..., C)``: a softmax."""
        return softmax(logits)

    def logits(self, probabilities: np.ndarray) -> np.ndarray:
        """Logits of probabilities, up to a constant per pixel; probabilities are clipped at 1e-7."""
        return np.log(np.maximum(probabilities, 1e-7))

    def gap(self, logits: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """By how much logits ``(..., C)`` would have to change for another mask: 0 where the mask follows from them."""
        own = np.take_along_axis(logits, mask[..., None].astype(np.intp), axis=-1)[..., 0]
        return logits.max(-1) - own

    def largest(self, count: int) -> int:
        """Largest value of a mask."""
        return count - 1

    def areas(self, pixels: np.ndarray, count: int) -> np.ndarray:
        """Pixels of each class.

        Args:
            pixels: Number of pixels of each value, ``(256,)``.
            count: Number of classes C.

        Returns:
            ``(C,)``.
        """
        return pixels[:count]

    def of(self, mask: np.ndarray, index: int) -> np.ndarray:
        """Where a mask has a class, bool; nowhere where it is ignored."""
        return mask == index

    def value(self, index: int) -> int:
        """Value of pixels that have this class only."""
        return index

    def names(self, classes: Sequence[str]) -> list[str]:
        """Name of every value of a mask."""
        return list(classes)

    def table(self, colours: Iterable) -> np.ndarray:
        """Colours by value, uint8 ``(256, 3)``, from the colour of each class."""
        return colour_table(colours)


class LabelHead(Head):
    """Any number of labels for every pixel: each channel whose logit is positive, so whose probability is over ½."""

    labels = True
    most = MAX_LABELS
    activation = "sigmoid"

    def mask(self, logits):
        powers = (1 << np.arange(logits.shape[-1])).astype(np.uint8)
        return (logits > 0) @ powers

    def probabilities(self, logits):
        """A sigmoid of each channel."""
        return np.exp(-np.logaddexp(0, -logits))

    def logits(self, probabilities):
        """Logits of probabilities, which are clipped to 1e-7 from 0 and 1."""
        p = np.clip(probabilities, 1e-7, 1 - 1e-7)
        return np.log(p) - np.log1p(-p)

    def gap(self, logits, mask):
        differs = np.stack([self.of(mask ^ self.mask(logits), index) for index in range(logits.shape[-1])], axis=-1)
        return np.max(np.abs(logits), axis=-1, where=differs, initial=0)

    def largest(self, count):
        return 2**count - 1

    def areas(self, pixels, count):
        values = np.arange(IGNORE)
        return np.stack([pixels[:IGNORE][values >> index & 1 == 1].sum() for index in range(count)])

    def of(self, mask, index):
        return (mask >> index & 1 == 1) & (mask != IGNORE)

    def value(self, index):
        return 1 << index

    def names(self, classes):
        sets = ([name for k, name in enumerate(classes) if value >> k & 1] for value in range(2 ** len(classes)))
        return [" + ".join(names) or "no label" for names in sets]

    def table(self, colours):
        """The mean colour of the labels that are set, white for none."""
        colours = tuple(colours)
        own, count = colour_table(colours).astype(float), len(colours)
        table = np.full((256, 3), 255.0)
        for value in range(1, 2**count):
            table[value] = own[[index for index in range(count) if value >> index & 1]].mean(0)
        table[IGNORE] = own[IGNORE]
        return table.round().astype(np.uint8)


CLASSES, LABELS = Head(), LabelHead()


def head_of(name: str) -> Head:
    """The head that ``model.head`` names."""
    return LABELS if name == "labels" else CLASSES


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits ``(..., classes)``."""
    shares = logits - logits.max(-1, keepdims=True)
    np.exp(shares, out=shares)
    shares /= shares.sum(-1, keepdims=True)
    return shares
