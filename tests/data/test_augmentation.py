"""Augmentation: image and mask move together, values stay in range, seeds decide."""

import keras
import numpy as np
import pytest
from keras import ops
from scipy import ndimage

from tests.helpers import BACKEND, slow_beyond_tensorflow
from unet.data.augmentation import OFF, Augmentation
from unet.data.sources import IGNORE


def run(layer, image, mask):
    image, mask = layer(image, mask)
    return ops.convert_to_numpy(image), ops.convert_to_numpy(mask)


def test_off_it_changes_nothing(rng):
    image = rng.integers(0, 256, (3, 9, 14, 3)).astype("uint8")
    mask = rng.integers(0, 256, (3, 9, 14)).astype("uint8")
    new_image, new_mask = run(Augmentation(**OFF), image, mask)
    np.testing.assert_allclose(new_image, image, atol=1e-3)
    np.testing.assert_array_equal(new_mask, mask)


def test_a_certain_flip_mirrors_both(rng):
    image = rng.integers(0, 256, (3, 9, 14, 3)).astype("uint8")
    mask = rng.integers(0, 256, (3, 9, 14)).astype("uint8")
    new_image, new_mask = run(Augmentation(**OFF | {"flip": 1.0}), image, mask)
    np.testing.assert_allclose(new_image, image[:, :, ::-1], atol=1e-3)
    np.testing.assert_array_equal(new_mask, mask[:, :, ::-1])


def test_a_certain_vertical_flip_turns_both_upside_down(rng):
    image = rng.integers(0, 256, (3, 9, 14, 3)).astype("uint8")
    mask = rng.integers(0, 256, (3, 9, 14)).astype("uint8")
    new_image, new_mask = run(Augmentation(**OFF | {"vertical_flip": 1.0}), image, mask)
    np.testing.assert_allclose(new_image, image[:, ::-1], atol=1e-3)
    np.testing.assert_array_equal(new_mask, mask[:, ::-1])


def test_quarter_turns_are_to_the_left_and_to_the_right(rng):
    image = rng.integers(0, 256, (100, 9, 9, 3)).astype("uint8")
    mask = rng.integers(0, 256, (100, 9, 9)).astype("uint8")
    new_image, new_mask = run(Augmentation(**OFF | {"rotate_90": 0.8}), image, mask)
    turns = []
    for k in range(100):
        turn = next(turn for turn in (-1, 0, 1) if (np.rot90(mask[k], turn) == new_mask[k]).all())
        np.testing.assert_allclose(new_image[k], np.rot90(image[k], turn), atol=1e-3)
        turns.append(turn)
    assert all(turns.count(turn) > 10 for turn in (-1, 0, 1))
    assert turns.count(0) < 40
    with pytest.raises(ValueError, match="must be square, received 9×14"):
        Augmentation(rotate_90=1.0)(np.zeros((1, 9, 14, 3)), np.zeros((1, 9, 14), "uint8"))


def coordinates(count, height, width):
    """Images whose red and green are the row and column of each pixel, and masks that are the row."""
    rows, columns = np.mgrid[:height, :width].astype("float32")
    image = np.stack([rows, columns, 0 * rows], axis=-1) * np.ones((count, 1, 1, 1), "float32")
    return image, image[..., 0].astype("uint8")


def test_a_rotation_keeps_distances_and_the_centre():
    image, mask = coordinates(60, 81, 61)
    new, new_mask = run(Augmentation(**OFF | {"rotation": 30.0}, seed=2), image, mask)
    np.testing.assert_allclose(new[:, 40, 30, :2], np.tile([40, 30], (60, 1)), atol=1e-3)
    down, right = new[:, 50, 30, :2] - [40, 30], new[:, 40, 40, :2] - [40, 30]
    np.testing.assert_allclose(np.hypot(*down.T), 10, atol=1e-3)
    np.testing.assert_allclose(down, np.stack([right[:, 1], -right[:, 0]], -1), atol=1e-3)  # at a right angle
    angles = np.degrees(np.arctan2(down[:, 1], down[:, 0]))
    assert -30 <= angles.min() < -24
    assert 24 < angles.max() <= 30
    inside = new_mask != IGNORE
    assert 0.02 < 1 - inside.mean() < 0.3
    assert (new[~inside] == 0).all()
    assert np.abs(new[..., 0] - new_mask)[inside].max() <= 0.5 + 1e-3


