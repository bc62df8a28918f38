"""Training on images with other channels and types: what is recorded, and what exported files and predictions do."""

import numpy as np
import pytest
from PIL import Image

import unet
from tests.helpers import BACKEND, SLOW_BEYOND_TENSORFLOW, TINY
from tests.helpers.commands import run_unet
from tests.helpers.images import save
from tests.helpers.training import stopping_after_an_epoch
from unet import config, data
from unet.errors import InputError
from unet.evaluation import evaluate
from unet.export import export
from unet.formats import load_network
from unet.model import load_saved
from unet.runs import Run
from unet.training import train

pytestmark = SLOW_BEYOND_TENSORFLOW
OFFSET, SCALE = np.array([900, 40, 3000, 10, 20000]), np.array([50, 3, 500, 2, 900])
"""Mean and standard deviation of the channels, about."""
LEARNS = ("training.epochs=30", "training.learning_rate=0.02", "augmentation.scale=[1, 1]", "model.width=6")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images with five channels of 16 bits; only the last one shows the square that the mask has."""
    root = tmp_path_factory.mktemp("spectral")
    rng = np.random.default_rng(0)
    for index in range(12):
        mask = np.zeros((20, 18), np.uint8)
        top, left = rng.integers(0, 10, 2)
        mask[top : top + 8, left : left + 8] = 1
        image = OFFSET + SCALE * rng.normal(size=(20, 18, 5))
        image[..., 4] += 4 * SCALE[4] * mask
        save(np.clip(np.rint(image), 0, 65535).astype(np.uint16), root / "images" / f"{index}.npy")
        save(mask, root / "masks" / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def make(folder, tmp_path_factory):
    """Create a run on these images."""
    root = tmp_path_factory.mktemp("runs")
    path = root / "spectral.yaml"
    path.write_text(
        f"data: {{source: folder, data_dir: {folder}, channels: 5, dtype: uint16, folder: {{classes: [soil, roof]}}}}\n"
    )
    return lambda *overrides: Run.create(config.load(path, [*TINY, *overrides]), root)


@pytest.fixture(scope="module")
def run(make):
    run = make(*LEARNS)
    train(run)
    return run


def test_the_run_records_what_its_images_are(run, make):
    dataset = data.prepare(run.config.data)
    mean, deviation = dataset.train.moments()
    found = run.config.data.normalization
    np.testing.assert_allclose(found.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(found.deviation, deviation, rtol=1e-6)
    np.testing.assert_allclose(mean, OFFSET, rtol=0.1)
    assert run.info.channels == 5
    again = make(*LEARNS)
    assert again.path == run.path
    assert again.config == run.config
    normalize = load_saved(run.best_file).get_layer("normalize")
    image = dataset.train.images[:4].astype("float32")
    standard = (image - np.array(mean)) / np.array(deviation)
    np.testing.assert_allclose(normalize(image), (57.6 * standard + 114.5) / 127.5 - 1, atol=1e-3)


def test_the_channel_that_shows_the_class_is_used(run):
    assert evaluate(run)["mean_iou"]["dataset"] > 0.8


@pytest.mark.slow
def test_training_resumes_with_the_same_numbers(make):
    settings = "training.epochs=3", "training.checkpoint_seconds=0"
    whole, stopped = make("name=whole", *settings), make("name=stopped", *settings)
    train(whole)
    with stopping_after_an_epoch():
        train(stopped)
    train(make("name=stopped", *settings))
    for first, second in zip(load_saved(whole.best_file).weights, load_saved(stopped.best_file).weights, strict=True):
        np.testing.assert_array_equal(np.asarray(first), np.asarray(second))


@pytest.mark.parametrize(
    "form",
    [
        "keras",
        "onnx",
        *(pytest.param(form, marks=pytest.mark.slow) for form in ("savedmodel", "litert", "openvino", "torch")),
    ],
)
def test_exported_files_take_the_pixels_of_the_image_files(run, folder, tmp_path, form):
    if form != "keras" and {"torch": "torch"}.get(form, "tensorflow") != BACKEND:
        pytest.skip(f"{form} is not written on {BACKEND}")
    file, entry = export(run, form, out=tmp_path)
    assert entry["proof"]["images"] == 2  # of the test split
    loaded = load_network(file)
    assert (loaded.metadata.channels, loaded.metadata.dtype) == (5, "uint16")
    assert loaded.metadata.version == 2  # a release that reads version 1 only would take them for pictures
    image = folder / "images" / "3.npy"
    expected = unet.load(run.path).predict(image)
    assert expected.any()
    assert not expected.all()
    np.testing.assert_array_equal(unet.load(file).predict(np.load(image)), expected)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="LiteRT files are written on TensorFlow")
def test_16_bits_are_not_quantized_to_8(run, tmp_path):
    with pytest.raises(InputError, match="int8 has 256 levels, and the images have pixels of uint16; use float16"):
        export(run, "litert", quantize="int8", out=tmp_path)
    assert not any(tmp_path.iterdir())


def test_files_are_compared_on_drawn_images_of_the_same_kind_without_data(run):
    from unet.export.exporter import drawn_images

    images = drawn_images(run.config.data, (24, 16), 8)
    assert images.shape == (8, 24, 16, 5)
    assert images.dtype == np.uint16
    np.testing.assert_allclose(images.mean((0, 1, 2)), OFFSET, rtol=0.1)


def test_images_are_segmented_from_the_command_line(run, folder, tmp_path):
    done = run_unet("predict", run.path, folder / "images", "--out", tmp_path / "masks", "--mode", "tile")
    assert done.code == 0, done.err
    assert Image.open(tmp_path / "masks" / "3.png").size == (18, 20)
    assert Image.open(tmp_path / "masks" / "3_overlay.jpg").mode == "RGB"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "photo.png")
    done = run_unet("predict", run.path, tmp_path / "photo.png", "--out", tmp_path / "other")
    assert done.code == 1
    assert "photo.png: has 3 channels; expected 5 (data.channels)" in " ".join(done.err.split())
    with pytest.raises(InputError, match="the image has pixels of type float64; expected uint16"):
        unet.load(run.path).predict(np.zeros((8, 8, 5)))


def test_the_page_shows_photographs_only(run):
    from unet.page.server import load

    with pytest.raises(InputError, match="takes images with 5 channels of uint16; the page shows photographs only"):
        load(run.path)
