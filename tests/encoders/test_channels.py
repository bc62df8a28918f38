"""Encoders on images with other channels than red, green and blue: normalization, and pretrained kernels."""

import keras
import numpy as np
import pytest
from keras import ops

from tests.helpers import SLOW_BEYOND_TENSORFLOW
from tests.helpers.encoders import randomize
from unet import encoders
from unet.encoders.base import GREY_DEVIATION, GREY_MEAN
from unet.encoders.weights import assign_pretrained, for_channels, is_encoder
from unet.model import build_unet

pytestmark = SLOW_BEYOND_TENSORFLOW


def network(encoder, channels, moments=None, **options):
    return build_unet(
        2, encoder=encoder, width=4, depth=2, input_shape=(None, None, channels), moments=moments, **options
    )


def of_grey(channels):
    return [GREY_MEAN] * channels, [GREY_DEVIATION] * channels


def encoder_weights(net):
    return {layer.name: layer.get_weights() for layer in net.layers if is_encoder(layer) and layer.weights}


def features(net, image):
    """The deepest feature map of the encoder."""
    last = [layer for layer in net.layers if is_encoder(layer)][-1]
    return ops.convert_to_numpy(keras.Model(net.input, last.output)(image, training=False))


@pytest.mark.parametrize("encoder", [name for name, entry in encoders.ENCODERS.items() if entry.pretrained])
def test_colours_given_twice_have_the_features_of_colours(encoder, rng):
    rgb, twice = network(encoder, 3), network(encoder, 6, of_grey(6))
    randomize(rgb, rng)
    assign_pretrained(twice, encoder_weights(rgb))
    image = rng.uniform(0, 255, (1, 24, 20, 3)).astype("float32")
    expected = features(rgb, image)
    np.testing.assert_allclose(
        features(twice, np.concatenate([image, image], -1)), expected, rtol=1e-3, atol=1e-4 * abs(expected).max()
    )


def test_grey_has_the_features_of_grey_colours(rng):
    rgb, grey = network("efficientnet_lite0", 3), network("efficientnet_lite0", 1, of_grey(1))
    randomize(rgb, rng)
    assign_pretrained(grey, encoder_weights(rgb))
    image = rng.uniform(0, 255, (1, 24, 20, 1)).astype("float32")
    expected = features(rgb, np.repeat(image, 3, -1))
    np.testing.assert_allclose(features(grey, image), expected, rtol=1e-3, atol=1e-4 * abs(expected).max())


@pytest.mark.parametrize("encoder", ["plain", "efficientnet_lite0", "resnet50", "efficientnet_v2_b0"])
@pytest.mark.parametrize(
    "precision", ["mixed_float16", *(pytest.param(p, marks=pytest.mark.slow) for p in ("float32", "mixed_bfloat16"))]
)
def test_logits_do_not_depend_on_the_unit_of_the_pixels(encoder, precision, rng):
    """16-bit values as large as float16 cannot hold, and the same in another unit, even under low precision."""
    scale, offset = np.array([300.0, 1e-3, 7.0, 50.0, 1.0]), np.array([65535.0, -2.0, 1e5, 0.0, 3.0])
    image = rng.normal(size=(2, 16, 16, 5))
    first = network(encoder, 5, ([0.0] * 5, [1.0] * 5), dtype=precision)
    second = network(encoder, 5, (offset, scale), dtype=precision)
    second.set_weights(first.get_weights())
    expected = ops.convert_to_numpy(first(image.astype("float32"), training=False))
    found = ops.convert_to_numpy(second((image * scale + offset).astype("float32"), training=False))
    assert np.isfinite(expected).all()
    bound = 2e-2 if precision == "float32" else 0.1  # float32 holds 65535 ± 300 to 0.004 only
    np.testing.assert_allclose(found, expected, atol=bound * abs(expected).max())


def test_kernels_are_those_of_the_usual_rule(rng):
    kernel = rng.normal(size=(3, 3, 3, 8))
    np.testing.assert_allclose(for_channels(kernel, 1)[:, :, 0], kernel[:, :, 0] + kernel[:, :, 1] + kernel[:, :, 2])
    five = for_channels(kernel, 5)
    for channel, source in enumerate((0, 1, 2, 0, 1)):
        np.testing.assert_allclose(five[:, :, channel], 0.6 * kernel[:, :, source])


def test_moments_must_fit_the_channels():
    with pytest.raises(ValueError, match="moments must be given for each of the 4 channels"):
        network("plain", 4)
    with pytest.raises(ValueError, match="moments must be given for each of the 4 channels"):
        network("plain", 4, of_grey(3))
