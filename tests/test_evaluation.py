"""Evaluation of a finished run: scores, files and figures, at network and native resolution."""

import csv
import json

import keras
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import jaccard_score

from tests.helpers import JIT
from unet import config, data
from unet.data.cache import native_samples
from unet.data.images import resize_image, resize_logits
from unet.errors import InputError
from unet.evaluation import evaluate, extremes
from unet.runs import Run
from unet.training import train


@pytest.fixture
def run(trained_run):
    return trained_run


def test_scores_equal_sklearn_on_the_same_predictions(run):
    scores = evaluate(run, "test")
    dataset = data.prepare(run.config.data)
    network = keras.saving.load_model(run.best_file, compile=False)
    prediction = network.predict(dataset.test.images, verbose=0).argmax(-1)
    expected = jaccard_score(dataset.test.masks.ravel(), prediction.ravel(), average="macro", labels=[0, 1, 2])
    assert scores["mean_iou"]["dataset"] == pytest.approx(expected, abs=2e-4)
    assert scores["images"] == 40
    assert scores["size"] == [24, 32]


def test_everything_is_written_and_splits_are_kept_side_by_side(run):
    evaluate(run, "test")
    evaluate(run, "validation")
    metrics = json.loads(run.metrics_file.read_text())
    assert {"test", "validation"} <= metrics.keys()
    promised = {"mean_iou", "iou", "pixel_accuracy", "dice", "boundary_iou", "pet_iou"}
    assert promised <= metrics["test"].keys()
    assert metrics["test"]["iou"].keys() == {"pet", "background", "border"}
    assert metrics["test"]["pet_iou"].keys() == {"border_ignored", "border_as_pet", "border_as_background"}
    assert metrics["test"]["mean_iou"].keys() == {"dataset", "per_image"}
    for name in ("learning_curves", "confusion_test", "predictions_test", "confusion_validation"):
        with Image.open(run.figures / f"{name}.png") as figure:
            assert min(figure.size) > 300
            assert np.asarray(figure.convert("L")).std() > 10
    with open(run.path / "per_image_test.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40
    ious = [float(row["mean_iou"]) for row in rows]
    assert ious == sorted(ious)
    assert np.mean(ious) == pytest.approx(metrics["test"]["mean_iou"]["per_image"], abs=1e-6)


def test_native_scores_compare_enlarged_logits_with_the_original_masks(run):
    scores = evaluate(run, "test", native=True)
    network = keras.saving.load_model(run.best_file, compile=False)
    truths, predictions = [], []
    for sample in native_samples(data.make_source(run.config.data), "test"):
        logits = network.predict_on_batch(resize_image(sample.image, (24, 32))[None])
        nchw = torch.tensor(np.asarray(logits)).permute(0, 3, 1, 2)
        enlarged = F.interpolate(nchw, size=sample.mask.shape, mode="bilinear", align_corners=False)
        truths.append(sample.mask.ravel())
        predictions.append(enlarged[0].argmax(0).numpy().ravel())
    expected = jaccard_score(np.concatenate(truths), np.concatenate(predictions), average="macro", labels=[0, 1, 2])
    assert scores["mean_iou"]["dataset"] == pytest.approx(expected, abs=2e-4)
    assert scores["size"] == "native"
    assert json.loads(run.metrics_file.read_text())["test_native"]["images"] == 40
    assert (run.figures / "predictions_test_native.png").is_file()


def test_enlarged_scores_equal_torch(rng):
    logits = rng.normal(size=(9, 12, 3)).astype("float32")
    theirs = F.interpolate(torch.tensor(logits).permute(2, 0, 1)[None], size=(31, 40), mode="bilinear")
    np.testing.assert_allclose(resize_logits(logits, (31, 40)), theirs[0].permute(1, 2, 0).numpy(), atol=1e-5)
    assert resize_logits(logits, (9, 12)) is logits


def test_extremes_are_the_best_median_and_worst():
    scores = np.array([0.5, 0.1, np.nan, 0.9, 0.7, 0.3, 0.8])
    assert extremes(scores, 2) == [(3, "best"), (6, "best"), (4, "median"), (0, "median"), (5, "worst"), (1, "worst")]
    assert extremes(scores[:2]) == [(0, "image"), (1, "image")]


def test_a_run_without_a_network_is_told(tmp_path, run):
    fresh = Run(tmp_path / "fresh")
    fresh.path.mkdir()
    fresh.config_file.write_text(run.config_file.read_text())
    with pytest.raises(InputError, match=r"has no best\.keras yet; train it first"):
        evaluate(fresh)


def trained(root, data_settings):
    """A run of the smallest network on a few drawn scenes."""
    path = root / "small.yaml"
    path.write_text(
        f"data: {{source: shapes, size: 16, {data_settings}}}\n"
        f"model: {{width: 2, depth: 1}}\ntraining: {{epochs: 1, batch_size: 2, warmup: 0, jit: {JIT}}}\n"
    )
    run = Run.create(config.load(path), root)
    train(run)
    return run


def test_an_empty_split_is_told(tmp_path):
    run = trained(tmp_path, "shapes: {train: 4, test: 2}, validation: 0")
    with pytest.raises(InputError, match=r"the validation split of .* holds no image"):
        evaluate(run, "validation")


def test_three_images_or_fewer_still_make_a_figure(tmp_path):
    run = trained(tmp_path, "shapes: {train: 6, test: 1}")
    assert evaluate(run)["images"] == 1
    assert (run.figures / "predictions_test.png").is_file()
