"""Evaluation of a finished run: scores, files and figures, at network and native resolution."""

import csv
import dataclasses
import json
import shutil
import threading
import time

import keras
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import jaccard_score

from tests.helpers import JIT, SLOW_BEYOND_TENSORFLOW
from unet import config, data, evaluation, figures
from unet.data.images import resize_image, resize_logits
from unet.data.sources import native_samples
from unet.errors import InputError
from unet.evaluation import evaluate, extremes
from unet.formats import describe
from unet.formats.base import LoadedNetwork
from unet.formats.keras import KerasNetwork
from unet.runs import Run, Scores
from unet.training import train

pytestmark = SLOW_BEYOND_TENSORFLOW


@pytest.fixture(scope="module")
def run(trained_run, tmp_path_factory):
    """A trained run to write evaluations to."""
    return Run(shutil.copytree(trained_run.path, tmp_path_factory.mktemp("evaluated") / "tiny"))


def test_scores_equal_sklearn_on_the_same_predictions(run):
    scores = evaluate(run, "test")
    dataset = data.prepare(run.config.data)
    network = keras.saving.load_model(run.best_file, compile=False)
    prediction = network.predict(dataset.test.images, verbose=0).argmax(-1)
    expected = jaccard_score(dataset.test.masks.ravel(), prediction.ravel(), average="macro", labels=[0, 1, 2])
    assert scores["mean_iou"]["dataset"] == pytest.approx(expected, abs=2e-4)
    assert scores["images"] == 40
    assert scores["size"] == [24, 32]


def test_a_compiled_network_gets_batches_of_one_size_and_the_same_scores(run, monkeypatch):
    expected = evaluate(run, "test")
    sizes, call = [], KerasNetwork.__call__
    monkeypatch.setattr(KerasNetwork, "__call__", lambda self, pixels: sizes.append(len(pixels)) or call(self, pixels))
    monkeypatch.setattr(evaluation, "compiles", lambda config: True)
    scores = evaluate(run, "test")
    assert sizes == [32, 32, 32]  # 40 images, and those of the figure
    assert scores["mean_iou"]["dataset"] == pytest.approx(expected["mean_iou"]["dataset"], abs=2e-4)
    assert scores["images"] == 40


def test_everything_is_written_and_splits_are_kept_side_by_side(run):
    evaluate(run, "test")
    evaluate(run, "validation")
    metrics = json.loads(run.metrics_file.read_text())
    assert {"test", "validation"} <= metrics.keys()
    promised = {"mean_iou", "iou", "pixel_accuracy", "dice", "precision", "mean_recall", "boundary_iou", "pet_iou"}
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


def test_a_run_without_a_network_is_refused(tmp_path, run):
    fresh = Run(tmp_path / "fresh")
    fresh.path.mkdir()
    fresh.config_file.write_text(run.config_file.read_text())
    with pytest.raises(InputError, match=r"has no best\.keras yet; train it first"):
        evaluate(fresh)


def trained(root, data_settings):
    """A run of the smallest network on a few drawn scenes."""
    path = root / "small.yaml"
    path.write_text(
        f"data: {{size: 16, {data_settings}}}\n"
        f"model: {{width: 2, depth: 1}}\ntraining: {{epochs: 1, batch_size: 2, warmup: 0, jit: {JIT}}}\n"
    )
    run = Run.create(config.load(path), root)
    train(run)
    return run


def test_an_empty_split_is_refused(tmp_path):
    run = trained(tmp_path, "source: shapes, shapes: {train: 4, test: 2}, validation: 0")
    with pytest.raises(InputError, match=r"the validation split of .* holds no image"):
        evaluate(run, "validation")


def test_three_images_or_fewer_still_make_a_figure(tmp_path):
    run = trained(tmp_path, "source: shapes, shapes: {train: 6, test: 1}")
    assert evaluate(run)["images"] == 1
    assert (run.figures / "predictions_test.png").is_file()


# === Exported files ===


class Recorded(LoadedNetwork):
    """A network of a fixed size that keeps the images it is given and finds everything to be of class 0."""

    def __init__(self, path, metadata):
        self.path, self.metadata, self.images = path, metadata, []

    def logits(self, images):
        self.images.append(images)
        return np.zeros((*images.shape[:3], 3), "float32")


@pytest.fixture
def small_file(run, tmp_path, monkeypatch):
    """An "exported file" that takes 10×14 pixels only, in its run's export directory."""
    (run.path / "export").mkdir(exist_ok=True)
    metadata = dataclasses.replace(describe(run), size=(10, 14), dynamic=False)
    network = Recorded(run.path / "export" / "small.file", metadata)
    monkeypatch.setattr(evaluation, "load_network", lambda path: network)
    yield network
    shutil.rmtree(evaluation.evaluation_of(network.path).path, ignore_errors=True)


