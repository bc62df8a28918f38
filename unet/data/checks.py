"""What can be wrong with a data set as a whole, and how it is told."""

from collections.abc import Iterable

import numpy as np
from PIL import Image

from unet.data.sources import IGNORE, Problem, Sample

SIMILARITY = 0.99
THUMBNAIL = 16


def inspect_sample(sample: Sample, classes: tuple[str, ...]) -> list[Problem]:
    """Look for faults of one readable pair: no labelled pixel, or (where there is a first class) no object.

    A mask is called empty if every pixel is ignored, or if it holds nothing but the background of a data set that
    has a class of that name.
    """
    present = np.flatnonzero(np.bincount(sample.mask.ravel(), minlength=256))
    ids = [int(value) for value in present if value != IGNORE]
    if not ids:
        return [Problem("empty mask", sample.name, "every pixel of the mask is ignored", fatal=False)]
    if len(ids) == 1 and classes[ids[0]] == "background":
        return [Problem("empty mask", sample.name, "the mask is all background", fatal=False)]
    return []


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Reduce an image to a unit vector that near-identical images share: 16×16 grey means, centred.

    Returns zeros for an image without contrast, which is like none.
    """
    grey = Image.fromarray(image).convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    vector = np.asarray(grey, np.float32).ravel()
    vector = vector - vector.mean()
    norm = np.linalg.norm(vector)
    return vector / norm if norm > 1e-3 else np.zeros_like(vector)


def near_identical(names: list[str], splits: list[str], thumbnails: np.ndarray) -> list[Problem]:
    """Pairs of images, one in train or validation and one in test, whose thumbnails correlate by 0.99 or more.

    Such a pair lets a network remember a test image. The correlation ignores brightness and contrast.

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
        for i, j in np.argwhere(thumbnails[rows] @ thumbnails[test].T >= SIMILARITY):
            a, b = rows[i], test[j]
            message = f"is nearly identical to {names[b]} (test): the test score profits from memory"
            problems.append(Problem("near-identical", f"{names[a]} ({splits[a]})", message, fatal=False))
    return problems


def summary(problems: Iterable[Problem]) -> str:
    """One line that counts each kind, such as ``empty mask 14×, near-identical 22×``."""
    kinds: dict[str, int] = {}
    for problem in problems:
        kinds[problem.kind] = kinds.get(problem.kind, 0) + 1
    return ", ".join(f"{kind} {count}×" for kind, count in kinds.items())
