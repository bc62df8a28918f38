"""Masks for images of any size: resized and tiled, from every kind of input, in Python and on the command line."""

import dataclasses
import doctest
import io
import itertools
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import keras
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage

import unet
from tests.helpers import BACKEND, ROOT, on_every_backend
from tests.helpers.commands import run_unet
from tests.helpers.images import save
from unet import data, figures
from unet.colours import hex_colours
from unet.commands import predict
from unet.data import heads, images
from unet.data.images import resize_image, resize_logits, resize_mask, resized_bands
from unet.data.sources import native_samples
from unet.errors import InputError, RunError
from unet.evaluation import evaluate
from unet.formats import LoadedNetwork, Metadata
from unet.inference import Predictor, softmax, spans, tiling
from unet.model import build_unet
from unet.runs import Run

CLASSES = ("sky", "ground", "tree")
COLOURS = ("#102030", "#FF0000", "#00FF7F")


class Network(LoadedNetwork):
    """Any function as a network; it records the shapes of its inputs."""

    def __init__(self, function, size=(32, 48), depth=2, dynamic=True, activation="none", classes=CLASSES):
        self.path = Path("stand-in.onnx")
        self.function = function
        self.shapes = []
        self.metadata = Metadata(
            classes=classes,
            colours=COLOURS if classes == CLASSES else hex_colours(len(classes)),
            size=size,
            dynamic=dynamic,
            activation=activation,
            config={"model": {"depth": depth}},
        )

    def __call__(self, pixels):
        self.shapes.append(pixels.shape)
        return self.function(pixels)


def blur(pixels, radius=4):
    """Each channel's mean over ``radius`` pixels to all sides, with zeros beyond the edge as convolutions have them."""
    size = (1, 2 * radius + 1, 2 * radius + 1, 1)
    return ndimage.uniform_filter(pixels.astype(np.float64), size, mode="constant").astype(np.float32)


def colour(pixels):
    """The class of a pixel is its brightest channel."""
    return pixels.astype(np.float32) / 25


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3)).astype(np.uint8)


