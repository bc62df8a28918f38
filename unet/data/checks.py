"""Checks of a data set: what it holds, empty masks, near-identical images in train and test."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from PIL import Image

from unet.data.heads import CLASSES, Head
from unet.data.images import preview, resize_image, resize_mask
from unet.data.masks import class_counts
from unet.data.sources import IGNORE, SPLITS, Problem, Sample

SIMILARITY = 0.99
"""Correlation of thumbnails from which two images count as near-identical."""
SHOWN = 3
"""Problems of one cause that are listed one by one, and files that are named for more of them."""
NOUNS = {
    "missing mask": "images",
    "not an image": "files",
    "unknown name": "lines",
    "missing file": "lines",
    "wrong pixels": "images",
}
"""What is counted in a kind of problem, if not masks."""
SHEET = 240
"""Longest side of an image on a contact sheet in pixels."""
THUMBNAIL = 16
"""Height and width of a thumbnail in pixels."""


def inspect_sample(sample: Sample, classes: tuple[str, ...]) -> list[Problem]:
    """Report an empty mask: every pixel is ignored, or of the class named background, if there is one."""
    present = np.flatnonzero(class_counts(sample.mask))
    ids = [int(value) for value in present if value != IGNORE]
    if not ids:
        return [
            Problem("empty mask", sample.name, "every pixel of the mask is ignored", False, "is ignored everywhere")
        ]
    if not sample.labels and len(ids) == 1 and classes[ids[0]] == "background":
        return [Problem("empty mask", sample.name, "the mask is all background", False, "is all background")]
    return []


class Contents:
    """What a data set holds, counted while its samples are read.

    Args:
        classes: Class names in the order of their ids.
        head: What the values of a mask mean.
    """

    def __init__(self, classes: tuple[str, ...], head: Head = CLASSES):
        self.classes = classes
        self.head = head
        self.images = dict.fromkeys(SPLITS, 0)
        """Number of images of each split."""
        self.pixels = np.zeros(256, np.int64)
        """Number of pixels of each value."""
        self.images_with = np.zeros(256, np.int64)
        """Number of images that contain each class; the last number is that of images with ignored pixels."""
        self.sizes: Counter[str] = Counter()
        """Number of images of each size, ``width×height``."""
        self.mask_types: Counter[str] = Counter()
        """Number of masks of each type."""

    def add(self, sample: Sample) -> None:
        """Count a sample."""
        counts = class_counts(sample.mask)
        self.images[sample.split] += 1
        self.pixels += counts
        self.images_with[: len(self.classes)] += self.head.areas(counts, len(self.classes)) > 0
        self.images_with[IGNORE] += counts[IGNORE] > 0
        self.sizes[f"{sample.mask.shape[1]}×{sample.mask.shape[0]}"] += 1
        if sample.mask_type:
            self.mask_types[sample.mask_type] += 1

    def lines(self) -> list[str]:
        """Number of images, image sizes and mask types, one line each."""
        splits = ", ".join(f"{split} {count:,}" for split, count in self.images.items())
        lines = [f"images: {splits}", f"image sizes: {_most_common(self.sizes)}"]
        return lines + ([f"masks: {_most_common(self.mask_types)}"] if self.mask_types else [])

    def rows(self) -> list[tuple[str, str, str]]:
        """Name, share of the pixels that are not ignored, and number of images of each class; then ignored pixels."""
        counted = max(self.pixels[:IGNORE].sum(), 1)
        areas = self.head.areas(self.pixels, len(self.classes))
        rows = [
            (name, f"{areas[index] / counted:.2%}", f"{self.images_with[index]:,}")
            for index, name in enumerate(self.classes)
        ]
        ignored = self.pixels[IGNORE] / max(self.pixels.sum(), 1)
        return [*rows, ("ignored, of all pixels", f"{ignored:.2%}", f"{self.images_with[IGNORE]:,}")]


class Examples:
    """Images for a contact sheet: evenly spread over the data, and for each class the one with the most pixels of it.

    Args:
        total: Number of images, if known; otherwise the first ones are taken.
        count: Number of images that are spread over the data.
        head: What the values of a mask mean.
    """

    def __init__(self, total: int | None, count: int = 15, head: Head = CLASSES):
        self.head = head
        self.wanted = set(
            range(count) if total is None else np.linspace(0, max(total - 1, 0), count).astype(int).tolist()
        )
        self.read = 0
        self.spread: list[Sample] = []
        self.best: dict[int, tuple[int, Sample]] = {}

    def add(self, sample: Sample) -> None:
        """Keep a sample, reduced to ``SHEET`` pixels, if it is one of these."""
        scale = min(SHEET / max(sample.mask.shape), 1)
        height, width = (max(round(side * scale), 1) for side in sample.mask.shape)
        mask = resize_mask(sample.mask, (height, width))
        counts = self._areas(mask)
        better = [int(i) for i in np.flatnonzero(counts) if counts[i] > self.best.get(int(i), (0, None))[0]]
        if self.read in self.wanted or better:
            small = replace(sample, image=resize_image(preview(sample.image), (height, width)), mask=mask)
            self.best |= {index: (int(counts[index]), small) for index in better}
            if self.read in self.wanted:
                self.spread.append(small)
        self.read += 1

    def chosen(self) -> list[Sample]:
        """The evenly spread samples, and the best ones of classes that these do not contain."""
        shown = {int(i) for sample in self.spread for i in np.flatnonzero(self._areas(sample.mask))}
        more = [sample for index, (_, sample) in sorted(self.best.items()) if index not in shown]
        return list({sample.name + sample.split: sample for sample in [*self.spread, *more]}.values())

    def _areas(self, mask: np.ndarray) -> np.ndarray:
        """Pixels of every possible class."""
        return self.head.areas(class_counts(mask), self.head.most)


def _most_common(counts: Counter[str]) -> str:
    """The most frequent values, with their numbers if there are several."""
    if len(counts) == 1:
        return next(iter(counts))
    shown = ", ".join(f"{value} ({count:,})" for value, count in counts.most_common(SHOWN))
    return shown + (f", and {len(counts) - SHOWN:,} others" if len(counts) > SHOWN else "")


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Reduce an image to a unit vector that near-identical images share: 16×16 grey means, centred.

    An image without contrast gives zeros, which match no image.
    """
    grey = Image.fromarray(preview(image)).convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    vector = np.asarray(grey, np.float32).ravel()
    vector = vector - vector.mean()
    norm = np.linalg.norm(vector)
    return vector / norm if norm > 1e-3 else np.zeros_like(vector)