@slow_beyond_tensorflow
def test_a_rotated_corner_is_ignored_exactly_where_it_is_beyond_the_border():
    image, mask = coordinates(8, 33, 33)
    layer = Augmentation(**OFF | {"rotation": 180.0}, seed=1)
    new, new_mask = run(layer, image, mask)
    down, right = new[:, 20, 16, :2] - 16, new[:, 16, 20, :2] - 16  # four pixels from the centre
    at = np.mgrid[:33, :33] - 16
    for k in range(8):
        source = 16 + (down[k][:, None, None] * at[0] + right[k][:, None, None] * at[1]) / 4
        clear = np.abs(np.abs(source - 16) - 16.5).min(0) > 1e-2  # not on the border itself
        outside = (np.abs(source - 16) > 16.5).any(0)
        np.testing.assert_array_equal(new_mask[k][clear] == IGNORE, outside[clear])


def test_zooming_out_shows_the_whole_image_with_a_border():
    image, mask = coordinates(100, 80, 80)
    new, new_mask = run(Augmentation(**OFF | {"scale": (1.5, 4.0)}, seed=3), image, mask)
    shares = (new_mask != IGNORE).mean((1, 2))
    assert 0.24 < shares.min() < 0.28
    assert 0.6 < shares.max() < 0.69
    assert (new[..., 0].max((1, 2)) > 77).all()
    edges = np.stack([new_mask[:, 0], new_mask[:, -1]]) != IGNORE
    assert edges.any(2).mean(1) == pytest.approx([0, 0], abs=0.1)  # the image is anywhere in the border


@slow_beyond_tensorflow
def test_a_translation_moves_by_the_share_that_is_asked_for():
    image, mask = coordinates(200, 50, 100)
    new, new_mask = run(Augmentation(**OFF | {"translation": 0.2}, seed=3), image, mask)
    moved = new[:, 25, 50, :2] - [25, 50]
    assert np.abs(moved).max(0) == pytest.approx([10, 20], rel=0.05)
    assert np.abs(moved).max(0)[0] <= 10
    assert np.abs(moved).max(0)[1] <= 20
    lost = 1 - (1 - np.abs(moved[:, 0]) / 50) * (1 - np.abs(moved[:, 1]) / 100)
    np.testing.assert_allclose((new_mask == IGNORE).mean((1, 2)), lost, atol=0.02)


@slow_beyond_tensorflow
def test_an_elastic_deformation_is_smooth_and_bounded():
    image, mask = coordinates(40, 64, 64)
    new, new_mask = run(Augmentation(**OFF | {"elastic": 0.1}, seed=3), image, mask)
    inside = new_mask != IGNORE
    moved = np.where(inside[..., None], new[..., :2] - image[..., :2], 0)
    assert 4 < np.abs(moved).max() <= 6.4 + 1e-3
    steps = np.abs(np.diff(moved[:, 8:-8, 8:-8], axis=2))
    assert steps.max() < 1.2  # pixels; neighbours move alike
    assert np.abs(moved[:, 32, 32] - moved[:, 12, 12]).mean() > 1  # and distant pixels do not
    assert np.abs(new[..., 0] - new_mask)[inside].max() <= 1.5


def test_grayscale_is_the_luminance_of_some_images(rng):
    image = rng.integers(0, 256, (200, 3, 4, 3)).astype("uint8")
    new, _ = run(Augmentation(**OFF | {"grayscale": 0.3}), image, np.zeros((200, 3, 4), "uint8"))
    grey = np.ptp(new, axis=-1).max((1, 2)) < 1e-3
    assert 0.2 < grey.mean() < 0.4
    np.testing.assert_allclose(new[grey][..., 0], image[grey] @ [0.299, 0.587, 0.114], atol=1e-2)
    np.testing.assert_allclose(new[~grey], image[~grey], atol=1e-3)


@slow_beyond_tensorflow
def test_gamma_draws_an_exponent_for_each_image():
    image = np.full((300, 2, 2, 3), 64, "uint8")
    image[:, 1] = 128
    new, _ = run(Augmentation(**OFF | {"gamma": 1.0}), image, np.zeros((300, 2, 2), "uint8"))
    exponents = np.log(new / 255) / np.log(image / 255)
    np.testing.assert_allclose(exponents, exponents[:, :1, :1, :1] * np.ones((1, 2, 2, 3)), rtol=1e-3)
    assert 0.5 - 1e-3 <= exponents.min() < 0.53
    assert 1.9 < exponents.max() <= 2 + 1e-3
    assert abs(np.log(exponents).mean()) < 0.1


