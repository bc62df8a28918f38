"""Segmentation metrics: numpy functions of counts, over the data set and per image.

Every score is computed from counts per image: ``confusion`` matrices (truth × prediction) and boundary counts. The
counts summed over images give the *dataset* value of a score; the mean over the scores of single images is its
*per-image* value. A class that occurs neither in the truth nor in the prediction has no score (NaN) and is left out of
the mean.
"""

import warnings
from typing import Any

import numpy as np
from scipy import ndimage

from unet.data.sources import IGNORE
from unet.errors import InputError, RunError

BOUNDARY_RATIO = 0.02
"""Width of the band of Boundary IoU as a fraction of the image diagonal (Cheng et al. 2021)."""

BAND_WIDTHS = (1, 2, 4, 8, 16)
"""Half-widths in pixels of the bands around the true contours in which accuracy is measured."""


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


def pixel_accuracy(matrix: np.ndarray) -> np.ndarray:
    """Fraction of pixels with the correct class, from confusion matrices ``(..., C, C)``."""
    return iou(np.trace(matrix, axis1=-2, axis2=-1), matrix.sum((-2, -1)))


def boundary_width(height: int, width: int) -> int:
    """Width in pixels of the band of Boundary IoU: 2 % of the diagonal, rounded, at least 1."""
    return max(1, round(BOUNDARY_RATIO * float(np.hypot(height, width))))


def boundary_band(masks: np.ndarray, pixels: int) -> np.ndarray:
    """Pixels of each mask within ``pixels`` of its contour; the image border counts as contour.

    Args:
        masks: bool ``(N, H, W)``.
        pixels: Chebyshev distance d; the band is the mask without its d-fold 3×3 erosion, as in the authors' code.

    Returns:
        bool ``(N, H, W)``.
    """
    eroded = masks.astype(np.uint8)
    for axis in (1, 2):
        eroded = ndimage.minimum_filter1d(eroded, 2 * pixels + 1, axis=axis, mode="constant", cval=0)
    return masks & ~eroded.astype(bool)


