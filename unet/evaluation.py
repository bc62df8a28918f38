"""Scores and figures of a trained run or an exported file, at the network's resolution or at each image's own.

A network that was trained on windows is scored on whole images in overlapping tiles, in the same way as it predicts.
"""

import csv
import dataclasses
import io
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
from pydantic import ValidationError

from unet import config as configuration
from unet import data, figures, tracking
from unet.config import Config
from unet.config.explain import explain
from unet.console import track
from unet.data.images import resize_image, resize_mask, scaled
from unet.data.sources import native_samples
from unet.errors import InputError
from unet.files import replacing, write_text
from unet.formats import KerasNetwork, LoadedNetwork, describe, load_network
from unet.inference import Predictor
from unet.metrics import Tally
from unet.runs import Run, Scores
from unet.training import compiles

log = logging.getLogger("unet")

BATCH = 32
EXAMPLES = 2
"""Images in each of the best, median and worst groups of the prediction figure."""
SHOWN = 1024
"""Longest side in pixels of the images in this figure."""


def evaluate(run: Run, split: str = "test", native: bool = False, overrides: tuple[str, ...] = ()) -> dict:
    """Score ``best.keras`` on a split; write metrics.json, scores and counts of every image, and figures.

    Args:
        run: A trained run.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        native: Enlarge the logits to each image's own size and compare with the mask at that size.
        overrides: ``"data.key=value"`` each, where the data are now; see :func:`unet.config.with_data_at`.

    Returns:
        Scores as in :meth:`unet.metrics.Tally.scores`, with ``size``.

    Raises:
        InputError: The run has not been trained yet, the data cannot be used, or the split is empty.
    """
    network = KerasNetwork(run.path, describe(run), run.trained_network(), jit=compiles(run.config))
    config = configuration.with_data_at(run.config, overrides)
    return _score(network, config, run, split, native)


def evaluate_file(path: Path, split: str = "test", native: bool = False, overrides: tuple[str, ...] = ()) -> dict:
    """Score an exported file in the runtime of its format; write the results to ``<file>.evaluation/``.

    The data are those of the run in whose ``export/`` directory the file is; elsewhere those of the configuration in
    the file, which holds no paths. A file of a fixed size is scored at that size: images and masks are resized to it
    once, from their own size, or covered with tiles of that size.

    Args:
        path: The exported file.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        native: Enlarge the logits to each image's own size and compare with the mask at that size.
        overrides: ``"data.key=value"`` each, where the data are now; see :func:`unet.config.with_data_at`.

    Returns:
        Scores as in :meth:`unet.metrics.Tally.scores`, with ``size``.

    Raises:
        InputError: The file cannot be loaded, the data cannot be used, or the split is empty.
    """
    network = load_network(path)
    network.needs_values("scoring")
    home = path.absolute().parent.parent
    config = Run.open(home).config if (home / "config.yaml").is_file() else _config_of(network, overrides)
    config = configuration.with_data_at(config, overrides)
    if not network.metadata.dynamic:
        config = config.with_data(size=network.metadata.size)
    return _score(network, config, evaluation_of(path), split, native)


def evaluation_of(path: Path) -> Scores:
    """Directory with the evaluation of an exported file."""
    return Scores(path.with_name(f"{path.name}.evaluation"))


def _config_of(network: LoadedNetwork, overrides: tuple[str, ...]) -> Config:
    """Configuration in a file, which holds no paths: a folder source must be given its place."""
    values = network.metadata.config
    places = {key: value for key, value, _ in map(configuration.parse_override, overrides)}
    if not values:
        raise InputError(f"{network.path} does not hold the configuration that its data are described in")
    if isinstance(values.get("data"), dict) and values["data"].get("source") == "folder":
        if places.get("data.data_dir") is None:
            raise InputError(f"{network.path} does not hold the place of its data: give data.data_dir=NEW")
        values = values | {"data": values["data"] | {"data_dir": str(places["data.data_dir"])}}
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{network.path}: the configuration in it: {explain(error, {}, 'metadata')}") from None