@pytest.mark.parametrize("native", [False, True])
def test_a_file_of_a_fixed_size_sees_images_resized_once(run, small_file, native):
    scores = evaluation.evaluate_file(small_file.path, "test", native)
    samples = list(native_samples(data.make_source(run.config.data), "test"))
    expected = [Image.fromarray(sample.image).resize((14, 10), Image.Resampling.BILINEAR) for sample in samples]
    seen = np.concatenate(small_file.images)[: len(expected)]
    np.testing.assert_array_equal(seen, np.stack([np.asarray(image) for image in expected]))
    assert scores["size"] == ("native" if native else [10, 14])
    masks = [sample.mask for sample in samples]
    if not native:
        masks = [np.asarray(Image.fromarray(mask).resize((14, 10), Image.Resampling.NEAREST)) for mask in masks]
    accuracy = np.mean(np.concatenate([mask.ravel() for mask in masks]) == 0)
    assert scores["pixel_accuracy"]["dataset"] == pytest.approx(accuracy)


def test_a_file_away_from_its_run_asks_for_the_place_of_its_data(small_file, tmp_path):
    config = small_file.metadata.config
    folder = config | {"data": config["data"] | {"source": "folder"}}
    small_file.path = tmp_path / "small.file"
    small_file.metadata = dataclasses.replace(small_file.metadata, config=folder)
    with pytest.raises(InputError, match=r"does not hold the place of its data: give data\.data_dir=NEW"):
        evaluation.evaluate_file(small_file.path)
    with pytest.raises(InputError, match=r"there is no folder .*nowhere"):
        evaluation.evaluate_file(small_file.path, overrides=(f"data.data_dir={tmp_path / 'nowhere'}",))


# === Moved data, several evaluations ===


@pytest.mark.slow
def test_a_moved_archive_is_found_where_the_command_says(tmp_path):
    """The layout of the official Pets archive, whose class names are not configured."""
    archive = tmp_path / "archive"
    names = [f"Cat_{k}" for k in range(6)]
    for name in names:
        rng = np.random.default_rng(int(name[4:]))
        for place, pixels in (
            (archive / "images" / f"{name}.jpg", rng.integers(0, 256, (16, 16, 3), "uint8")),
            (archive / "annotations" / "trimaps" / f"{name}.png", rng.integers(1, 4, (16, 16)).astype("uint8")),
        ):
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place)
    (archive / "annotations" / "trainval.txt").write_text("\n".join(f"{name} 1 1 1" for name in names[:4]))
    (archive / "annotations" / "test.txt").write_text("\n".join(f"{name} 1 1 1" for name in names[4:]))
    run = trained(tmp_path, f"source: folder, data_dir: {archive}")
    before = evaluate(run)["mean_iou"]
    moved = archive.rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"there is no folder .*archive.*data\.data_dir=NEW"):
        evaluate(run)
    assert evaluate(run, overrides=(f"data.data_dir={moved}",))["mean_iou"] == before


def test_evaluations_at_the_same_time_keep_each_others_scores(tmp_path, monkeypatch):
    """Between reading metrics.json and writing it, another evaluation waits."""
    records = Scores(tmp_path)
    reading = threading.Barrier(4)
    original = Scores.metrics

    def slow(self):
        found = original(self)
        time.sleep(0.05)
        return found

    def write(split):
        reading.wait()
        Scores(tmp_path).write_metrics(split, {"images": 1})

    monkeypatch.setattr(Scores, "metrics", slow)
    threads = [threading.Thread(target=write, args=[f"split {k}"]) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(records.metrics()) == [f"split {k}" for k in range(4)]


def test_a_run_can_be_evaluated_while_it_is_trained(run):
    with run.locked():
        run.write_metrics("other", {"images": 1})
    assert run.metrics()["other"] == {"images": 1}


@pytest.mark.backend_free
def test_figures_show_names_as_they_are_and_stay_small(tmp_path):
    names = tuple(rf"$\frac{index}" for index in range(80))
    figures.confusion_matrix(np.eye(80, dtype=int), names, tmp_path / "confusion.png", "$^$")
    with Image.open(tmp_path / "confusion.png") as picture:
        assert max(picture.size) < 6000
    picture = np.zeros((4, 4), np.uint8)
    example = {"name": "$_$.png", "group": "best", "score": 0.5, "truth": picture, "prediction": picture}
    example["image"] = np.zeros((4, 4, 3), np.uint8)
    figures.prediction_grid([example], names, tmp_path / "grid.png", "$^$")
    assert (tmp_path / "grid.png").is_file()