def boundary_counts(truth: np.ndarray, prediction: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Intersection and union of the boundary bands of each class (Boundary IoU, Cheng et al. 2021).

    Args:
        truth: uint8 ``(N, H, W)``; ignored pixels belong to no class and are excluded from both bands.
        prediction: ``(N, H, W)``.
        classes: Number of classes C.

    Returns:
        int64 ``(N, C)`` each.
    """
    pixels = boundary_width(*truth.shape[1:])
    valid = truth != IGNORE
    counts = []
    for index in range(classes):
        a = boundary_band(truth == index, pixels)
        b = boundary_band((prediction == index) & valid, pixels)
        counts.append(((a & b).sum((1, 2)), (a | b).sum((1, 2))))
    intersection, union = np.moveaxis(np.array(counts, np.int64), 0, -1)
    return intersection, union


def contour_distance(truth: np.ndarray) -> np.ndarray:
    """Distance of each pixel from the nearest one of another class: 1 on both sides of a contour.

    Args:
        truth: uint8 ``(N, H, W)``; there is no contour between ignored and other pixels.

    Returns:
        int64 ``(N, H, W)``, the Chebyshev distance; greater than H + W and every band if an image has a single class.
    """

    def differ(one, other):
        return (one != other) & (one != IGNORE) & (other != IGNORE)

    contour = np.zeros(truth.shape, bool)
    below, right = differ(truth[:, 1:], truth[:, :-1]), differ(truth[:, :, 1:], truth[:, :, :-1])
    contour[:, 1:] |= below
    contour[:, :-1] |= below
    contour[:, :, 1:] |= right
    contour[:, :, :-1] |= right
    far = max(truth.shape[1] + truth.shape[2], *BAND_WIDTHS) + 1
    if not len(truth):
        return np.zeros(truth.shape, np.int64)
    return np.stack(
        [
            1 + ndimage.distance_transform_cdt(~image, "chessboard") if image.any() else np.full(image.shape, far)
            for image in contour
        ]
    )


def band_counts(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Correct pixels and all pixels in bands around the true contours (trimap accuracy, Kohli et al. 2009).

    Args:
        truth: uint8 ``(N, H, W)``; ignored pixels are excluded.
        prediction: ``(N, H, W)``.

    Returns:
        int64 ``(N, 5, 2)``: correct pixels and all pixels within 1, 2, 4, 8 and 16 pixels of a contour.
    """
    distance = contour_distance(truth)
    valid, right = truth != IGNORE, truth == prediction
    bands = [valid & (distance <= width) for width in BAND_WIDTHS]
    return np.stack([np.stack([(band & right).sum((1, 2)), band.sum((1, 2))], axis=-1) for band in bands], axis=1)


def pet_counts(truth: np.ndarray, logits: np.ndarray, pet: int, border: int) -> dict[str, np.ndarray]:
    """Intersection and union of the pet under three rules for the border class of a trimap.

    ``ignored``: pixels whose true class is border are excluded, and the prediction elsewhere is the best of the other
    classes. ``as_pet``: border counts as pet, in truth and prediction. ``as_background``: border counts as background.

    Args:
        truth: uint8 ``(N, H, W)``.
        logits: ``(N, H, W, C)``, or other scores that rank the classes.
        pet: Id of the pet class.
        border: Id of the border class.

    Returns:
        int64 ``(N, 2)`` by rule: intersection, union.
    """
    prediction = logits.argmax(-1)
    without_border = np.where(np.arange(logits.shape[-1]) == border, -np.inf, logits).argmax(-1)
    valid = truth != IGNORE
    rules = {
        "ignored": (truth == pet, without_border == pet, valid & (truth != border)),
        "as_pet": (np.isin(truth, (pet, border)), np.isin(prediction, (pet, border)), valid),
        "as_background": (truth == pet, prediction == pet, valid),
    }
    counts = {}
    for rule, (a, b, counted) in rules.items():
        both, either = (a & b & counted).sum((1, 2)), ((a | b) & counted).sum((1, 2))
        counts[rule] = np.stack([both, either], axis=-1)
    return counts


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
    """

    def __init__(self, classes: tuple[str, ...]):
        self.classes = tuple(classes)
        self.has_trimap = {"pet", "border"} <= set(classes)
        self.names: list[str] = []
        self._parts: dict[str, list[np.ndarray]] = {}

    def add(self, names: list[str], truth: np.ndarray, logits: np.ndarray) -> None:
        """Count a batch: truth uint8 ``(N, H, W)``, logits ``(N, H, W, C)``.

        Raises:
            InputError: A mask has an id that is neither a class nor the ignored one.
            RunError: Logits are NaN.
        """
        for name, mask, values in zip(names, truth, logits, strict=True):
            if np.isnan(values).any():
                raise RunError(
                    f"image {name}: the logits are NaN, so there is no prediction. The weights are not finite, or "
                    "its precision is too low for them: train again, or use an earlier run"
                )
            if (unknown := np.setdiff1d(mask, [*range(len(self.classes)), IGNORE])).size:
                raise InputError(
                    f"image {name}: its mask holds {', '.join(map(str, unknown[:5]))}; expected are the class ids 0 to "
                    f"{len(self.classes) - 1}, or {IGNORE} for ignored pixels. Run unet check-data to list every mask"
                )
        prediction = logits.argmax(-1)
        n = len(self.classes)
        parts = {"confusion": confusion(truth, prediction, n)}
        parts["boundary_intersection"], parts["boundary_union"] = boundary_counts(truth, prediction, n)
        parts["band"] = band_counts(truth, prediction)
        if self.has_trimap:
            pet, border = self.classes.index("pet"), self.classes.index("border")
            parts |= {f"pet_{rule}": counts for rule, counts in pet_counts(truth, logits, pet, border).items()}
        self.names += names
        for key, values in parts.items():
            self._parts.setdefault(key, []).append(values)

    def counts(self, key: str) -> np.ndarray:
        """Counts of every image, in the order in which images were added."""
        return np.concatenate(self._parts[key])

    @property
    def confusion(self) -> np.ndarray:
        """Confusion matrix of the whole split, int64 ``(C, C)``."""
        return self.counts("confusion").sum(0)

    def per_image_mean_iou(self) -> np.ndarray:
        """Mean IoU of each image, float64 ``(N,)``."""
        return mean(iou(*intersection_union(self.counts("confusion"))), axis=-1)

    def scores(self) -> dict:
        """Every score as ``{"dataset": value, "per_image": value}``, by class name if there is one per class."""
        matrices = self.counts("confusion")
        ious = _both(iou, *intersection_union(matrices))
        dices = _both(dice, *intersection_union(matrices))
        boundary = _both(iou, self.counts("boundary_intersection"), self.counts("boundary_union"))
        accuracy = {"dataset": pixel_accuracy(matrices.sum(0)), "per_image": mean(pixel_accuracy(matrices))}
        scores: dict[str, Any] = {
            "images": len(self.names),
            "mean_iou": _over_classes(ious),
            "iou": self._by_class(ious),
            "mean_dice": _over_classes(dices),
            "dice": self._by_class(dices),
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


def _both(score, intersection: np.ndarray, union: np.ndarray) -> dict[str, np.ndarray]:
    """Score of the summed counts, and of the counts of each image."""
    return {"dataset": score(intersection.sum(0), union.sum(0)), "per_image": score(intersection, union)}


def _over_classes(values: dict[str, np.ndarray]) -> dict[str, float]:
    """Mean over classes; per image, the mean over images of each image's mean over classes."""
    return {"dataset": float(mean(values["dataset"])), "per_image": float(mean(mean(values["per_image"], axis=-1)))}