def _score(network: LoadedNetwork, config: Config, records: Scores, split: str, native: bool) -> dict:
    source = data.make_source(config.data)
    dataset = data.prepare(config.data, verify=True)
    if dataset.classes != network.metadata.classes:
        raise InputError(
            f"{network.path} was trained for the classes {', '.join(network.metadata.classes)}; the data have "
            f"{', '.join(dataset.classes)}"
        )
    arrays = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}[split]
    if not len(arrays):
        raise InputError(f"the {split} split of {records.path} holds no image")

    records.metrics()  # reports a damaged file before anything is overwritten
    history = records.history() if isinstance(records, Run) else []
    records.prepare()

    # === Scores ===
    head = network.metadata.meaning
    tally = Tally(dataset.classes, head)
    tiled = config.data.sampling == "crop"
    if tiled:
        predictor = Predictor(network)
        if not native:  # the prepared images have the scale of the training images already
            predictor.metadata = dataclasses.replace(predictor.metadata, scale=1.0)
        samples = native_samples(source, split) if native else _prepared_samples(arrays, split)
        for sample in track(samples, len(arrays), f"evaluating {split}"):
            tally.add_bands(sample.name, sample.mask, predictor.logit_bands(sample.image, batch_size=BATCH))
    else:
        count = min(BATCH, len(arrays))
        batches = _native_batches(source, split, config.data.size) if native else _prepared_batches(arrays)
        for names, images, masks in track(batches, -(-len(arrays) // BATCH), f"evaluating {split}"):
            tally.add(names, masks, _logits(network, images, count))

    # === Files ===
    name = f"{split}_native" if native else split
    size = "native" if native else "whole" if tiled else list(config.data.size)
    scores = {"size": size} | tally.scores()
    _write_per_image(records, name, tally)
    _write_counts(records, name, tally)

    # === Figures ===
    title = f"{network.path.name}, {name.replace('_', ' ')}"
    if not head.labels:  # which are not exclusive: no label is taken for another
        figures.confusion_matrix(tally.confusion, dataset.classes, records.figures / f"confusion_{name}.png", title)
    ranking = tally.per_image_mean_iou()
    chosen = extremes(ranking)
    if native:
        samples = native_samples(source, split, {tally.names[index] for index, _ in chosen})
    else:
        samples = (data.Sample(tally.names[index], split, *arrays.whole(index)) for index, _ in chosen)
    if chosen:
        if tiled:
            predicted = (
                (sample, next(predictor.segment([sample.image], mode="tile", batch_size=BATCH)).mask)
                for sample in samples
            )
        else:
            shown = list(samples)
            images = np.stack([resize_image(sample.image, config.data.size) for sample in shown])
            logits = _logits(network, images, count)
            predicted = (
                (sample, head.resized_mask(values, sample.mask.shape))
                for sample, values in zip(shown, logits, strict=True)
            )
        drawn = {sample.name: _reduced(sample, prediction) for sample, prediction in predicted}
        examples = [drawn[tally.names[index]] | {"group": group, "score": ranking[index]} for index, group in chosen]
        file = records.figures / f"predictions_{name}.png"
        figures.prediction_grid(examples, dataset.classes, file, title, head.table(network.metadata.colours), head)
    if isinstance(records, Run) and history:
        figures.learning_curves(history, records.figures / "learning_curves.png", records.name)
    records.write_metrics(name, scores)  # last: a split with scores is complete
    if isinstance(records, Run):
        tracking.add_scores(records, name, scores)
    return scores


def predict_logits(network: keras.Model, images: np.ndarray) -> np.ndarray:
    """Compute float32 logits ``(N, H, W, C)`` of uint8 images ``(N, H, W, 3)``."""
    return np.asarray(network.predict_on_batch(images), dtype=np.float32)


def _logits(network: LoadedNetwork, images: np.ndarray, count: int) -> np.ndarray:
    """Logits of at most ``count`` images, computed for exactly that many where XLA compiles for every number."""
    if not network.compiled:
        return network.logits(images)
    padded = np.concatenate([images, np.repeat(images[-1:], count - len(images), axis=0)])
    return network.logits(padded)[: len(images)]


def extremes(scores: np.ndarray, count: int = EXAMPLES) -> list[tuple[int, str]]:
    """Indices of the ``count`` best, median and worst scores, each with the name of its group; NaNs are skipped."""
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
        yield split.names[chosen], *split.read(chosen)


def _native_batches(source: data.Source, split: str, size: tuple[int, int]):
    """Names, images resized as for training, and masks at their own size."""
    samples = native_samples(source, split)
    resized = ((sample.name, resize_image(sample.image, size), sample.mask) for sample in samples)
    while chunk := list(itertools.islice(resized, BATCH)):
        names, images, masks = zip(*chunk, strict=True)
        yield list(names), np.stack(images), list(masks)


def _prepared_samples(crops: data.Split, split: str) -> Iterator[data.Sample]:
    """Prepared images and masks, each at its own size."""
    for row, name in enumerate(crops.names):
        yield data.Sample(name, split, *crops.whole(row))


def _reduced(sample: data.Sample, prediction: np.ndarray) -> dict:
    """An image for :func:`unet.figures.prediction_grid`, at most ``SHOWN`` pixels high and wide."""
    size = scaled(sample.mask.shape, min(1.0, SHOWN / max(sample.mask.shape)))
    return {
        "name": sample.name,
        "image": resize_image(sample.image, size),
        "truth": resize_mask(sample.mask, size),
        "prediction": resize_mask(prediction, size),
    }


def _write_per_image(records: Scores, name: str, tally: Tally) -> None:
    """Write ``per_image_<split>.csv``: mean IoU and pixel accuracy of every image, worst first."""
    scores = tally.per_image_mean_iou()
    accuracy = tally.per_image_accuracy()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "mean_iou", "pixel_accuracy"])
    for i in np.argsort(scores, kind="stable"):
        writer.writerow([tally.names[i], f"{scores[i]:.6f}", f"{accuracy[i]:.6f}"])
    write_text(records.path / f"per_image_{name}.csv", text.getvalue())


def _write_counts(records: Scores, name: str, tally: Tally) -> None:
    """Write ``counts_<split>.npz``, for statistics: ``names`` and ``confusion`` of every image.

    The latter is ``(N, C, C)``, or of labels ``(N, L, 2, 2)``.
    """
    with replacing(records.counts_file(name)) as temporary:
        np.savez_compressed(temporary, names=np.array(tally.names), confusion=tally.counts("confusion").astype("int32"))
