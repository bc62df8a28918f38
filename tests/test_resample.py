"""Interpolation matrices against PyTorch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from keras import ops
from scipy import ndimage

from unet import resample


def torch_resize(x, size, **options):
    nchw = torch.tensor(x).permute(0, 3, 1, 2)
    return F.interpolate(nchw, size=size, **options).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(8, 10), (12, 15), (7, 11), (4, 5), (1, 1), (2, 31)])
def test_linear_resize_equals_torch(rng, size, align_corners):
    x = rng.normal(size=(2, 4, 5, 3)).astype("float32")
    ours = ops.convert_to_numpy(resample.resize(x, *size, "linear", align_corners))
    theirs = torch_resize(x, size, mode="bilinear", align_corners=align_corners)
    np.testing.assert_allclose(ours, theirs, atol=2e-6)


@pytest.mark.parametrize("size", [(8, 10), (12, 15), (7, 11), (3, 2), (1, 1)])
def test_nearest_resize_equals_torch(rng, size):
    x = rng.normal(size=(2, 4, 5, 3)).astype("float32")
    ours = ops.convert_to_numpy(resample.resize(x, *size, "nearest"))
    np.testing.assert_array_equal(ours, torch_resize(x, size, mode="nearest-exact"))


def test_seed_document_example_bilinear_with_aligned_corners():
    """[[6, 10], [9, 12]] to 4×4, as printed in the second seed document."""
    x = np.array([[6.0, 10], [9, 12]], "float32").reshape(1, 2, 2, 1)
    expected = [
        [6.0, 7.3333, 8.6667, 10.0],
        [7.0, 8.2222, 9.4444, 10.6667],
        [8.0, 9.1111, 10.2222, 11.3333],
        [9.0, 10.0, 11.0, 12.0],
    ]
    y = ops.convert_to_numpy(resample.resize(x, 4, 4, "linear", align_corners=True))[0, ..., 0]
    np.testing.assert_allclose(y, expected, atol=1e-4)


@pytest.mark.parametrize("weights", [resample.linear_weights, resample.nearest_weights])
def test_rows_sum_to_one_with_at_most_two_entries_even_outside_the_image(weights):
    rows = ops.convert_to_numpy(weights(np.linspace(-3, 9, 50).astype("float32"), 6))
    np.testing.assert_allclose(rows.sum(1), 1, atol=1e-6)
    assert ((rows > 1e-6).sum(1) <= 2).all()


def test_a_window_crops_and_a_negative_extent_flips():
    x = np.arange(6, dtype="float32").reshape(1, 1, 6, 1) * np.ones((2, 1, 1, 1), "float32")
    start, extent = np.array([1, 5], "float32"), np.array([4, -4], "float32")
    columns = resample.nearest_weights(resample.crop_positions(start, extent, 4), 6)
    rows = np.ones((2, 1, 1), "float32")
    y = ops.convert_to_numpy(resample.resample(x, rows, columns))[:, 0, :, 0]
    np.testing.assert_array_equal(y, [[1, 2, 3, 4], [4, 3, 2, 1]])


def test_a_window_of_half_the_size_equals_torch_on_the_cropped_image(rng):
    """Inside the window the two agree; at its edge torch clamps to the crop, we look beyond it."""
    x = rng.normal(size=(1, 16, 16, 2)).astype("float32")
    start, extent = np.array([4], "float32"), np.array([8], "float32")
    weights = resample.linear_weights(resample.crop_positions(start, extent, 16), 16)
    ours = ops.convert_to_numpy(resample.resample(x, weights, weights))
    theirs = torch_resize(x[:, 4:12, 4:12], (16, 16), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(ours[:, 1:-1, 1:-1], theirs[:, 1:-1, 1:-1], atol=2e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"height": 0}, "height must be a whole number ≥ 1, received 0"),
        ({"width": 2.0}, "width must be a whole number ≥ 1, received 2.0"),
        ({"method": "lanczos"}, "method must be one of linear, cubic, nearest, received 'lanczos'"),
        ({"align_corners": "no"}, "align_corners must be True or False, received 'no'"),
        ({"x": np.zeros((1, 0, 5, 2), "float32")}, "rows of x must be a whole number ≥ 1, received 0"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        resample.resize(**{"x": np.zeros((1, 4, 5, 2), "float32"), "height": 3, "width": 4} | arguments)


@pytest.mark.parametrize("dtype", ["uint8", "bool"])
def test_integers_are_interpolated_in_float32(rng, dtype):
    x = rng.integers(0, 2, (1, 4, 5, 2)).astype(dtype)
    for function in (lambda x: resample.resize(x, 8, 10), resample.double):
        ours = ops.convert_to_numpy(function(x))
        assert ours.dtype == "float32"
        np.testing.assert_array_equal(ours, ops.convert_to_numpy(function(x.astype("float32"))))


def test_a_map_without_pixels_cannot_be_doubled():
    with pytest.raises(
        ValueError, match=r"x must have at least one pixel and channel, received the shape \(1, 0, 5, 2\)"
    ):
        resample.double(np.zeros((1, 0, 5, 2), "float32"))


@pytest.mark.parametrize(("method", "order"), [("linear", 1), ("nearest", 0)])
def test_samples_at_any_position_equal_scipys(rng, method, order):
    x = rng.normal(size=(2, 7, 5, 3)).astype("float32")
    rows, columns = rng.uniform(-2, 9, (2, 4, 6)).astype("float32"), rng.uniform(-2, 7, (2, 4, 6)).astype("float32")
    found = ops.convert_to_numpy(resample.sample(x, rows, columns, method))
    for image in range(2):
        for channel in range(3):
            expected = ndimage.map_coordinates(
                x[image, ..., channel], [rows[image], columns[image]], order=order, mode="nearest"
            )
            np.testing.assert_allclose(found[image, ..., channel], expected, atol=1e-5)


def test_a_blur_has_rows_that_sum_to_one_and_the_deviation_that_is_asked_for():
    weights = ops.convert_to_numpy(resample.gaussian_weights(np.array([0, 2], "float32"), 41))
    np.testing.assert_allclose(weights[0], np.eye(41), atol=1e-6)
    np.testing.assert_allclose(weights[1].sum(-1), 1, atol=1e-6)
    distance = np.arange(41) - 20
    assert (weights[1, 20] @ distance**2) == pytest.approx(4, rel=1e-3)