@slow_beyond_tensorflow
def test_noise_has_the_deviation_that_is_asked_for():
    image = np.full((64, 20, 20, 3), 128, "uint8")
    new, _ = run(Augmentation(**OFF | {"noise": 0.1}), image, np.zeros((64, 20, 20), "uint8"))
    deviations = new.std((1, 2, 3)) / 255
    assert deviations.min() < 0.01
    assert 0.09 < deviations.max() < 0.105
    assert abs(new.mean() - 128) < 0.5


def test_blur_equals_scipys_gaussian_filter(rng):
    image = rng.uniform(0, 255, (6, 61, 61, 3)).astype("float32")
    layer = Augmentation(**OFF | {"blur": 3.0})
    new, _ = run(layer, image, np.zeros((6, 61, 61), "uint8"))
    deviations, inner = np.linspace(0.05, 3, 296), (slice(20, -20), slice(20, -20))
    found = []
    for before, after in zip(image[..., 0], new[..., 0], strict=True):
        blurred = [ndimage.gaussian_filter(before, deviation, truncate=6)[inner] for deviation in deviations]
        differences = np.abs(blurred - after[inner]).max((1, 2))
        assert differences.min() < 2
        found.append(deviations[differences.argmin()])
    assert min(found) < 1
    assert max(found) > 2


EVERYTHING = {
    **{"flip": 0.5, "vertical_flip": 0.5, "rotate_90": 0.5, "scale": (0.5, 1.5), "ratio": (0.8, 1.25)},
    **{"translation": 0.1, "rotation": 20.0, "elastic": 0.05, "brightness": 0.1, "contrast": 0.1, "saturation": 0.1},
    **{"hue": 0.1, "gamma": 0.5, "grayscale": 0.5, "blur": 1.0, "noise": 0.1},
}


@pytest.mark.skipif(BACKEND == "torch", reason="torch runs eagerly: there is no XLA to compile with")
def test_everything_compiles(rng):
    assert EVERYTHING.keys() == OFF.keys()
    inputs = keras.Input((9, 9, 3)), keras.Input((9, 9), dtype="uint8")
    model = keras.Model(inputs, Augmentation(**EVERYTHING)(*inputs))
    model.compile(jit_compile=True)
    image, mask = rng.integers(0, 256, (8, 9, 9, 3)).astype("uint8"), rng.integers(0, 3, (8, 9, 9)).astype("uint8")
    new_image, new_mask = model.predict_on_batch([image, mask])
    assert np.isfinite(new_image).all()
    assert 0 <= new_image.min() < new_image.max() <= 255
    assert set(np.unique(new_mask)) == {0, 1, 2, IGNORE}


def test_the_settings_of_older_files_are_enough():
    """A layer of version 0.2 has no settings but these."""
    old = {"flip": 0.5, "scale": [0.5, 1.0], "ratio": [0.75, 1.3333], "brightness": 0.1, "contrast": 0.2}
    layer = Augmentation.from_config({"name": "augmentation", "dtype": "float32", "seed": 3} | old)
    assert layer.settings["rotation"] == layer.settings["noise"] == 0


def test_what_is_switched_off_leaves_the_random_numbers_of_the_rest(rng):
    image = rng.integers(0, 256, (8, 9, 9, 3)).astype("uint8")
    mask = rng.integers(0, 256, (8, 9, 9)).astype("uint8")
    plain = run(Augmentation(seed=3), image, mask)
    turned = run(Augmentation(seed=3, vertical_flip=1e-9, rotate_90=1e-9, translation=1e-9), image, mask)
    np.testing.assert_array_equal(plain[1], turned[1])


def test_mask_and_image_are_cropped_and_flipped_alike():
    """A smooth image whose grey value is its mask: after the crop they must still agree."""
    ramp = np.add.outer(np.arange(48), np.arange(64) * 2).astype("float32")
    image = np.repeat(ramp[None, ..., None], 3, axis=3) * np.ones((16, 1, 1, 1), "float32")
    mask = np.broadcast_to(ramp.astype("uint8"), (16, 48, 64))
    new_image, new_mask = run(Augmentation(flip=0.5, scale=(0.3, 1.0), seed=4), image, mask)
    assert np.abs(new_image[..., 0] - new_mask).max() <= 1.51  # half a pixel of a slope of 2 + 1
    assert np.abs(new_mask - mask).max() > 20
    flipped = [np.diff(m.astype(int), axis=1).sum() < 0 for m in new_mask]
    assert 0 < sum(flipped) < 16


