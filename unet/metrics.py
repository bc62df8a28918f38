"""Segmentation metrics: numpy functions of counts, over the data set and per image.

Every score is computed from counts per image: ``confusion`` matrices (truth × prediction) and boundary counts. The
counts summed over images give the *dataset* value of a score; the mean over the scores of single images is its
*per-image* value. A class that occurs neither in the truth nor in the prediction has no score (NaN) and is left out of
the mean.

Where a pixel may have several labels or none, every label has a confusion matrix of its own, of whether it is set. A
score of a label is that of the pixels where it is set, and pixel accuracy is the share of right decisions on labels.
"""

import math
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np

from unet.data.heads import CLASSES, Head
from unet.data.masks import class_counts
from unet.data.sources import IGNORE
from unet.errors import InputError, RunError

BOUNDARY_RATIO = 0.02
"""Width of the band of Boundary IoU as a fraction of the image diagonal (Cheng et al. 2021)."""

BAND_WIDTHS = (1, 2, 4, 8, 16)
"""Half-widths in pixels of the bands around the true contours in which accuracy is measured."""

ROWS = 256
"""Rows of an image that are counted at a time."""


def confusion(truth: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """Confusion matrix of each image.

    Args:
        truth: uint8 ``(N, H, W)``, class ids; 255 is ignored.
        prediction: ``(N, H, W)``, class ids.
        classes: Number of classes C.

    Returns:
        int64 ``(N, C, C)``: pixels of class i (row) predicted as class j (column).

    Raises:
        ValueError: A valid pixel has an id that is not a class, or ids are not integers.
    """
    n, valid = len(truth), truth != IGNORE
    for name, ids in (("truth", truth), ("prediction", prediction)):
        if ids.dtype.kind not in "iu":
            raise ValueError(f"{name} must hold class ids as integers, received {ids.dtype}")
        wrong = valid & ((ids < 0) | (ids >= classes))
        if wrong.any():
            at = int(np.argmax(wrong.any((1, 2))))
            raise ValueError(f"{name} of image {at} has the class id {ids[wrong][0]}; ids are 0 to {classes - 1}")
    image = np.arange(n).reshape(-1, 1, 1)
    index = (image * classes + truth.astype(np.int64)) * classes + prediction
    counts = np.bincount(index[valid], minlength=n * classes**2)
    return counts.reshape(n, classes, classes)


def intersection_union(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intersection and union of every class, ``(..., C)`` each, from confusion matrices ``(..., C, C)``."""
    intersection = np.diagonal(matrix, axis1=-2, axis2=-1)
    return intersection, matrix.sum(-1) + matrix.sum(-2) - intersection


def iou(intersection: np.ndarray, union: np.ndarray) -> np.ndarray:
    """Intersection over union; NaN where the union is empty."""
    return np.divide(intersection, union, where=union > 0, out=np.full(np.shape(union), np.nan))


def dice(intersection: np.ndarray, union: np.ndarray) -> np.ndarray:
    """Dice coefficient ``2·I / (U + I)``, also called F1; NaN where the union is empty."""
    return iou(2 * np.asarray(intersection), np.asarray(union) + intersection)


def precision(matrix: np.ndarray) -> np.ndarray:
    """Share of the pixels predicted as each class that are of it.

    Takes confusion matrices ``(..., C, C)`` and returns ``(..., C)``. As for IoU, a class has no score (NaN) if it
    occurs neither in the truth nor in the prediction, and 0 if it occurs in one of them only.
    """
    intersection, union = intersection_union(matrix)
    predicted = matrix.sum(-2)
    absent = np.where(union > 0, 0.0, np.nan)
    return np.divide(intersection, predicted, where=predicted > 0, out=absent)


def recall(matrix: np.ndarray) -> np.ndarray:
    """Share of the pixels of each class that are predicted as it, ``(..., C)``; otherwise as :func:`precision`."""
    return precision(np.swapaxes(matrix, -1, -2))


def pixel_accuracy(matrix: np.ndarray) -> np.ndarray:
    """Fraction of pixels with the correct class, from confusion matrices ``(..., C, C)``."""
    return iou(np.trace(matrix, axis1=-2, axis2=-1), matrix.sum((-2, -1)))


def boundary_width(height: int, width: int) -> int:
    """Width in pixels of the band of Boundary IoU: 2 % of the diagonal, rounded, at least 1."""
    return max(1, round(BOUNDARY_RATIO * float(np.hypot(height, width))))


def within(pixels: np.ndarray, distance: int) -> np.ndarray:
    """Pixels within a Chebyshev distance of the given ones: dilation with a square, bool ``(H, W)`` to the same."""
    for axis in (0, 1):
        reached = 0
        while reached < distance:
            step = min(reached + 1, distance - reached)  # farther, and there would be gaps next to the border
            grown = pixels.copy()
            source, target = np.moveaxis(pixels, axis, 0), np.moveaxis(grown, axis, 0)
            target[step:] |= source[:-step]
            target[:-step] |= source[step:]
            pixels, reached = grown, reached + step
    return pixels


def boundary_band(labels: np.ndarray, width: int) -> np.ndarray:
    """Pixels within ``width`` of a pixel of another label, or of the outside of the image.

    For every label these are its pixels without their ``width``-fold 3×3 erosion, as in the code of the authors of
    Boundary IoU.

    Args:
        labels: ``(H, W)``.
        width: Chebyshev distance in pixels.

    Returns:
        bool ``(H, W)``.
    """
    edge = np.zeros(labels.shape, bool)
    edge[[0, -1]] = edge[:, [0, -1]] = True
    for one, other in (
        (np.s_[1:], np.s_[:-1]),
        (np.s_[:, 1:], np.s_[:, :-1]),
        (np.s_[1:, 1:], np.s_[:-1, :-1]),
        (np.s_[1:, :-1], np.s_[:-1, 1:]),
    ):
        differs = labels[one] != labels[other]
        edge[one] |= differs
        edge[other] |= differs
    return within(edge, width - 1)


def contours(truth: np.ndarray) -> np.ndarray:
    """Pixels next to one of another class, bool ``(H, W)``; there is no contour between ignored and other pixels."""
    found = np.zeros(truth.shape, bool)
    counted = truth != IGNORE
    for one, other in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differs = (truth[one] != truth[other]) & counted[one] & counted[other]
        found[one] |= differs
        found[other] |= differs
    return found


def image_counts(
    truth: np.ndarray, prediction: np.ndarray, classes: int, without: np.ndarray | None = None
) -> np.ndarray:
    """Count the pixels of an image by everything that a score depends on.

    Args:
        truth: uint8 ``(H, W)``: class ids; 255 is ignored.
        prediction: ``(H, W)``: class ids.
        classes: Number of classes C.
        without: Another property of each pixel, bool ``(H, W)``; ``None``: false.

    Returns:
        int64 ``(C, C, 2, 6, 2, 2)``: pixels by true class, predicted class, ``without``, number of bands of
        ``BAND_WIDTHS`` around a true contour that contain the pixel, and whether it is in the boundary band of the
        prediction and of the truth (Boundary IoU, Cheng et al. 2021). Ignored pixels belong to no class and are not
        counted.
    """
    labels = np.minimum(truth, classes)  # the last one is ignored
    predicted = np.where(labels == classes, IGNORE, prediction)
    width = boundary_width(*truth.shape)
    kinds = boundary_band(truth, width).astype(np.uint8)
    kinds += 2 * boundary_band(predicted, width).astype(np.uint8)
    band, reached = contours(truth), 1
    for distance in BAND_WIDTHS:
        band, reached = within(band, distance - reached), distance
        kinds += 4 * band.astype(np.uint8)
    if without is not None:
        kinds += 24 * without.astype(np.uint8)
    shape = (classes + 1, classes, 2, 1 + len(BAND_WIDTHS), 2, 2)
    counts = np.zeros(math.prod(shape), np.int64)
    for start in range(0, len(truth), ROWS):  # numpy counts in 8 bytes per pixel
        rows = slice(start, start + ROWS)
        code = labels[rows].astype(np.int64)
        code *= classes
        code += np.where(labels[rows] == classes, 0, prediction[rows])
        code *= math.prod(shape[2:])
        code += kinds[rows]
        counts += np.bincount(code.ravel(), minlength=len(counts))
    return counts.reshape(shape)[:classes]


def scored_counts(counts: np.ndarray, pet: int | None = None, border: int | None = None) -> dict[str, np.ndarray]:
    """The counts of one image from which the scores are computed.

    Args:
        counts: Result of :func:`image_counts`, where ``without`` states for a trimap whether the pet class is the best
            of all but the border.
        pet: Id of the pet class of a trimap.
        border: Id of the border class of a trimap.

    Returns:
        ``confusion`` ``(C, C)``; ``boundary_intersection`` and ``boundary_union`` ``(C,)``; ``band`` ``(5, 2)``: the
        correct pixels and all pixels within 1, 2, 4, 8 and 16 pixels of a true contour (trimap accuracy, Kohli et al.
        2009). Of a trimap also ``pet_RULE`` ``(2,)``, intersection and union of the pet under three rules:

        - ``ignored``: pixels whose true class is border are excluded, and the prediction elsewhere is the best of the
          other classes,
        - ``as_pet``: border counts as pet, in truth and prediction,
        - ``as_background``: border counts as background.
    """
    matrix = counts.sum((2, 3, 4, 5))
    in_prediction, in_truth = counts[..., 1, :].sum((0, 2, 3, 4)), counts[..., 1].sum((1, 2, 3, 4))
    in_both = np.einsum("iiab->i", counts[..., 1, 1])
    by_band = np.stack([np.einsum("iiabcd->b", counts), counts.sum((0, 1, 2, 4, 5))], axis=-1)
    found = {
        "confusion": matrix,
        "boundary_intersection": in_both,
        "boundary_union": in_truth + in_prediction - in_both,
        "band": by_band[:0:-1].cumsum(0),  # the narrowest first: its pixels are in all bands
    }
    if pet is None or border is None:
        return found
    chosen = counts[:, :, 1].sum((1, 2, 3, 4))
    others = [index for index in range(len(matrix)) if index not in (pet, border)]
    found["pet_ignored"] = np.array([chosen[pet], matrix[pet].sum() + chosen[others].sum()])
    for rule, kinds in (("as_pet", [pet, border]), ("as_background", [pet])):
        both = matrix[np.ix_(kinds, kinds)].sum()
        found[f"pet_{rule}"] = np.array([both, matrix[kinds].sum() + matrix[:, kinds].sum() - both])
    return found


def label_counts(truth: np.ndarray, prediction: np.ndarray, labels: int, head: Head) -> dict[str, np.ndarray]:
    """The counts of one image from which the scores of labels are computed.

    Args:
        truth: uint8 ``(H, W)``: sets of labels; 255 is ignored.
        prediction: uint8 ``(H, W)``: sets of labels.
        labels: Number of labels L.
        head: What the values mean.

    Returns:
        As :func:`scored_counts` of two classes, *not set* and *set*, for each label: ``confusion`` ``(L, 2, 2)``,
        ``boundary_intersection`` and ``boundary_union`` ``(L,)`` of where it is set, and ``band`` ``(5, 2)``, in which
        decisions on all labels are counted.
    """
    of_labels = []
    for index in range(labels):
        own = np.where(truth == IGNORE, IGNORE, head.of(truth, index)).astype(np.uint8)
        of_labels.append(scored_counts(image_counts(own, head.of(prediction, index).astype(np.uint8), 2)))
    found = {key: np.stack([counts[key] for counts in of_labels]) for key in of_labels[0]}
    return found | {
        "boundary_intersection": found["boundary_intersection"][:, 1],
        "boundary_union": found["boundary_union"][:, 1],
        "band": found["band"].sum(0),
    }


def overlap(matrix: np.ndarray, head: Head = CLASSES) -> tuple[np.ndarray, np.ndarray]:
    """Intersection and union of every class or label, ``(..., C)`` each.

    Takes confusion matrices ``(..., C, C)`` of classes, or ``(..., L, 2, 2)`` of labels.
    """
    intersection, union = intersection_union(matrix)
    return (intersection[..., 1], union[..., 1]) if head.labels else (intersection, union)


def mean(values: np.ndarray, axis=None) -> np.ndarray:
    """Mean of the values that are not NaN; NaN if there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # mean of an empty slice
        return np.nanmean(values, axis=axis)


class Tally:
    """Counts of every image of a split, and the scores computed from them.

    Args:
        classes: Class names in the order of their ids. If ``pet`` and ``border`` are among them, the scores of the pet
            under the three border rules are included.
        head: What the values of the masks mean.
    """

    def __init__(self, classes: tuple[str, ...], head: Head = CLASSES):
        self.classes = tuple(classes)
        self.head = head
        self.has_trimap = {"pet", "border"} <= set(classes) and not head.labels
        self.names: list[str] = []
        self._counts: list[dict[str, np.ndarray]] = []

    def add(self, names: list[str], truth: Iterable[np.ndarray], logits: np.ndarray) -> None:
        """Count a batch.

        Args:
            names: Names of the N images.
            truth: Mask of each image, uint8 ``(H, W)``, also of different sizes.
            logits: ``(N, h, w, C)``; they are enlarged bilinearly to the size of the mask.

        Raises:
            InputError: A mask has an id that is neither a class nor the ignored one.
            RunError: Logits are NaN.
        """
        self._counts += [
            self._count(name, mask, self._predicted(name, values, mask.shape))
            for name, mask, values in zip(names, truth, logits, strict=True)
        ]
        self.names += names

    def add_bands(self, name: str, truth: np.ndarray, bands: Iterable[np.ndarray]) -> None:
        """Count one image of which only a part of the logits is in memory at a time.

        Args:
            name: Name of the image.
            truth: Its mask, uint8 ``(H, W)``.
            bands: Logits ``(rows, W, C)``, from the top of the image to the bottom.

        Raises:
            InputError: As for :meth:`add`.
            RunError: Likewise.
        """
        predicted = [self._predicted(name, logits, logits.shape[:2]) for logits in bands]
        self._counts.append(self._count(name, truth, np.concatenate(predicted, axis=1)))
        self.names.append(name)

    def _predicted(self, name: str, logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Values of the mask that logits ``(h, w, C)`` predict, uint8 ``(1, H, W)``.

        Of a trimap ``(2, H, W)``: the second array is 1 where the pet class is the best of all but the border.
        """
        if np.isnan(logits).any():
            raise RunError(
                f"image {name}: the logits are NaN, so there is no prediction. The weights are not finite, or "
                "its precision is too low for them: train again, or use an earlier run"
            )
        prediction = self.head.resized_mask(logits, size)
        if not self.has_trimap:
            return prediction[None]
        pet, border = self.classes.index("pet"), self.classes.index("border")
        best = self.head.resized_mask(np.delete(logits, border, axis=-1), size)
        return np.stack([prediction, best == pet - (border < pet)])

    def _count(self, name: str, mask: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
        """Counts of one image."""
        largest = self.head.largest(len(self.classes))
        if class_counts(mask)[largest + 1 : IGNORE].any():
            unknown = np.setdiff1d(mask, [*range(largest + 1), IGNORE])
            values = "sets of labels" if self.head.labels else "class ids"
            raise InputError(
                f"image {name}: its mask holds {', '.join(map(str, unknown[:5]))}; expected are the {values} 0 to "
                f"{largest}, or {IGNORE} for ignored pixels. Run unet check-data to list every mask"
            )
        if self.head.labels:
            return label_counts(mask, predicted[0], len(self.classes), self.head)
        counts = image_counts(mask, predicted[0], len(self.classes), *predicted[1:].astype(bool))
        trimap = [self.classes.index(name) for name in ("pet", "border")] if self.has_trimap else []
        return scored_counts(counts, *trimap)

    def counts(self, key: str) -> np.ndarray:
        """Counts of every image, in the order in which images were added."""
        like = self._count("", np.full((1, 1), IGNORE, np.uint8), np.zeros((1 + self.has_trimap, 1, 1), np.uint8))[key]
        return np.array([counts[key] for counts in self._counts], like.dtype).reshape(-1, *like.shape)

    @property
    def confusion(self) -> np.ndarray:
        """Confusion matrix of the whole split, int64 ``(C, C)``, or of each label, ``(L, 2, 2)``."""
        return self.counts("confusion").sum(0)

    def per_image_mean_iou(self) -> np.ndarray:
        """Mean IoU of each image, float64 ``(N,)``."""
        return mean(iou(*overlap(self.counts("confusion"), self.head)), axis=-1)

    def per_image_accuracy(self) -> np.ndarray:
        """Pixel accuracy of each image, float64 ``(N,)``."""
        matrices = self.counts("confusion")
        return pixel_accuracy(matrices.sum(1) if self.head.labels else matrices)

    def scores(self) -> dict:
        """Every score as ``{"dataset": value, "per_image": value}``, by class name if there is one per class."""
        matrices = self.counts("confusion")
        ious = _both(iou, *overlap(matrices, self.head))
        dices = _both(dice, *overlap(matrices, self.head))
        precisions, recalls = _both(precision, matrices), _both(recall, matrices)
        if self.head.labels:  # of the two classes of each label, that of pixels where it is set
            for rates in (precisions, recalls):
                rates.update({key: values[..., 1] for key, values in rates.items()})
        boundary = _both(iou, self.counts("boundary_intersection"), self.counts("boundary_union"))
        whole = matrices.sum((0, 1) if self.head.labels else 0)
        accuracy = {"dataset": pixel_accuracy(whole), "per_image": mean(self.per_image_accuracy())}
        scores: dict[str, Any] = {
            "images": len(self.names),
            "mean_iou": _over_classes(ious),
            "iou": self._by_class(ious),
            "mean_dice": _over_classes(dices),
            "dice": self._by_class(dices),
            "mean_precision": _over_classes(precisions),
            "precision": self._by_class(precisions),
            "mean_recall": _over_classes(recalls),
            "recall": self._by_class(recalls),
            "pixel_accuracy": {key: float(value) for key, value in accuracy.items()},
            "mean_boundary_iou": _over_classes(boundary),
            "boundary_iou": self._by_class(boundary),
        }
        right, pixels = np.moveaxis(self.counts("band"), -1, 0)
        bands = _both(iou, right, pixels)
        scores["band_accuracy"] = {
            str(width): {
                "dataset": float(bands["dataset"][index]),
                "per_image": float(mean(bands["per_image"][:, index])),
            }
            for index, width in enumerate(BAND_WIDTHS)
        }
        if self.has_trimap:
            for name, score in (("pet_iou", iou), ("pet_dice", dice)):
                scores[name] = {}
                for rule in ("ignored", "as_pet", "as_background"):
                    both, either = np.moveaxis(self.counts(f"pet_{rule}"), -1, 0)
                    values = _both(score, both, either)
                    scores[name][f"border_{rule}"] = {
                        "dataset": float(values["dataset"]),
                        "per_image": float(mean(values["per_image"])),
                    }
        return scores

    def _by_class(self, values: dict[str, np.ndarray]) -> dict:
        per_class = {"dataset": values["dataset"], "per_image": mean(values["per_image"], axis=0)}
        return {
            name: {key: float(value[index]) for key, value in per_class.items()}
            for index, name in enumerate(self.classes)
        }


def _both(score, *counts: np.ndarray) -> dict[str, np.ndarray]:
    """Score of the summed counts, and of the counts of each image."""
    return {"dataset": score(*(values.sum(0) for values in counts)), "per_image": score(*counts)}


def _over_classes(values: dict[str, np.ndarray]) -> dict[str, float]:
    """Mean over classes; per image, the mean over images of each image's mean over classes."""
    return {"dataset": float(mean(values["dataset"])), "per_image": float(mean(mean(values["per_image"], axis=-1)))}
