"""Batch normalization in one operation equals that of Keras."""

import platform
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

from tests.helpers import BACKEND, ROOT

if BACKEND != "tensorflow":
    pytest.skip("the remedies are for TensorFlow", allow_module_level=True)

import tensorflow as tf

import unet.model  # noqa: F401  # which applies the remedies

ASK = """
from unet.backend import use_backend

use_backend()
from tensorflow.python.util import _pywrap_util_port

print(_pywrap_util_port.IsMklEnabled())
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="oneDNN is for x86")
@pytest.mark.parametrize(("chosen", "expected"), [(None, "True"), ("0", "False")])
def test_onednn_is_used_on_every_processor_unless_the_user_says_otherwise(chosen, expected, monkeypatch):
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    if chosen:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", chosen)
    done = subprocess.run([sys.executable, "-c", ASK], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"{expected}\n", "")


@pytest.fixture
def without_remedy(monkeypatch):
    """Undo the remedy."""
    call = layers.BatchNormalization.call
    return lambda: monkeypatch.setattr(layers.BatchNormalization, "call", call.__wrapped__)


def network(dtype):
    """Two batch normalizations around a convolution, in maps of any size, with the same random weights every time."""
    pixels = keras.Input((None, None, 5))
    x = layers.BatchNormalization(momentum=0.9, dtype=dtype, name="first")(pixels)
    x = layers.Conv2D(4, 3, padding="same", dtype=dtype, name="convolution")(x)
    x = layers.BatchNormalization(momentum=0.8, epsilon=1e-2, dtype=dtype, name="second")(x)
    model = keras.Model(pixels, x)
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in model.get_weights()])
    return model


def trained_step(model, pixels):
    """Output and gradients of one training step, and the weights after it, all float32."""

    @tf.function
    def step(pixels):
        with tf.GradientTape() as tape:
            tape.watch(pixels)
            y = tf.cast(model(pixels, training=True), "float32")
            loss = tf.reduce_sum(y * tf.sin(3 * y + tf.range(4, dtype="float32")))
        variables = [variable.value for variable in model.trainable_variables]
        return [y, *tape.gradient(loss, [pixels, *variables])]

    return [np.asarray(value) for value in step(tf.constant(pixels))], model.get_weights()


@pytest.mark.parametrize("size", [(3, 7, 9), (2, 16, 8), (1, 1, 1)])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("mixed_bfloat16", 0.05), ("mixed_float16", 0.01)])
def test_a_step_is_that_of_keras(dtype, tolerance, size, rng, without_remedy):
    pixels = rng.normal(3, 2, (*size, 5)).astype("float32")
    found, new = trained_step(network(dtype), pixels)
    without_remedy()
    expected, weights = trained_step(network(dtype), pixels)
    for a, b in zip([*expected, *weights], [*found, *new], strict=True):
        np.testing.assert_allclose(b, a, atol=tolerance * max(1, np.abs(a).max()), rtol=0)


@pytest.mark.parametrize(
    ("change", "options", "expected"),
    [
        ({}, {"training": True}, 2),
        ({}, {"training": False}, 0),
        ({"trainable": False}, {"training": True}, 0),
        ({"dtype": "float64"}, {"training": True}, 0),
    ],
)
def test_the_operation_is_used_in_training(change, options, expected, without_remedy):
    model = network(change.get("dtype", "float32"))
    model.trainable = change.get("trainable", True)
    assert operations(model, options) == expected
    without_remedy()
    assert operations(model, options) == 0  # as soon as Keras uses the operation itself, the remedy can be deleted


def test_xla_fuses_the_passes_itself():
    model = network("float32")
    step = tf.function(lambda pixels: model(pixels, training=True), jit_compile=True)
    names = [operation.type for operation in step.get_concrete_function(tf.zeros((1, 4, 4, 5))).graph.get_operations()]
    assert names
    assert "FusedBatchNormV3" not in names


def operations(model, options):
    """Number of fused batch normalizations in the graph of a call."""
    call = tf.function(lambda pixels: model(pixels, **options))
    graph = call.get_concrete_function(tf.zeros((1, 4, 4, 5))).graph
    return sum(operation.type == "FusedBatchNormV3" for operation in graph.get_operations())
