"""Images with any channels and type of pixels: reading, resizing, statistics, and pictures of them."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers.images import save
from unet import config, data
from unet.data.cache import inspect
from unet.data.images import PixelFormat, WrongPixels, preview, resize_image
from unet.data.windows import Windows
from unet.errors import InputError

pytestmark = pytest.mark.backend_free

SIZE = (12, 10)
DEPTHS = {"uint8": 255, "uint16": 65535, "float32": 1.0}


def pixels(rng, channels, dtype, size=SIZE):
    return (rng.random((*size, channels)) * DEPTHS[dtype]).astype(dtype)


@pytest.fixture
def load(tmp_path):
    """Write images to a folder with masks of two classes, and load settings for it."""

    def loaded(images, *overrides):
        for index, image in enumerate(images):
            mask = np.zeros(image.shape[:2], np.uint8)
            mask[:4] = 1
            save(image, tmp_path / "images" / f"{index}.npy")
            save(mask, tmp_path / "masks" / f"{index}.png")
        path = tmp_path / "c.yaml"
        path.write_text(
            f"data: {{source: folder, data_dir: {tmp_path}, cache_dir: {tmp_path / 'cache'}, size: [12, 10], "
            "validation: 0, folder: {classes: [ground, roof]}}\n"
        )
        return config.load(path, overrides).data

    return loaded


@pytest.mark.parametrize(("channels", "dtype"), [(5, "uint8"), (4, "uint16"), (2, "float32"), (3, "uint16")])
def test_files_are_read_bit_by_bit(rng, tmp_path, channels, dtype):
    rasterio = pytest.importorskip("rasterio")
    image = pixels(rng, channels, dtype)
    np.save(tmp_path / "a.npy", image)
    profile = {"driver": "GTiff", "height": 12, "width": 10, "count": channels, "dtype": dtype, "compress": "deflate"}
    with rasterio.open(tmp_path / "a.tif", "w", **profile) as file:
        file.write(np.moveaxis(image, -1, 0))
    for name in ("a.npy", "a.tif"):
        read = PixelFormat(channels, dtype).read(tmp_path / name)
        assert read.dtype == dtype
        np.testing.assert_array_equal(read, image)


def test_grey_files_of_16_bits_and_colours_as_grey(rng, tmp_path):
    grey = pixels(rng, 1, "uint16")
    Image.fromarray(grey[..., 0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(PixelFormat(1, "uint16").read(tmp_path / "grey.png"), grey)
    np.testing.assert_array_equal(PixelFormat(1, "float32").read(tmp_path / "grey.png"), grey.astype("float32"))
    Image.fromarray(np.full((*SIZE, 3), (255, 0, 0), np.uint8)).save(tmp_path / "red.png")
    np.testing.assert_array_equal(PixelFormat(1, "uint8").read(tmp_path / "red.png"), np.full((*SIZE, 1), 76))


@pytest.mark.parametrize(
    ("wanted", "image", "message"),
    [
        (PixelFormat(5, "uint8"), np.zeros((4, 4, 3), np.uint8), "has 3 channels; expected 5 (data.channels)"),
        (PixelFormat(3, "uint8"), np.zeros((4, 4), np.uint8), "has 1 channel; expected 3 (data.channels)"),
        (PixelFormat(2, "uint16"), np.zeros((4, 4, 2), np.uint8), "has pixels of type uint8; expected uint16 (data.dt"),
        (PixelFormat(2, "uint16"), np.zeros((4, 4, 2), np.int16), "has pixels of type int16; expected uint16"),
        (PixelFormat(2, "float32"), np.zeros((4, 4, 2), complex), "has pixels of type complex128; expected float32"),
        (PixelFormat(2, "float32"), np.full((4, 4, 2), np.nan), "holds NaN or infinite values"),
        (PixelFormat(2, "float32"), np.full((4, 4, 2), 1e300), "holds NaN or infinite values"),
        (PixelFormat(2, "float32"), np.zeros((2, 4, 4, 2)), "holds an array of shape (2, 4, 4, 2); expected (height,"),
        (PixelFormat(2, "float32"), np.zeros((0, 4, 2)), "holds an array of shape (0, 4, 2); expected (height, width"),
    ],
)
def test_other_pixels_are_refused(tmp_path, wanted, image, message):
    np.save(tmp_path / "a.npy", image)
    with pytest.raises(WrongPixels) as error:
        wanted.read(tmp_path / "a.npy")
    assert message in str(error.value)


def test_files_that_are_no_arrays_are_refused(tmp_path):
    (tmp_path / "text.npy").write_text("no array")
    np.save(tmp_path / "objects.npy", np.array([{}, []], object), allow_pickle=True)
    (tmp_path / "text.tif").write_text("no image")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "colours.png")
    for name, reason in (
        ("text.npy", "NumPy array"),
        ("objects.npy", "NumPy array"),
        ("text.tif", "not recognized|needs rasterio"),
    ):
        with pytest.raises(OSError, match=reason):
            PixelFormat(4).read(tmp_path / name)
    with pytest.raises(WrongPixels, match="only 8 bits of colour images are read"):
        PixelFormat(3, "uint16").read(tmp_path / "colours.png")


def test_channels_that_the_settings_do_not_name_are_reported(tmp_path):
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed: pip install '.[geo]'")
    profile = {"driver": "GTiff", "height": 4, "width": 6, "count": 5, "dtype": "uint16"}
    with rasterio.open(tmp_path / "a.tif", "w", transform=rasterio.Affine.scale(2), **profile) as file:
        file.write(np.zeros((5, 4, 6), np.uint16))
    with pytest.raises(WrongPixels, match=r"has 5 channels of uint16; expected 3 channels of uint8 \(data\.channels, "):
        PixelFormat().read(tmp_path / "a.tif")
    (tmp_path / "text.tif").write_text("no image")
    with pytest.raises(OSError, match="cannot identify the format"):
        PixelFormat().read(tmp_path / "text.tif")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "colours.png")
    with pytest.raises(WrongPixels, match=r"has 3 channels; expected 5 \(data\.channels\)"):
        PixelFormat(5, "uint16").read(tmp_path / "colours.png")


def test_each_channel_is_resized_as_pillow_resizes_it(rng):
    for dtype, mode in (("uint8", "L"), ("float32", "F")):
        image = pixels(rng, 4, dtype, (20, 30))
        resized = resize_image(image, (7, 40))
        assert resized.dtype == dtype
        for channel in range(4):
            expected = Image.fromarray(image[..., channel], mode).resize((40, 7), Image.Resampling.BILINEAR)
            difference = resized[..., channel].astype(float) - np.asarray(expected, float)
            assert abs(difference).max() <= (1 if dtype == "uint8" else 0)  # Pillow rounds after each axis
    large = np.full((8, 8, 2), 65535, np.uint16)
    np.testing.assert_array_equal(resize_image(large, (3, 5)), large[:3, :5])


def test_a_picture_of_any_image_is_rgb_of_8_bits(rng):
    rgb = pixels(rng, 3, "uint8")
    assert preview(rgb) is not None
    assert np.shares_memory(preview(rgb), rgb)
    grey = preview(pixels(rng, 1, "uint16"))
    assert grey.shape == (*SIZE, 3)
    assert grey.dtype == np.uint8
    np.testing.assert_array_equal(grey[..., 0], grey[..., 2])
    assert grey.min() == 0
    assert grey.max() == 255
    assert preview(np.full((*SIZE, 7), 0.3, np.float32)).max() == 0  # no contrast, no division by zero


@pytest.mark.parametrize("sampling", ["resize", "crop"])
@pytest.mark.parametrize(("channels", "dtype"), [(5, "uint16"), (1, "float32"), (4, "uint8")])
def test_the_cache_keeps_every_bit(rng, load, sampling, channels, dtype):
    images = [pixels(rng, channels, dtype) for _ in range(8)]
    settings = load(images, f"data.channels={channels}", f"data.dtype={dtype}", f"data.sampling={sampling}")
    for _ in range(2):  # prepared, and from the cache
        dataset = data.prepare(settings)
        for split in (dataset.train, dataset.test):
            for row, name in enumerate(split.names):
                stored = split.whole(row)[0]
                assert stored.dtype == dtype
                np.testing.assert_array_equal(stored, images[int(name)])
                np.testing.assert_array_equal(split.draw(np.array([row]), (0, 1))[0][0], images[int(name)])
        mean, deviation = dataset.train.moments()
        training = np.concatenate([images[int(name)].reshape(-1, channels) for name in dataset.train.names])
        np.testing.assert_allclose(mean, training.astype(float).mean(0), rtol=1e-6)
        np.testing.assert_allclose(deviation, training.astype(float).std(0), rtol=1e-6)


def test_windows_beyond_an_image_repeat_its_border(rng):
    image, mask = pixels(rng, 2, "float32", (3, 4)), np.ones((3, 4), np.uint8)
    cut, ids = Windows((6, 4)).cut(image, mask, (-1, 0))
    np.testing.assert_array_equal(cut, image[[0, 0, 1, 2, 2, 2]])
    np.testing.assert_array_equal(ids[:, 0], [255, 1, 1, 1, 255, 255])


def test_statistics_of_large_and_constant_values(load):
    images = [np.stack([np.full(SIZE, 3.0), 1e6 + np.indices(SIZE)[0]], -1).astype("float32") for _ in range(5)]
    dataset = data.prepare(load(images, "data.channels=2", "data.dtype=float32"))
    mean, deviation = dataset.train.moments()
    assert mean == pytest.approx((3.0, 1e6 + 5.5))
    assert deviation == pytest.approx((1.0, np.arange(12).std()), rel=1e-6)


def test_images_with_other_channels_are_one_error(rng, load):
    images = [pixels(rng, 4 if index else 3, "uint8") for index in range(6)]
    settings = load(images, "data.channels=5")
    problems = inspect(data.make_source(settings))
    assert {str(problem).partition(": ")[2] for problem in problems} == {
        "has 3 channels; expected 5 (data.channels)",
        "has 4 channels; expected 5 (data.channels)",
    }
    with pytest.raises(InputError) as error:
        data.prepare(settings)
    lines = str(error.value).splitlines()
    assert len(lines) == 3  # a heading, the image of 3 channels, and those of 4
    assert "5 images (" in lines[2]
    assert lines[2].endswith("each has 4 channels; expected 5 (data.channels)")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.channels=0", "data.channels: must be ≥ 1, received 0"),
        ("data.dtype=uint32", 'data.dtype: "uint32" is not one of uint8, uint16, float32'),
        ("data.normalization=null", "null is possible for 3 channels of uint8 only"),
        (
            "data.normalization={mean: [1], deviation: [1, 1]}",
            "normalization.mean: needs a number for each of the 2 cha",
        ),
        ("data.normalization={mean: [1, 1], deviation: [0, 1]}", "data.normalization.deviation"),
        (
            "data.normalization=training",
            "data.normalization: must be auto, or a mapping {mean: [...], deviation: [...]}",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(load, override, message):
    with pytest.raises(InputError) as error:
        load([], "data.channels=2", override)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_only_folders_have_other_pixels(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("data: {source: shapes, channels: 4}\n")
    with pytest.raises(InputError, match=r"data.channels: shapes has 3 channels of uint8"):
        config.load(path, ())


def test_pictures_keep_the_encoders_normalization_and_their_place_in_the_cache(load, rng):
    settings = load([pixels(rng, 3, "uint8") for _ in range(4)])
    assert settings.normalization is None
    assert settings.moments is None
    key = data.make_source(settings).key()
    assert "pixels" not in key
    assert data.make_source(load([], "data.channels=4", "data.dtype=uint16")).key()["pixels"] == "4 channels of uint16"
