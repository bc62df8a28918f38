"""Example segmentations: the test images on which the variants differ most."""

import logging

import numpy as np

from unet import data
from unet.ablation.run.finished import SPLIT
from unet.console import track
from unet.data.heads import head_of
from unet.data.images import preview
from unet.errors import InputError
from unet.evaluation import predict_logits
from unet.metrics import Tally, iou, mean, overlap
from unet.model import load_saved
from unet.runs import Run

log = logging.getLogger("unet")

COUNT = 4
"""Number of test images."""


def predict(runs: dict[str, Run]) -> dict[str, np.ndarray] | None:
    """Segment a few test images with each run.

    Args:
        runs: A finished run by variant. All have the same data and image size.

    Returns:
        Arrays as in :class:`unet.ablation.run.measurements.Scenes`; ``None`` if the test images are not available.
    """
    first = next(iter(runs.values()))
    try:
        dataset = data.prepare(first.config.data)
    except InputError as error:
        log.warning("the report shows no example segmentations: %s", error)
        return None
    chosen = _most_disputed(runs)
    images, masks = dataset.test.read(chosen)
    head = head_of(first.config.model.head)
    predictions, scores = [], []
    for run in track(runs.values(), len(runs), "example segmentations"):
        network = load_saved(run.best_file)
        logits = predict_logits(network, images)
        predictions.append(head.mask(logits))
        tally = Tally(first.info.classes, head)
        tally.add([dataset.test.names[index] for index in chosen], masks, logits)
        scores.append(tally.per_image_mean_iou())
    names = head.names(first.info.classes)
    shown = np.union1d(masks, predictions) if head.labels else np.arange(len(names))
    return {
        "names": np.array([dataset.test.names[index] for index in chosen]),
        "images": np.stack([preview(image) for image in images]),
        "masks": masks,
        "predictions": np.stack(predictions),
        "scores": np.stack(scores),
        "variants": np.array(list(runs)),
        "classes": np.array([name if index in shown else "" for index, name in enumerate(names)]),
        "colours": head.table(first.info.colours),
    }


def _most_disputed(runs: dict[str, Run]) -> list[int]:
    """Indices of the test images on which scores differ most, leaving out the hardest and the easiest images."""
    scores = []
    for run in runs.values():
        _, confusion = run.counts(SPLIT)
        scores.append(mean(iou(*overlap(confusion, head_of(run.config.model.head))), axis=-1))
    typical, spread = np.median(scores, axis=0), np.std(scores, axis=0)
    middle = (typical >= np.nanpercentile(typical, 40)) & (typical <= np.nanpercentile(typical, 90))
    order = np.argsort(-np.where(middle, np.nan_to_num(spread), -1.0), kind="stable")
    return sorted(int(index) for index in order[:COUNT])