def smooth(*shape, seed=0):
    """Patches of red, green and blue."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(*shape, 3)), (6, 6, 0))
    return np.uint8(255 * (field - field.min()) / np.ptp(field))


@pytest.fixture(scope="module")
def run(trained_run, tmp_path_factory):
    """A tiny trained run, with a directory of its own."""
    return Run(shutil.copytree(trained_run.path, tmp_path_factory.mktemp("inference") / "tiny"))


@pytest.fixture(scope="module")
def predictor(run):
    return unet.load(run.path)


# === Resized as a whole ===


def test_a_loaded_run_gives_the_masks_that_native_evaluation_scores(run, predictor):
    evaluate(run, "test", native=True)
    with np.load(run.counts_file("test_native")) as counts:
        names, confusion = counts["names"].tolist(), counts["confusion"]
    samples = {sample.name: sample for sample in native_samples(data.make_source(run.config.data), "test")}
    masks = predictor.predict([samples[name].image for name in names], batch_size=32)
    for name, mask, expected in zip(names, masks, confusion, strict=True):
        truth = samples[name].mask
        counted = truth != 255
        found = np.bincount(truth[counted] * 3 + mask[counted], minlength=9).reshape(3, 3)
        np.testing.assert_array_equal(found, expected)
    assert len({mask.shape for mask in masks}) > 1


def test_resizing_equals_the_same_by_hand(run, predictor):
    photo = smooth(50, 70)
    small = np.asarray(Image.fromarray(photo).resize((32, 24), Image.Resampling.BILINEAR))
    network = keras.saving.load_model(run.best_file, compile=False)
    logits = torch.tensor(np.asarray(network.predict_on_batch(small[None]))).permute(0, 3, 1, 2)
    enlarged = F.interpolate(logits, size=(50, 70), mode="bilinear", align_corners=False)[0]
    shares = predictor.probabilities(photo)
    assert shares.dtype == np.float32
    np.testing.assert_allclose(shares, enlarged.softmax(0).permute(1, 2, 0).numpy(), atol=1e-4)
    mask = predictor.predict(photo)
    assert mask.dtype == np.uint8
    assert (mask == enlarged.argmax(0).numpy()).mean() > 0.999
    np.testing.assert_array_equal(mask, shares.argmax(-1))


@pytest.mark.backend_free
@pytest.mark.parametrize("size", [(31, 40), (9, 12), (5, 30), (600, 20)])
def test_the_resized_argmax_needs_no_enlarged_channels(rng, size):
    scores = rng.normal(size=(9, 12, 5)).astype(np.float32)
    scores[..., 3] = scores[..., 1]  # of equal logits the first wins, as in argmax
    np.testing.assert_array_equal(heads.CLASSES.resized_mask(scores, size), resize_logits(scores, size).argmax(-1))
    np.testing.assert_allclose(softmax(scores), torch.softmax(torch.tensor(scores), -1).numpy(), atol=1e-6)


@pytest.mark.backend_free
@pytest.mark.parametrize("size", [(300, 40), (601, 40), (61, 12), (299, 7)])
def test_logits_that_come_in_bands_are_resized_like_the_whole(rng, monkeypatch, size):
    scores = rng.normal(size=(300, 12, 3)).astype(np.float32)
    expected = resize_logits(scores, size)  # small enough to be resized at once
    monkeypatch.setattr(images, "VALUES", 1000)
    for cuts in ([], [1, 2, 150], range(7, 300, 7)):
        bands = list(resized_bands(np.split(scores, cuts), 300, size))
        assert len(bands) > 1
        np.testing.assert_allclose(np.concatenate(bands), expected, atol=2e-4)


@pytest.mark.backend_free
def test_the_resized_argmax_takes_a_few_bytes_per_pixel(rng):
    tracemalloc.start()
    heads.CLASSES.resized_mask(rng.normal(size=(9, 12, 5)).astype(np.float32), (3000, 2000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 3000 * 2000  # 1 is the mask


@pytest.mark.backend_free
@pytest.mark.parametrize("options", [{}, {"mode": "tile"}, {"flip": True}, {"mode": "tile", "flip": True}])
def test_probabilities_and_logits_lead_to_the_same_mask(options):
    photo = smooth(90, 130)
    by_logits, by_probabilities = (
        Predictor(Network(function, activation=activation))
        for function, activation in ((colour, "none"), (lambda pixels: softmax(colour(pixels)), "softmax"))
    )
    mask = by_logits.predict(photo, **options)
    np.testing.assert_array_equal(by_probabilities.predict(photo, **options), mask)
    assert len(np.unique(mask)) == 3
    shares = [predictor.probabilities(photo, **options) for predictor in (by_logits, by_probabilities)]
    np.testing.assert_allclose(*shares, atol=1e-5)
    np.testing.assert_allclose(shares[0].sum(-1), 1, atol=1e-5)


@pytest.mark.backend_free
def test_class_ids_are_enlarged_and_other_uses_are_refused():
    photo = smooth(90, 130)
    predictor = Predictor(Network(lambda pixels: colour(pixels).argmax(-1).astype(np.uint8), activation="classes"))
    small = colour(resize_image(photo, (32, 48))).argmax(-1).astype(np.uint8)
    np.testing.assert_array_equal(predictor.predict(photo), resize_mask(small, (90, 130)))
    assert len(np.unique(small)) == 3
    for options, purpose in (
        ({"mode": "tile"}, "mode: .*blending tiles"),
        ({"flip": True}, "flip: .*averaging with the mirror image"),
        ({"probabilities": True}, "probabilities: .*computing probabilities"),
    ):
        message = (
            f"{purpose} needs the values of all classes; use the run, or a file exported with --activation softmax"
        )
        with pytest.raises(InputError, match=message):
            predictor.segment([photo], **options)
    with pytest.raises(InputError, match="returns the class of each pixel only"):
        predictor.network.logits(photo[None])
    wrong = Network(lambda pixels: np.full(pixels.shape[:3], 3, np.uint8), activation="classes")
    with pytest.raises(InputError, match="returns uint8 up to 3, where its metadata describe the ids of 3 classes"):
        Predictor(wrong).predict(photo)


@pytest.mark.backend_free
def test_flipping_averages_the_logits_of_an_image_and_its_mirror_image():
    ramp = np.linspace(0, 3, 48, dtype=np.float32)[:, None]

    def lopsided(pixels):
        return colour(pixels) * ramp

    photo = noise(32, 48)
    expected = softmax((lopsided(photo) + lopsided(photo[:, ::-1])[:, ::-1]) / 2)
    found = Predictor(Network(lopsided)).probabilities(photo, flip=True)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found - softmax(lopsided(photo))).max() > 0.1


# === In tiles ===


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("length", "tile", "overlap", "stride"),
    [
        (300, 64, 0.25, 16),
        (1000, 96, 0.5, 16),
        (65, 64, 0.25, 16),
        (333, 40, 0.8, 8),
        (50, 64, 0.25, 16),
        (90, 16, 0, 16),
    ],
)
def test_tiles_cover_a_side_with_weights_that_add_up_to_one(length, tile, overlap, stride):
    found = spans(length, tile, overlap, stride)
    total = np.zeros(found[-1].stop)
    for span in found:
        assert span.start % stride == 0
        assert span.stop - span.start == len(span.weights) == tile
        assert span.weights.min() >= 0
        total[span.start : span.stop] += span.weights
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert found[0].weights[0] == found[-1].weights[-1] == 1  # true edges count in full
    assert length <= found[-1].stop < max(length + stride, tile + 1)
    for before, after in itertools.pairwise(found):
        shared = before.stop - after.start
        assert shared >= overlap * tile
        quarter = shared // 4
        assert not after.weights[:quarter].any()
        assert not before.weights[len(before.weights) - quarter :].any()
        assert (np.diff(after.weights[:shared]) >= 0).all() or len(found) > 2


@pytest.mark.backend_free
@pytest.mark.parametrize("size", [(97, 211), (40, 150), (150, 40), (20, 30), (32, 48), (33, 49), (1, 100)])
def test_tiles_equal_the_whole_image_if_the_receptive_field_fits_the_margin(size):
    network = Network(blur)
    photo = noise(*size)
    found = Predictor(network).probabilities(photo, mode="tile", overlap=0.5, batch_size=3)
    np.testing.assert_allclose(found, softmax(blur(photo[None])[0]), atol=2e-5)
    assert max(shape[0] for shape in network.shapes) <= 3
    assert len({shape[1:] for shape in network.shapes}) == 1  # compiled once for an image
    assert network.shapes[0][1] <= 32 + 3
    if size == (97, 211):
        cut = Predictor(network).probabilities(photo, mode="tile", overlap=0)
        assert np.abs(cut - softmax(blur(photo[None])[0])).max() > 0.1


def reach(network):
    """How many pixels away from a changed pixel the output changes."""
    places = np.arange(60, 64).repeat(3)
    photos = np.stack([noise(128, 128, seed=seed) for seed in range(len(places))])
    changed = photos.copy()
    for photo, place in zip(changed, places):
        photo[place, place] = 255 - photo[place, place]
    index, rows, columns = np.nonzero(np.any(network(photos) != network(changed), -1))
    return max(np.abs(rows - places[index]).max(), np.abs(columns - places[index]).max())


@pytest.mark.parametrize("upsampler", on_every_backend(["bilinear", "max_unpool"], ["max_unpool"]))
def test_tiles_of_a_real_network_equal_the_whole_image(upsampler):
    model = build_unet(3, width=2, depth=2, upsampler=upsampler, normalization="none", activation="tanh")
    model.jit_compile = BACKEND == "jax"
    network = Network(lambda pixels: np.asarray(model.predict_on_batch(pixels)), size=(160, 160))
    furthest = reach(network)
    assert 16 < furthest <= 36  # a quarter of 160 × 0.9 shared pixels
    photo = noise(190, 231)
    whole = softmax(network(photo[None])[0])
    found = Predictor(network).probabilities(photo, mode="tile", overlap=0.9)
    np.testing.assert_allclose(found, whole, atol=1e-5)
    cut = Predictor(network).probabilities(photo, mode="tile", tile=(48, 48), overlap=0)
    assert np.abs(cut - whole).max() > 1e-3


@pytest.mark.backend_free
@pytest.mark.parametrize("size", [(97, 211), (20, 30), (31, 300), (1, 1)])
def test_a_network_of_a_fixed_size_is_run_at_that_size_only(size):
    network = Network(blur, dynamic=False)
    photo = noise(*size)
    found = Predictor(network).probabilities(photo, mode="tile", overlap=0.5)
    assert {shape[1:3] for shape in network.shapes} == {(32, 48)}
    inside = [slice(None, max(side - 8, 0)) for side in size]  # beyond the bottom and right edge it sees reflections
    np.testing.assert_allclose(found[*inside], softmax(blur(photo[None])[0])[*inside], atol=2e-5)
    assert Predictor(network).predict(photo).shape == size
    assert {shape[1:3] for shape in network.shapes} == {(32, 48)}


@pytest.mark.backend_free
def test_memory_does_not_grow_with_the_images_height():
    predictor = Predictor(Network(lambda pixels: np.repeat(colour(pixels), 4, -1), classes=tuple("abcdefghijkl")))
    peaks = []
    for height in (500, 4000):
        photo = noise(height, 200)
        tracemalloc.start()
        mask = predictor.predict(photo, mode="tile")
        peaks.append(tracemalloc.get_traced_memory()[1] - mask.nbytes)
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]  # logits of the whole image would take 38 MB instead of 5 MB


# === What is given, what comes back ===


@pytest.mark.backend_free
def test_every_way_to_give_images_leads_to_the_same_masks(tmp_path):
    predictor = Predictor(Network(colour))
    photo = noise(32, 48)
    expected = photo.argmax(-1)
    grey = noise(20, 30)[..., 0]
    Image.fromarray(photo).save(tmp_path / "photo.png")
    for single in (photo, Image.fromarray(photo), tmp_path / "photo.png", str(tmp_path / "photo.png")):
        mask = predictor.predict(single)
        assert isinstance(mask, np.ndarray)
        np.testing.assert_array_equal(mask, expected)
    np.testing.assert_array_equal(predictor.predict(torch.tensor(photo)), expected)
    for several in ([photo, tmp_path / "photo.png"], iter([photo] * 2), (photo, photo), np.stack([photo, photo])):
        masks = predictor.predict(several, batch_size=3)
        assert isinstance(masks, list)
        assert len(masks) == 2
        np.testing.assert_array_equal(masks[1], expected)
    assert predictor.predict([]) == []
    assert predictor.predict(grey).shape == (20, 30)
    sizes = [(10, 20), (70, 30), (32, 48)] * 3
    assert [mask.shape for mask in predictor.predict([noise(*size) for size in sizes], batch_size=2)] == sizes
    clear = np.dstack([photo, np.zeros((32, 48), np.uint8)])
    assert not predictor.predict(clear).any()  # transparent pixels become black
    assert not predictor.predict(Image.fromarray(clear)).any()


@pytest.mark.backend_free
def test_images_are_read_as_predictions_are_requested():
    given = []

    def photos():
        for index in range(100):
            given.append(index)
            yield noise(8, 8)

    for mode in ("resize", "tile"):
        given.clear()
        predictions = Predictor(Network(colour)).segment(photos(), mode=mode, batch_size=4)
        assert next(predictions).probabilities is None
        assert len(given) <= 4


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        (np.zeros((4, 4, 3)), {}, r"uint8 array \(H, W\).*received float64; if the values are 0 to 1: np.uint8"),
        (np.zeros((4, 4, 3), np.int64), {}, "received int64"),
        (np.zeros((4, 4, 2), np.uint8), {}, r"received shape \(4, 4, 2\)"),
        (np.zeros((5, 4, 4, 2), np.uint8), {}, r"received shape \(4, 4, 2\)"),
        (np.zeros((0, 4, 3), np.uint8), {}, r"received shape \(0, 4, 3\)"),
        (3, {}, "expected a path, a PIL image or .* received int"),
        ([None], {}, "received NoneType"),
        ("nowhere.jpg", {}, "nowhere.jpg: there is no such file"),
        (__file__, {}, r"test_inference.py: cannot be read as an image \(cannot identify"),
        (Image.new("F", (4, 4)), {}, "F-mode pixels have no defined range"),
        (noise(4, 4), {"mode": "tiles"}, "mode: 'tiles' is not one of resize, tile; did you mean tile?"),
        (noise(4, 4), {"tile": (32, 48)}, "tile: can be set only with mode 'tile'"),
        (noise(4, 4), {"mode": "tile", "tile": (2, 48)}, "tile: must be 4 pixels or more"),
        (noise(4, 4), {"mode": "tile", "tile": 512}, r"tile: expected height and width in pixels.*received 512"),
        (noise(4, 4), {"mode": "tile", "overlap": 1.0}, "overlap: must be at least 0 and below 1"),
        (noise(4, 4), {"batch_size": 0}, "batch_size: must be 1 or more"),
    ],
)
def test_unusable_images_and_options_are_reported(image, options, expected):
    with pytest.raises(InputError, match=expected):
        Predictor(Network(colour)).predict(image, **options)


@pytest.mark.backend_free
def test_a_tile_that_the_file_cannot_accept_is_reported():
    with pytest.raises(InputError, match=r"stand-in.onnx accepts 32×48 pixels only \(height × width\), received 64×64"):
        Predictor(Network(colour, dynamic=False)).predict(noise(4, 4), mode="tile", tile=(64, 64))


@pytest.mark.backend_free
def test_the_example_of_spans():
    assert doctest.testmod(tiling) == (0, 1)


@pytest.mark.backend_free
def test_importing_the_package_imports_next_to_nothing():
    code = (
        "import sys, unet; light = {'numpy', 'keras', 'PIL'} & set(sys.modules); assert not light, light\n"
        "import unet.inference; assert 'keras' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# === Overlays ===


@pytest.mark.backend_free
def test_an_overlay_is_a_blend_with_contours_in_full_colour():
    photo = noise(20, 30)
    mask = np.zeros((20, 30), np.uint8)
    mask[5:12, 8:20] = 1
    table = figures.colour_table(COLOURS)
    found = figures.overlay(photo, mask, table, opacity=0.25)
    edge = ndimage.grey_dilation(mask, footprint=CROSS) != ndimage.grey_erosion(mask, footprint=CROSS)
    np.testing.assert_array_equal(found[edge], table[mask][edge])
    blend = 0.75 * photo + 0.25 * table[mask]
    np.testing.assert_allclose(found[~edge], blend[~edge], atol=1)
    np.testing.assert_array_equal(table[:3], [[16, 32, 48], [255, 0, 0], [0, 255, 127]])
    np.testing.assert_array_equal(
        figures.overlay(photo, mask, 3), figures.overlay(photo, mask, figures.class_colours(3))
    )


CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])


@pytest.mark.backend_free
def test_an_overlay_is_the_same_in_bands(monkeypatch):
    photo, mask = noise(60, 1900), (noise(60, 1900)[..., 0] > 250).astype(np.uint8)
    table = figures.colour_table(COLOURS)
    at_once = figures.overlay(photo, mask, table)  # contours are three pixels wide on both sides
    expected = figures.with_legend(at_once, mask, CLASSES, table)
    monkeypatch.setattr(figures, "ROWS", 7)
    np.testing.assert_array_equal(figures.overlay(photo, mask, table), at_once)
    np.testing.assert_array_equal(figures.overlay_with_legend(photo, mask, CLASSES, table), expected)


@pytest.mark.parametrize("scale", [0.5, 1.25])
def test_a_network_that_was_trained_on_scaled_images_gets_them_scaled(scale):
    network = Network(colour)
    network.metadata = dataclasses.replace(network.metadata, sampling="crop", scale=scale)
    photo = smooth(61, 90)
    size = round(61 * scale), round(90 * scale)
    reduced = np.asarray(Image.fromarray(photo).resize(size[::-1], Image.Resampling.BILINEAR))
    expected = softmax(resize_logits(colour(reduced), (61, 90)))
    np.testing.assert_allclose(Predictor(network).probabilities(photo), expected, atol=1e-5)
    np.testing.assert_array_equal(
        Predictor(network).predict(photo), heads.CLASSES.resized_mask(colour(reduced), (61, 90))
    )
    assert max(height for _, height, _, _ in network.shapes) < 32 + network.metadata.stride


# === On the command line ===


def test_tiles_of_images_larger_than_in_training_are_warned_about_once(run, tmp_path):
    for name in "ab":
        save(smooth(60, 60, seed=1), tmp_path / "large" / f"{name}.png")
    save(smooth(*run.config.data.size, seed=1), tmp_path / "small" / "c.png")
    warning = "the network was trained on images resized to {}×{} pixels".format(*run.config.data.size)
    for folder, mode, times in (("large", "tile", 1), ("large", "resize", 0), ("small", "tile", 0)):
        code, _, err = run_unet("predict", run.path, tmp_path / folder, "--out", tmp_path / "out", "--mode", mode)
        assert code == 0
        assert err.count(warning) == times, (folder, mode, err)


def test_predict_skips_a_damaged_image_and_exits_with_1(run, predictor, tmp_path):
    photos = tmp_path / "photos"
    first, second = smooth(40, 60, seed=1), smooth(50, 30, seed=2)
    exif = Image.Exif()
    exif[274] = 6  # rotate by 90° clockwise
    save(first, photos / "a.png")
    save(second, photos / "day" / "a.PNG", exif=exif)
    (photos / "day" / "broken.jpg").write_text("no image")
    (photos / "day" / "gone.jpg").symlink_to("nowhere.jpg")
    (photos / "notes.txt").write_text("nor this")
    out = photos / "masks"
    code, printed, err = run_unet("predict", run.path, photos, "--out", out, "--probabilities", "--flip")
    assert code == 1
    assert f"{photos}/day/broken.jpg: cannot be read as an image (cannot identify" in err
    assert f"{photos}/day/gone.jpg: cannot be read as an image (No such file" in err
    assert "error: 2 of 4 images could not be read" in err
    assert "Traceback" not in err
    assert f"masks: {out} (2 images)" in printed
    assert f"{photos}/day/a.PNG: 50×30, " in printed
    with pytest.raises(RunError, match="2 of 4 images"):  # the output of the first call is not input of the second
        predict.main(run.path, [str(photos)], out, flip=True)
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    endings = (".png", "_overlay.jpg", "_probabilities.npz")
    assert written == sorted(f"{name}{ending}" for name in ("a", "day/a") for ending in endings)
    for name, photo in (("a", first), ("day/a", np.rot90(second, -1))):
        expected = predictor.predict(photo, flip=True)
        with Image.open(out / f"{name}.png") as mask:
            assert mask.mode == "P"
            np.testing.assert_array_equal(np.asarray(mask), expected)
            table = figures.colour_table(predictor.metadata.colours)
            np.testing.assert_array_equal(np.asarray(mask.convert("RGB")), table[expected])
        with Image.open(out / f"{name}_overlay.jpg") as overlay:
            picture = figures.with_legend(
                figures.overlay(photo, expected, 3), expected, predictor.metadata.classes, table
            )
            Image.fromarray(picture).save(compressed := io.BytesIO(), "JPEG", quality=90)
            np.testing.assert_array_equal(np.asarray(overlay), np.asarray(Image.open(compressed)))
        with np.load(out / f"{name}_probabilities.npz") as file:
            assert file["probabilities"].dtype == np.float16
            np.testing.assert_allclose(file["probabilities"], predictor.probabilities(photo, flip=True), atol=2e-3)
            assert file["classes"].tolist() == ["pet", "background", "border"]


@pytest.mark.backend_free
def test_large_is_the_former_name_of_mode(tmp_path, monkeypatch):
    predictor = Predictor(Network(colour))
    photo = noise(40, 60)
    expected = predictor.predict(photo, mode="tile")
    with pytest.warns(DeprecationWarning, match="'large' is now called 'mode'"):
        np.testing.assert_array_equal(predictor.predict(photo, large="tile"), expected)
    monkeypatch.setattr(unet, "load", lambda path: predictor)
    save(photo, tmp_path / "a.png")
    done = run_unet("predict", "network", "a.png", "--large", "tile", cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.err == "warning: --large is now called --mode\n"
    with Image.open(tmp_path / "masks" / "a.png") as mask:  # the default directory
        np.testing.assert_array_equal(np.asarray(mask), expected)
    assert "--large" not in run_unet("predict", "--help").out


def test_predict_in_tiles_of_a_given_size(run, predictor, tmp_path, capsys):
    photo = save(smooth(70, 90), tmp_path / "a.png")
    predict.main(run.path, [str(photo)], tmp_path / "out", mode="tile", tile="40x48", overlay=False)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png"]
    expected = predictor.predict(photo, mode="tile", tile=(40, 48))
    with Image.open(tmp_path / "out" / "a.png") as mask:
        np.testing.assert_array_equal(np.asarray(mask), expected)
    shares = np.bincount(expected.ravel(), minlength=3) / expected.size
    named = [f"{name} {share:.1%}" for name, share in zip(predictor.metadata.classes, shares) if share]
    assert f"{photo}: 90×70, {', '.join(named)}\n" in capsys.readouterr().out


@pytest.mark.backend_free
def test_predict_imports_no_keras_for_a_file_of_another_runtime(tmp_path):
    save(noise(20, 30), tmp_path / "a.png")
    code = f"""
