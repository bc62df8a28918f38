"""Scores and figures of a trained run, at the network's resolution or at each image's own."""

import csv
import io
import itertools
import logging
from collections.abc import Iterator

import keras
import numpy as np
from PIL import Image

from unet import data, figures
from unet.data.cache import native_samples, resize_image
from unet.errors import InputError
from unet.files import replacing, write_text
from unet.metrics import Tally, pixel_accuracy
from unet.progress import track
from unet.runs import Run
from unet.training import compiles

log = logging.getLogger("unet")

BATCH = 32
EXAMPLES = 2
"""Images in each of the best, median and worst groups of the prediction figure."""


def evaluate(run: Run, split: str = "test", native: bool = False) -> dict:
    """Score ``best.keras`` on a split; write metrics.json, scores and counts of every image, and figures.

    Args:
        run: A trained run.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        native: Enlarge the logits to each image's own size and compare with the mask there.

    Returns:
        Scores as in :meth:`unet.metrics.Tally.scores`, with ``size``.

    Raises:
        InputError: The run has no trained network yet, or the split is empty.
    """
    file = run.trained_network()
    config = run.config
    source = data.make_source(config.data)
    dataset = data.prepare(config.data)
    arrays = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}[split]
    if not len(arrays):
        raise InputError(f"the {split} split of {run.path} holds no image")

    network = keras.saving.load_model(file, compile=False)
    network.jit_compile = compiles(config)
    tally = Tally(dataset.classes)
    batches = _native_batches(source, split, config.data.size) if native else _prepared_batches(arrays)
    for names, images, masks in track(batches, -(-len(arrays) // BATCH), f"evaluating {split}"):
        logits = predict_logits(network, images)
        if native:
            for name, mask, scores in zip(names, masks, logits, strict=True):
                tally.add([name], mask[None], enlarge_logits(scores, mask.shape)[None])
        else:
            tally.add(names, masks, logits)

    # === What is written ===
    name = f"{split}_native" if native else split
    scores = {"size": "native" if native else list(config.data.size)} | tally.scores()
    run.write_metrics(name, scores)
    _write_per_image(run, name, tally)
    _write_counts(run, name, tally)
    title = f"{run.path.name}, {name.replace('_', ' ')}"
    if history := run.history():
        figures.learning_curves(history, run.figures / "learning_curves.png", run.path.name)
    figures.confusion_matrix(tally.confusion, dataset.classes, run.figures / f"confusion_{name}.png", title)
    chosen = extremes(tally.per_image_mean_iou())
    if native:
        wanted = {tally.names[index] for index, _ in chosen}
        found = {sample.name: (sample.image, sample.mask) for sample in native_samples(source, split, wanted)}
        pairs = [found[tally.names[index]] for index, _ in chosen]
    else:
        pairs = [(arrays.images[index], arrays.masks[index]) for index, _ in chosen]
    if chosen:
        examples = _examples(network, tally, chosen, pairs, config.data.size)
        figures.prediction_grid(examples, dataset.classes, run.figures / f"predictions_{name}.png", title)
    return scores


def predict_logits(network: keras.Model, images: np.ndarray) -> np.ndarray:
    """Logits ``(N, H, W, C)`` of uint8 images ``(N, H, W, 3)``, float32."""
    return np.asarray(network.predict_on_batch(images), dtype=np.float32)


def enlarge_logits(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize logits ``(h, w, C)`` bilinearly to ``size`` (height, width)."""
    if logits.shape[:2] == tuple(size):
        return logits
    channels = [
        np.asarray(Image.fromarray(channel).resize(size[::-1], Image.Resampling.BILINEAR))
        for channel in np.moveaxis(logits, -1, 0)
    ]
    return np.stack(channels, axis=-1)


def extremes(scores: np.ndarray, count: int = EXAMPLES) -> list[tuple[int, str]]:
    """Indices of the ``count`` best, median and worst scores, each with the name of its group; NaNs are passed over."""
    ranked = [int(i) for i in np.argsort(-scores, kind="stable") if not np.isnan(scores[i])]
    if len(ranked) < 3:
        return [(index, "image") for index in ranked]
    count = min(count, len(ranked) // 3)
    middle = (len(ranked) - count) // 2
    groups = {"best": ranked[:count], "median": ranked[middle : middle + count], "worst": ranked[-count:]}
    return [(index, group) for group, members in groups.items() for index in members]


def _prepared_batches(split: data.Split) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
    """Names, images and masks of the prepared arrays, in their order."""
    for start in range(0, len(split), BATCH):
        chosen = slice(start, start + BATCH)
        yield split.names[chosen], np.asarray(split.images[chosen]), np.asarray(split.masks[chosen])


def _native_batches(source: data.Source, split: str, size: tuple[int, int]):
    """Names, images resized as for training, and masks at their own size."""
    samples = native_samples(source, split)
    while chunk := list(itertools.islice(samples, BATCH)):
        images = np.stack([resize_image(sample.image, size) for sample in chunk])
        yield [sample.name for sample in chunk], images, [sample.mask for sample in chunk]


def _examples(network, tally: Tally, chosen, pairs, size: tuple[int, int]) -> list[dict]:
    """Examples for :func:`unet.figures.prediction_grid`."""
    logits = predict_logits(network, np.stack([resize_image(image, size) for image, _ in pairs]))
    scores = tally.per_image_mean_iou()
    return [
        {
            "name": tally.names[index],
            "group": group,
            "score": scores[index],
            "image": image,
            "truth": mask,
            "prediction": enlarge_logits(values, mask.shape).argmax(-1),
        }
        for (index, group), (image, mask), values in zip(chosen, pairs, logits, strict=True)
    ]


def _write_per_image(run: Run, name: str, tally: Tally) -> None:
    """``per_image_<split>.csv``: mean IoU and pixel accuracy of every image, worst first."""
    scores = tally.per_image_mean_iou()
    accuracy = pixel_accuracy(tally.counts("confusion"))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "mean_iou", "pixel_accuracy"])
    for i in np.argsort(scores, kind="stable"):
        writer.writerow([tally.names[i], f"{scores[i]:.6f}", f"{accuracy[i]:.6f}"])
    write_text(run.path / f"per_image_{name}.csv", text.getvalue())


def _write_counts(run: Run, name: str, tally: Tally) -> None:
    """``counts_<split>.npz``: ``names`` and ``confusion`` ``(N, C, C)`` of every image, for statistics over images."""
    with replacing(run.counts_file(name)) as temporary:
        np.savez_compressed(temporary, names=np.array(tally.names), confusion=tally.counts("confusion").astype("int32"))
