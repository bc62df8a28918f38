"""Training on windows of images of any size, and what is done with such a run: scores, files, masks, resuming."""

import shutil

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

import unet
from tests.helpers import SLOW_BEYOND_TENSORFLOW, TINY
from tests.helpers.commands import run_unet
from tests.helpers.images import save
from tests.helpers.training import stopping_after_an_epoch
from unet import config, data
from unet.data.sources import native_samples
from unet.evaluation import evaluate, evaluate_file
from unet.export import export
from unet.export.card import CARD
from unet.formats import Metadata, load_network
from unet.model import load_saved
from unet.runs import Run
from unet.training import train

pytestmark = SLOW_BEYOND_TENSORFLOW
CROPS = ("data.sampling=crop", "data.windows=2", "data.sampling_weights={square: 0.5}", "model.depth=2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photographs of many sizes with a bright square; those for testing are no larger than a window of 16×16."""
    root = tmp_path_factory.mktemp("mixed")
    rng = np.random.default_rng(0)
    sizes = [(40, 21), (9, 33), (50, 50), (11, 12), (24, 16), (17, 64), (14, 16), (16, 16), (9, 13)]
    for index, (height, width) in enumerate(sizes):
        image, mask = rng.integers(0, 120, (height, width, 3)), np.zeros((height, width), np.uint8)
        image[2:8, 3:9] += 120
        mask[2:8, 3:9] = 1
        mask[-1] = 255
        for kind, pixels in (("images", image), ("masks", mask)):
            save(pixels.astype("uint8"), root / kind / f"{index}.png")
    for split, names in (("train", "01234"), ("val", "5"), ("test", "678")):
        (root / f"{split}.txt").write_text("\n".join(names))
    return root


@pytest.fixture(scope="module")
def make(folder, tmp_path_factory):
    """Create a run on these photographs."""
    root = tmp_path_factory.mktemp("runs")
    path = root / "mixed.yaml"
    path.write_text(
        f"data: {{source: folder, data_dir: {folder}, folder: {{classes: [ground, square], train: train.txt, "
        "validation: val.txt, test: test.txt}}\n"
    )
    return lambda *overrides: Run.create(config.load(path, [*TINY, *CROPS, *overrides]), root)


@pytest.fixture(scope="module")
def run(make):
    run = make("training.epochs=3", "training.checkpoint_seconds=0")
    train(run)
    return run


@pytest.fixture(scope="module")
def scores(run):
    return {split: evaluate(run, split) for split in ("test", "train")}


def truths(run, split="test"):
    return list(native_samples(data.make_source(run.config.data), split))


def mean_iou(samples, masks):
    """By scikit-learn, without ignored pixels."""
    pairs = [(sample.mask[sample.mask != 255], mask[sample.mask != 255]) for sample, mask in zip(samples, masks)]
    return jaccard_score(*map(np.concatenate, zip(*pairs)), average="macro", labels=[0, 1])


def test_the_score_of_images_that_fit_one_tile_is_that_of_whole_images(run, scores):
    network, samples = load_saved(run.best_file), truths(run)
    whole = [np.asarray(network.predict_on_batch(sample.image[None]))[0].argmax(-1) for sample in samples]
    assert scores["test"]["mean_iou"]["dataset"] == pytest.approx(mean_iou(samples, whole), abs=1e-6)
    assert scores["test"]["size"] == "whole"
    assert scores["test"]["images"] == 3


def test_the_score_of_large_images_is_that_of_predicted_tiles(run, scores):
    """Plain and native scores are the same at scale 1."""
    predictor, samples = unet.load(run.path), truths(run, "train")
    masks = predictor.predict([sample.image for sample in samples])
    for mask, tiled in zip(masks, predictor.predict([sample.image for sample in samples], mode="tile")):
        np.testing.assert_array_equal(mask, tiled)
    assert scores["train"]["mean_iou"]["dataset"] == pytest.approx(mean_iou(samples, masks), abs=1e-6)
    assert evaluate(run, "train", native=True)["mean_iou"] == scores["train"]["mean_iou"]


def test_an_exported_file_predicts_in_tiles_too(run, scores):
    file, _ = export(run, "keras")
    metadata = load_network(file).metadata
    assert (metadata.sampling, metadata.scale, metadata.size) == ("crop", 1.0, (16, 16))
    assert "windows of 16×16 pixels (height × width) of images at their own size" in (file.parent / CARD).read_text()
    image = truths(run, "train")[2].image
    np.testing.assert_array_equal(unet.load(file).predict(image), unet.load(run.path).predict(image, mode="tile"))
    assert evaluate_file(file, "train")["mean_iou"] == scores["train"]["mean_iou"]


def test_resizing_is_what_is_warned_about(run, folder, tmp_path):
    warning = "the network was trained on windows of 16×16 pixels (height × width); objects in the resized"
    for options, times in (([], 0), (["--mode", "tile"], 0), (["--mode", "resize"], 1)):
        done = run_unet("predict", run.path, folder / "images" / "2.png", "--out", tmp_path, *options)
        assert (done.code, done.err.count(warning)) == (0, times), done.err
    assert "compare with --mode tile" in done.err


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_bits(run, make):
    stopped = make("training.epochs=3", "training.checkpoint_seconds=0", "name=stopped")
    with stopping_after_an_epoch(KeyboardInterrupt):
        train(stopped)
    assert len(stopped.history()) == 1
    train(stopped)
    same = ("loss", "mean_iou", "val_loss", "val_mean_iou")
    assert [[row[key] for key in same] for row in stopped.history()] == [
        [row[key] for key in same] for row in run.history()
    ]
    for one, other in zip(*(load_saved(each.best_file).get_weights() for each in (run, stopped)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_native_scores_at_a_scale_are_those_of_the_enlarged_masks(run, tmp_path):
    half = Run(shutil.copytree(run.path, tmp_path / "half"))
    half.config_file.write_text(half.config.with_data(scale=0.5).to_yaml())
    samples = truths(run, "train")
    masks = unet.load(half.path).predict([sample.image for sample in samples])
    scores = evaluate(half, "train", native=True)
    assert scores["mean_iou"]["dataset"] == pytest.approx(mean_iou(samples, masks), abs=1e-6)
    assert scores["mean_iou"] != evaluate(half, "train")["mean_iou"]


@pytest.mark.backend_free
def test_files_of_earlier_versions_were_trained_on_resized_images():
    text = '{"classes": ["a", "b"], "size": [8, 8], "dynamic": true, "activation": "none"}'
    assert Metadata.from_json(text).sampling == "resize"
    with pytest.raises(ValueError, match="scale"):
        Metadata.from_json(text.replace('"size"', '"scale": 1e9, "size"'))