import sys
for name in ("keras", "tensorflow", "jax", "torch"):
    sys.modules[name] = None
import numpy as np
import unet.formats
from pathlib import Path
from unet.formats import LoadedNetwork, Metadata

class Network(LoadedNetwork):
    path = Path("x.onnx")
    metadata = Metadata(
        classes=("a", "b", "c"), size=(8, 8), dynamic=False, activation="none", colours=("#000000",) * 3
    )
    def __call__(self, pixels):
        return pixels.astype(np.float32)

unet.formats.load_network = lambda path: Network()
from unet.commands import predict
predict.main(Path("x.onnx"), ["{tmp_path}"], Path("{tmp_path}/out"))
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    assert (tmp_path / "out" / "a_overlay.jpg").is_file()


@pytest.mark.backend_free
def test_patterns_and_folders_keep_relative_paths(tmp_path, monkeypatch):
    for name in ("a.jpg", "b/a.jpg", "b/c/x.png", "b/c/x.txt", "b/.hidden.jpg", ".trash/x.jpg", "[1].jpg"):
        save(noise(4, 4), tmp_path / "in" / name, format="PNG")
    monkeypatch.chdir(tmp_path)
    out = Path("out")

    def planned(*images, **options):
        jobs = predict.plan(list(images), out, **{"overlay": False, "probabilities": False} | options)
        return {str(path): str(files["mask"]) for path, files in jobs.items()}

    below = {"in/a.jpg": "out/a.png", "in/b/a.jpg": "out/b/a.png", "in/b/c/x.png": "out/b/c/x.png"}
    assert planned("in") == below | {"in/[1].jpg": "out/[1].png"}
    assert planned("in/**/*.jpg", "in/b/c") == {
        "in/[1].jpg": "out/[1].png",
        "in/a.jpg": "out/a.png",
        "in/b/a.jpg": "out/b/a.png",
        "in/b/c/x.png": "out/x.png",
    }
    assert planned("in/a.jpg", "in/[1].jpg", "in/a.jpg", "in/*.jpg") == {
        "in/a.jpg": "out/a.png",
        "in/[1].jpg": "out/[1].png",
    }
    assert planned(str(tmp_path / "in" / "b" / "?.jpg")) == {str(tmp_path / "in" / "b" / "a.jpg"): "out/a.png"}
    files = predict.plan(["in/a.jpg"], out, overlay=True, probabilities=True)[Path("in/a.jpg")]
    assert [str(file) for file in files.values()] == ["out/a.png", "out/a_overlay.jpg", "out/a_probabilities.npz"]


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("images", "out", "expected"),
    [
        (["one/x.jpg", "two/x.jpg"], "out", r"one/x.jpg and two/x.jpg: both would be written to out/x.png"),
        (["one"], "out", r"one/x.jpg and one/x.png: both would be written to out/x.png"),
        (["three"], "three", r"three/y.png: is one of the images and would be overwritten; choose another --out"),
        (["three/y.png"], "link", r"link/y.png: is one of the images and would be overwritten"),
        (["three/y_overlay.jpg", "three/y.png"], "three", "is one of the images and would be overwritten"),
        (["four/*.jpg"], "out", r"four/\*.jpg: matches no image \(.jpg, "),
        (["four"], "out", r"four: contains no image \(.jpg, "),
        (["one/z.jpg"], "out", r"one/z.jpg: there is no such file or folder; did you mean one/x.jpg?"),
        (["one/x.jpg"], "one/x.png", "out: one/x.png is a file; name a folder"),
    ],
)
def test_conflicting_or_missing_files_are_reported_before_anything_is_written(
    images, out, expected, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name in ("one/x.jpg", "one/x.png", "two/x.jpg", "three/y.png", "three/y_overlay.jpg"):
        save(noise(4, 4), Path(name))
    Path("four").mkdir()
    Path("link").symlink_to("three", target_is_directory=True)
    with pytest.raises(InputError, match=expected):
        predict.main(Path("no run is loaded"), images, Path(out))
    assert not Path("out").exists()


@pytest.mark.backend_free
def test_invalid_options_are_reported_before_anything_is_written(tmp_path, monkeypatch):
    photo = str(save(noise(40, 60), tmp_path / "a.png"))
    monkeypatch.setattr(unet, "load", lambda path: Predictor(Network(colour)))
    for options, expected in (
        ({"tile": "40"}, r"tile: expected height and width in pixels, as 512x512, received '40'"),
        ({"mode": "tiled"}, "did you mean tile?"),
        ({"mode": "tile", "tile": "2x2"}, "tile: must be 4 pixels or more"),
    ):
        with pytest.raises(InputError, match=expected):
            predict.main(Path("x"), [photo], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    Path(photo).write_bytes(Path(photo).read_bytes()[:100])
    with pytest.raises(RunError, match="1 of 1 images could not be read"):
        predict.main(Path("x"), [photo], tmp_path / "out")


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow" or sys.platform != "linux", reason="measured with TensorFlow on Linux")
def test_a_photograph_of_12_megapixels_takes_less_than_2_gibibytes(run, tmp_path):
    photo = save(np.tile(smooth(300, 400), (10, 10, 1)), tmp_path / "large.jpg")
    code = f"""
import re
from pathlib import Path
from unet.commands import predict

for name, options in (("resized", dict(probabilities=True)), ("tiled", dict(mode="tile", tile="256x256"))):
    predict.main(Path({str(run.path)!r}), [{str(photo)!r}], Path({str(tmp_path)!r}) / name, **options)
status = Path("/proc/self/status").read_text()  # unlike getrusage, without the memory of the process that started it
print("peak", re.search(r"VmHWM:\\s+([0-9]+)", status)[1])
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True)
    for name in ("resized", "tiled"):
        with Image.open(tmp_path / name / "large.png") as mask:
            assert mask.size == (4000, 3000)
    assert int(done.stdout.split("peak ")[1]) < 2 * 2**20


@pytest.mark.slow
@pytest.mark.backend_free
@pytest.mark.skipif(sys.platform != "linux", reason="measured on Linux")
def test_memory_grows_by_little_more_than_the_image_its_mask_and_its_overlay(tmp_path):
    small = save(smooth(300, 400), tmp_path / "small.jpg")
    large = save(np.tile(smooth(250, 250), (20, 20, 1)), tmp_path / "large.jpg")
    code = f"""
import re
from pathlib import Path
import numpy as np
import unet
from unet.commands import predict
from unet.formats import LoadedNetwork, Metadata
from unet.inference import Predictor

class Colours(LoadedNetwork):
    path = Path("stand-in.onnx")

    def __init__(self, scale):
        self.metadata = Metadata(
            classes=("red", "green", "blue"), colours=("#FF0000", "#00FF00", "#0000FF"), size=(256, 256), dynamic=True,
            activation="none", sampling="crop", scale=scale, config={{"model": {{"depth": 2}}}},
        )

    def __call__(self, pixels):
        return pixels.astype(np.float32)

for image in ({str(small)!r}, {str(large)!r}):
    for scale in (1, 0.5):
        unet.load = lambda path: Predictor(Colours(scale))
        predict.main(Path("network"), [image], Path({str(tmp_path)!r}, str(scale)))
    print("peak", re.search(r"VmHWM:\\s+([0-9]+)", Path("/proc/self/status").read_text())[1])
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True)
    before, after = (1024 * int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("peak"))
    for scale in ("1", "0.5"):
        with Image.open(tmp_path / scale / "large.png") as mask:
            assert mask.size == (5000, 5000)
    assert 8 * 25e6 < after - before < 11 * 25e6  # image 3, mask 1, and overlay 4, as Pillow stores it