@slow_beyond_tensorflow
def test_crops_cover_the_share_of_the_area_that_is_asked_for():
    """On a ramp the spread of values along an axis is the length of the window."""
    ramp = np.tile(np.arange(100, dtype="float32"), (100, 1))
    image = np.stack([ramp, ramp.T, ramp], axis=-1)[None] * np.ones((400, 1, 1, 1), "float32")
    mask = np.zeros((400, 100, 100), "uint8")
    layer = Augmentation(flip=0.5, scale=(0.25, 0.5), ratio=(0.8, 1.25), seed=1)
    new, _ = run(layer, image, mask)
    # Two inner rows 80 pixels apart stand for a window 100/80 as long.
    width = np.abs(new[:, 50, 90, 0] - new[:, 50, 10, 0]) * 100 / 80
    height = np.abs(new[:, 90, 50, 1] - new[:, 10, 50, 1]) * 100 / 80
    area, ratio = width * height / 1e4, width / height
    assert 0.245 < area.min() < 0.28
    assert 0.47 < area.max() < 0.505
    assert 0.79 < ratio.min() < 0.83
    assert 1.2 < ratio.max() < 1.26


def test_no_new_class_ids_appear(rng):
    mask = rng.choice([0, 2, 255], (8, 31, 17)).astype("uint8")
    image = np.zeros((8, 31, 17, 3), "uint8")
    _, new_mask = run(Augmentation(scale=(0.2, 0.9)), image, mask)
    assert set(np.unique(new_mask)) == {0, 2, 255}


@pytest.mark.parametrize(
    ("setting", "low", "high"),
    [
        ({"brightness": 0.2}, 49, 151),
        ({"contrast": 0.5}, 49, 151),
        ({"saturation": 0.5}, 0, 255),
        ({"hue": 0.25}, 0, 255),
    ],
)
def test_colour_changes_image_not_mask_and_stays_in_range(setting, low, high):
    image = np.tile(np.array([[100, 100, 100], [200, 60, 30]], "uint8"), (64, 4, 3, 1)).reshape(64, 4, 6, 3)
    mask = np.arange(24, dtype="uint8").reshape(1, 4, 6) * np.ones((64, 1, 1), "uint8")
    new_image, new_mask = run(Augmentation(**OFF | setting), image, mask)
    np.testing.assert_array_equal(new_mask, mask)
    assert new_image.min() >= 0
    assert new_image.max() <= 255
    assert np.std(new_image[:, 0, 1, 1]) > 1, "images of a batch change differently"
    greys = new_image[:, 0, 0]
    assert greys.min() >= low - 60
    if "saturation" in setting or "hue" in setting:
        np.testing.assert_allclose(greys, 100, atol=1)  # grey has neither
    if "brightness" in setting:
        shift = greys[:, 0] - 100
        assert np.abs(shift).max() <= 0.2 * 255 + 0.01
        assert shift.min() < -20
        assert shift.max() > 20


@slow_beyond_tensorflow
def test_contrast_and_saturation_go_both_ways():
    """Keras' own single-number factors only raise contrast, and saturation only below one half lowers it."""
    image = np.zeros((200, 2, 2, 3), "uint8")
    image[:, 0], image[:, 1] = (150, 100, 100), (50, 100, 100)
    mask = np.zeros((200, 2, 2), "uint8")
    contrast, _ = run(Augmentation(**OFF | {"contrast": 0.4}), image, mask)
    spread = (contrast[:, 0, 0, 0] - contrast[:, 1, 0, 0]) / 100
    assert 0.6 <= spread.min() < 0.7
    assert 1.3 < spread.max() <= 1.4 + 1e-3
    saturation, _ = run(Augmentation(**OFF | {"saturation": 0.4}), image, mask)
    pixel = saturation[:, 0, 0]
    factor = (1 - pixel.min(-1) / pixel.max(-1)) / (1 - 100 / 150)
    assert 0.6 - 1e-3 <= factor.min() < 0.7
    assert 1.3 < factor.max() <= 1.4 + 1e-3