def near_identical(names: list[str], splits: list[str], thumbnails: np.ndarray) -> list[Problem]:
    """Images in train or validation that a test image resembles: their thumbnails correlate by 0.99 or more.

    Such a pair lets a network memorize a test image. The correlation ignores brightness and contrast.

    Args:
        names: Name of each image.
        splits: Split of each image.
        thumbnails: ``(N, 256)`` from :func:`thumbnail`.
    """
    in_test = np.array([split == "test" for split in splits], bool)
    test, rest = np.flatnonzero(in_test), np.flatnonzero(~in_test)
    problems = []
    for start in range(0, len(rest), 1024):
        rows = rest[start : start + 1024]
        similar = thumbnails[rows] @ thumbnails[test].T >= SIMILARITY
        for i in np.flatnonzero(similar.any(1)):  # one problem per image: a thousand equal ones have a million pairs
            first, *others = test[similar[i]]
            twins = names[first] + (f" and {len(others)} more" if others else "")
            where = f"{names[rows[i]]} ({splits[rows[i]]})"
            message = f"is nearly identical to {twins} (test): a network can memorize it, which raises the test score"
            problems.append(Problem("near-identical", where, message, fatal=False))
    return problems


def grouped(problems: Iterable[Problem]) -> list[Problem]:
    """Merge problems that have the same cause into one, if there are more than ``SHOWN`` of them."""
    groups: dict[tuple, list[Problem]] = {}
    for problem in problems:
        cause = problem.cause or (problem.where, problem.message)
        groups.setdefault((problem.kind, problem.fatal, cause), []).append(problem)
    return [one for group in groups.values() for one in (group if len(group) <= SHOWN else [_together(group)])]


def _together(group: list[Problem]) -> Problem:
    kind, cause = group[0].kind, group[0].cause or group[0].message
    places = ", ".join(problem.where for problem in group[:SHOWN])
    where = f"{len(group):,} {NOUNS.get(kind, 'masks')} ({places}, ...)"
    return Problem(kind, where, f"each {cause}", group[0].fatal)


def summary(problems: Iterable[Problem]) -> str:
    """Count each kind of problem in one line, such as ``empty mask 14×, near-identical 22×``."""
    kinds: dict[str, int] = {}
    for problem in problems:
        kinds[problem.kind] = kinds.get(problem.kind, 0) + 1
    return ", ".join(f"{kind} {count}×" for kind, count in kinds.items())
