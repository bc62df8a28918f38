"""Drawn scenes."""

import numpy as np
import pytest
from scipy import ndimage

from unet import config, data
from unet.data.shapes import SIDE, draw_scene
from unet.errors import InputError

pytestmark = pytest.mark.backend_free


def scene(*seed):
    return draw_scene(np.random.default_rng(seed))


def test_a_seed_draws_the_same_scene_and_another_seed_another():
    image, mask = scene(0, 5)
    again, mask_again = scene(0, 5)
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(mask, mask_again)
    assert image.shape != scene(0, 6)[0].shape or (image != scene(0, 6)[0]).any()


def test_every_scene_has_a_pet_with_a_border_around_it():
    shares = []
    for index in range(30):
        image, mask = scene(1, index)
        assert image.dtype == mask.dtype == np.uint8
        assert image.shape[:2] == mask.shape
        assert SIDE[0] <= min(mask.shape)
        assert max(mask.shape) < SIDE[1]
        assert set(np.unique(mask)) == {0, 1, 2}
        # Pet and background never touch: the border lies between them.
        assert not (ndimage.binary_dilation(mask == 0, np.ones((3, 3))) & (mask == 1)).any()
        shares.append([(mask == c).mean() for c in range(3)])
    assert (np.mean(shares, axis=0) > 0.08).all()


def test_colour_alone_does_not_tell_pet_from_background():
    """A linear classifier on colour, fitted to the very pixels it is judged on, stays near chance."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score

    pixels, labels = [], []
    for index in range(40):
        image, mask = scene(2, index)
        chosen = np.random.default_rng(index).choice(np.flatnonzero(mask.ravel() < 2), 200)
        pixels.append(image.reshape(-1, 3)[chosen])
        labels.append(mask.ravel()[chosen])
    x, y = np.concatenate(pixels) / 255, np.concatenate(labels)
    fitted = LogisticRegression(class_weight="balanced").fit(x, y)
    assert balanced_accuracy_score(y, fitted.predict(x)) < 0.75


def test_the_source_splits_and_counts(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("data: {source: shapes, size: 32, shapes: {train: 20, test: 6}, validation: 0.2}\n")
    settings = config.load(path, [f"data.cache_dir={tmp_path}"]).data
    dataset = data.prepare(settings)
    assert [len(s) for s in (dataset.train, dataset.validation, dataset.test)] == [16, 4, 6]
    assert dataset.classes == data.class_names(settings) == ("pet", "background", "border")
    assert not dataset.problems
    only_test = list(data.make_source(settings).samples("test"))
    assert [sample.name for sample in only_test] == dataset.test.names


@pytest.mark.parametrize(("fraction", "count"), [(1.0, 41), (0.3334, 14), (0.5, 20), (0.01, 0)])
def test_a_fraction_of_the_training_images_is_the_same_for_every_seed(tmp_path, fraction, count):
    """41 training images: a third are 13.67, a half are 20.5, which rounds to even."""
    path = tmp_path / "s.yaml"
    path.write_text("data: {source: shapes, size: 16, shapes: {train: 46, test: 3}, validation: 0.1}\n")
    settings = [f"data.cache_dir={tmp_path}", f"data.train_fraction={fraction}"]
    if not count:
        with pytest.raises(InputError, match=r"data\.train_fraction: 0\.01 leaves none of the 41 training images"):
            data.prepare(config.load(path, settings).data)
        return
    whole = data.prepare(config.load(path, settings[:1]).data)
    one, other = (data.prepare(config.load(path, [*settings, f"seed={seed}"]).data) for seed in (0, 5))
    assert len(one.train) == len(one.train.images) == len(one.train.masks) == count
    assert one.train.names == other.train.names == [name for name in whole.train.names if name in one.train.names]
    rows = [whole.train.names.index(name) for name in one.train.names]
    np.testing.assert_array_equal(one.train.images, whole.train.images[rows])
    np.testing.assert_array_equal(one.train.masks, whole.train.masks[rows])
    for split in ("validation", "test"):
        assert getattr(one, split).names == getattr(whole, split).names
        np.testing.assert_array_equal(getattr(one, split).images, getattr(whole, split).images)
        np.testing.assert_array_equal(getattr(one, split).masks, getattr(whole, split).masks)
    if count < 20:  # a larger fraction holds a smaller one, and the first images of the split are not all of it
        more = data.prepare(config.load(path, [settings[0], "data.train_fraction=0.5"]).data)
        assert set(one.train.names) < set(more.train.names)
        assert rows != list(range(count))
