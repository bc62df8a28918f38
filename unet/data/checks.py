"""Checks of a data set: empty masks, near-identical images in train and test."""

from collections.abc import Iterable

import numpy as np
from PIL import Image

from unet.data.sources import IGNORE, Problem, Sample

SIMILARITY = 0.99
"""Correlation of thumbnails from which two images count as near-identical."""
THUMBNAIL = 16
"""Height and width of a thumbnail in pixels."""


def inspect_sample(sample: Sample, classes: tuple[str, ...]) -> list[Problem]:
    """Report an empty mask: every pixel is ignored, or of the class named background, if there is one."""
    present = np.flatnonzero(np.bincount(sample.mask.ravel(), minlength=256))
    ids = [int(value) for value in present if value != IGNORE]
    if not ids:
        return [Problem("empty mask", sample.name, "every pixel of the mask is ignored", fatal=False)]
    if len(ids) == 1 and classes[ids[0]] == "background":
        return [Problem("empty mask", sample.name, "the mask is all background", fatal=False)]
    return []


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Reduce an image to a unit vector that near-identical images share: 16×16 grey means, centred.

    An image without contrast gives zeros, which match no image.
    """
    grey = Image.fromarray(image).convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
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


def summary(problems: Iterable[Problem]) -> str:
    """Count each kind of problem in one line, such as ``empty mask 14×, near-identical 22×``."""
    kinds: dict[str, int] = {}
    for problem in problems:
        kinds[problem.kind] = kinds.get(problem.kind, 0) + 1
    return ", ".join(f"{kind} {count}×" for kind, count in kinds.items())