def test_saturation_is_that_of_keras(rng):
    images = np.concatenate(
        [rng.uniform(0, 1, (3, 5, 6, 3)), rng.integers(0, 2, (2, 5, 6, 3)), np.full((1, 5, 6, 3), 0.5)]
    )
    images, factors = images.astype("float32"), np.array([0, 0.5, 3, 0.5, 3, 3], "float32")
    transformation = {"factor": ops.convert_to_tensor(factors)}
    ours = Augmentation(**OFF | {"saturation": 0.5}).colour.random_saturation
    theirs = keras.layers.RandomSaturation(0.5, (0, 1), data_format="channels_last")
    found, expected = (
        ops.convert_to_numpy(layer.transform_images(ops.convert_to_tensor(images), transformation))
        for layer in (ours, theirs)
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_seed_decides(rng):
    image = rng.integers(0, 256, (4, 16, 16, 3)).astype("uint8")
    mask = rng.integers(0, 3, (4, 16, 16)).astype("uint8")
    settings = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1}
    a, b, c = (run(Augmentation(**settings, seed=seed), image, mask)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 1


def test_it_can_be_built_again_from_its_config():
    layer = Augmentation(scale=(0.4, 0.9), hue=0.1, seed=5)
    again = Augmentation.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()


GENERAL = EVERYTHING | {"saturation": 0.3, "hue": 0.1, "grayscale": 0.5}


def test_images_of_any_range_are_augmented_alike(rng):
    """The same images in another unit, with the moments in that unit, give the same result in that unit."""
    scale, offset = np.array([300.0, 0.5]), np.array([1000.0, -3.0])
    image = rng.normal(size=(6, 9, 9, 2)).astype("float32")
    mask = rng.integers(0, 3, (6, 9, 9)).astype("uint8")
    standard = run(Augmentation(seed=3, moments=([0, 0], [1, 1]), **GENERAL), image, mask)
    other = run(Augmentation(seed=3, moments=(offset, scale), **GENERAL), image * scale + offset, mask)
    np.testing.assert_allclose((other[0] - offset) / scale, standard[0], atol=1e-3)
    np.testing.assert_array_equal(other[1], standard[1])
    assert abs(standard[0] - image).max() > 0.1


@slow_beyond_tensorflow
def test_values_of_any_range_are_not_clipped_and_the_border_is_the_mean():
    image = np.full((16, 8, 8, 1), 1000.0, "float32")
    layer = Augmentation(**OFF | {"translation": 0.5}, seed=1, moments=([10.0], [2.0]))
    moved, mask = run(layer, image, np.zeros((16, 8, 8), "uint8"))
    np.testing.assert_allclose(moved[mask == 255], 10)
    np.testing.assert_allclose(moved[mask == 0], 1000, rtol=1e-6)
    assert set(np.unique(mask)) == {0, 255}


@pytest.mark.parametrize("name", ["brightness", "noise"])
def test_brightness_and_noise_are_shares_of_the_range_that_the_deviation_implies(name):
    """A deviation of 57.6 stands for that of photographs, whose range is 255."""
    image = np.zeros((400, 32, 32, 1), "float32")
    layer = Augmentation(**OFF | {name: 0.1}, seed=0, moments=([0.0], [57.6]))
    changed, _ = run(layer, image, np.zeros((400, 32, 32), "uint8"))
    if name == "brightness":
        assert 23 < abs(changed).max() <= 25.5
    else:
        assert 23 < changed.std((1, 2, 3)).max() < 28


@slow_beyond_tensorflow
def test_gamma_of_any_range_keeps_the_range_of_each_image(rng):
    image = rng.normal(5, 3, (4, 8, 8, 2)).astype("float32")
    layer = Augmentation(**OFF | {"gamma": 1.0}, seed=0, moments=([5.0, 5.0], [3.0, 3.0]))
    changed, _ = run(layer, image, np.zeros((4, 8, 8), "uint8"))
    for reduce in (np.min, np.max):
        np.testing.assert_allclose(reduce(changed, (1, 2)), reduce(image, (1, 2)), atol=1e-2)
    assert abs(changed - image).max() > 0.1
    order = np.argsort(image.reshape(4, 64, 2), 1)
    assert (np.diff(np.take_along_axis(changed.reshape(4, 64, 2), order, 1), axis=1) > -1e-3).all()


@pytest.mark.filterwarnings(r"error:`build\(\)` was called")  # for the layer of colours, which is not used
def test_images_of_any_range_compile(rng):
    inputs = keras.Input((9, 9, 5)), keras.Input((9, 9), dtype="uint8")
    layer = Augmentation(moments=([0.0] * 5, [1.0] * 5), **GENERAL)
    model = keras.Model(inputs, layer(*inputs))
    model.compile(jit_compile=BACKEND != "torch")  # which has no XLA
    image, mask = rng.normal(size=(8, 9, 9, 5)).astype("float32"), rng.integers(0, 3, (8, 9, 9)).astype("uint8")
    new_image, _ = model.predict_on_batch([image, mask])
    assert np.isfinite(new_image).all()
    assert new_image.shape == image.shape
    assert Augmentation.from_config(layer.get_config()).moments == layer.moments
