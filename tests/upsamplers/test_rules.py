"""Each upsampler's own mathematics, against PyTorch and the seed documents."""

import keras
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from keras import ops

from tests.gradients import gradient
from unet.upsamplers import Bilinear, ConvTranspose, MaxPoolWithArgmax, MaxUnpool, Nearest


def nchw(x):
    return torch.tensor(np.asarray(x)).permute(0, 3, 1, 2)


def nhwc(x):
    return x.permute(0, 2, 3, 1).detach().numpy()


def values(x):
    return ops.convert_to_numpy(x)


def test_nearest_equals_torch(rng):
    x = rng.normal(size=(2, 5, 7, 3)).astype("float32")
    np.testing.assert_array_equal(values(Nearest()(x)), nhwc(F.interpolate(nchw(x), scale_factor=2)))


def test_nearest_unpooling_of_the_seed_document():
    x = np.array([[1.0, 2], [3, 4]], "float32").reshape(1, 2, 2, 1)
    expected = [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    np.testing.assert_array_equal(values(Nearest()(x))[0, ..., 0], expected)


@pytest.mark.parametrize("align_corners", [False, True])
def test_bilinear_equals_torch(rng, align_corners):
    x = rng.normal(size=(2, 5, 7, 3)).astype("float32")
    theirs = F.interpolate(nchw(x), scale_factor=2, mode="bilinear", align_corners=align_corners)
    np.testing.assert_allclose(values(Bilinear(align_corners=align_corners)(x)), nhwc(theirs), atol=2e-6)


def test_conv_transpose_equals_torch(rng):
    x = rng.normal(size=(2, 5, 7, 3)).astype("float32")
    layer = ConvTranspose(4)
    ours = values(layer(x))
    kernel, bias = (torch.tensor(w) for w in layer.projection.get_weights())  # (k, k, out, in)
    theirs = F.conv_transpose2d(nchw(x), kernel.permute(3, 2, 0, 1), bias, stride=2)
    np.testing.assert_allclose(ours, nhwc(theirs), atol=1e-5)


def test_conv_transpose_needs_filters():
    with pytest.raises(ValueError, match="give filters"):
        ConvTranspose()


def test_max_unpooling_of_the_seed_document():
    x = np.arange(1, 17, dtype="float32").reshape(1, 4, 4, 1)
    pooled, argmax = MaxPoolWithArgmax()(x)
    np.testing.assert_array_equal(values(pooled)[0, ..., 0], [[6, 8], [14, 16]])
    np.testing.assert_array_equal(values(argmax)[0, ..., 0], [[5, 7], [13, 15]])
    expected = [[0, 0, 0, 0], [0, 6, 0, 8], [0, 0, 0, 0], [0, 14, 0, 16]]
    np.testing.assert_array_equal(values(MaxUnpool()(pooled, argmax=argmax))[0, ..., 0], expected)


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (1, 1), (1, 2), (37, 53)])
@pytest.mark.parametrize("kind", ["normal", "ties", "negative"])
def test_pool_and_unpool_equal_torch(rng, size, kind):
    """With ties (the first in row-major order counts), negative values, and odd sizes (torch's ceil_mode)."""
    x = rng.normal(size=(2, *size, 3)).astype("float32")
    if kind == "ties":
        x = rng.integers(0, 3, size=x.shape).astype("float32")
    if kind == "negative":
        x = -np.abs(x) - 1
    pooled, argmax = MaxPoolWithArgmax()(x)
    theirs, indices = F.max_pool2d(nchw(x), 2, ceil_mode=True, return_indices=True)
    np.testing.assert_array_equal(values(pooled), nhwc(theirs))
    np.testing.assert_array_equal(values(argmax), nhwc(indices))
    unpooled = F.max_unpool2d(theirs, indices, 2, output_size=size)
    np.testing.assert_array_equal(values(MaxUnpool()(pooled, x, argmax)), nhwc(unpooled))


def test_gradient_of_pool_and_unpool_equals_torch(rng):
    x = rng.normal(size=(2, 5, 7, 3)).astype("float32")
    weights = rng.normal(size=x.shape).astype("float32")

    def ours(x):
        pooled, argmax = MaxPoolWithArgmax()(x)
        return ops.sum(ops.square(MaxUnpool()(pooled, x, argmax)) * ops.convert_to_tensor(weights))

    tensor = nchw(x).requires_grad_()
    pooled, indices = F.max_pool2d(tensor, 2, ceil_mode=True, return_indices=True)
    (F.max_unpool2d(pooled, indices, 2, output_size=(5, 7)) ** 2 * nchw(weights)).sum().backward()
    np.testing.assert_allclose(gradient(ours, x), nhwc(tensor.grad), atol=1e-5)


def test_max_unpool_says_what_it_needs(rng):
    x = np.zeros((1, 2, 2, 3), "float32")
    with pytest.raises(ValueError, match="argmax of MaxPoolWithArgmax"):
        MaxUnpool()(x)
    _, argmax = MaxPoolWithArgmax()(np.zeros((1, 4, 4, 5), "float32"))
    with pytest.raises(ValueError, match="filters must be 5"):
        MaxUnpool(4)(x, argmax=argmax)


def test_activation_comes_after_the_rule(rng):
    x = rng.normal(size=(1, 3, 3, 2)).astype("float32")
    linear, relu = Bilinear(4), Bilinear(4, activation="relu")
    linear(x), relu(x)
    relu.set_weights(linear.get_weights())
    np.testing.assert_allclose(values(relu(x)), np.maximum(values(linear(x)), 0), atol=1e-6)
    assert keras.activations.serialize(relu.activation) == "relu"
