"""Depthwise convolution as a sum equals that of Keras on JAX."""

import numpy as np
import pytest
from keras import ops

from tests.helpers import BACKEND

if BACKEND != "jax":
    pytest.skip("the remedy is for JAX", allow_module_level=True)

import jax
from keras.src.backend.jax import nn

import unet.model  # noqa: F401  # which applies the remedies


@pytest.fixture
def without_remedy(monkeypatch):
    """Undo the remedy."""
    return lambda: monkeypatch.setattr(nn, "depthwise_conv", nn.depthwise_conv.__wrapped__)


def operations(x, kernel, **options):
    """Names of the operations that a convolution consists of."""
    program = jax.make_jaxpr(lambda x, kernel: ops.depthwise_conv(x, kernel, **options))(x, kernel)
    return [equation.primitive.name for equation in program.eqns]


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(
    ("size", "multiplier", "strides", "dilation"),
    [((3, 3), 1, 1, 1), ((5, 5), 1, 2, 1), ((3, 2), 2, (2, 2), 1), ((3, 3), 1, 1, (2, 2))],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.02)])
def test_values_and_gradients_are_those_of_keras(
    dtype, tolerance, size, multiplier, strides, dilation, padding, rng, without_remedy
):
    x, kernel = (jax.numpy.asarray(rng.normal(size=shape), dtype) for shape in ((2, 9, 12, 3), (*size, 3, multiplier)))
    options = {"strides": strides, "padding": padding, "dilation_rate": dilation, "data_format": "channels_last"}

    def values_and_gradients():
        y, pull = jax.vjp(lambda x, kernel: ops.depthwise_conv(x, kernel, **options), x, kernel)
        return [y, *pull(y)]

    found = values_and_gradients()
    assert "conv_general_dilated" not in operations(x, kernel, **options)
    without_remedy()
    assert "conv_general_dilated" in operations(x, kernel, **options)
    for one, expected in zip(found, values_and_gradients(), strict=True):
        assert (one.shape, one.dtype) == (expected.shape, expected.dtype)
        one, expected = (np.asarray(value, "float32") for value in (one, expected))
        np.testing.assert_allclose(one, expected, atol=tolerance * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize(
    ("shape", "kernel", "data_format"),
    [((1, 2, 9, 9), (3, 3, 2, 1), "channels_first"), ((1, 9, 9, 2), (9, 9, 2, 1), "channels_last")],
)
def test_others_are_left_to_keras(shape, kernel, data_format):
    x, kernel = jax.numpy.ones(shape), jax.numpy.ones(kernel)
    assert "conv_general_dilated" in operations(x, kernel, padding="same", data_format=data_format)


def test_gpus_convolve_themselves(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    x, kernel = jax.numpy.ones((1, 9, 9, 2)), jax.numpy.ones((3, 3, 2, 1))
    assert "conv_general_dilated" in operations(x, kernel, data_format="channels_last")
