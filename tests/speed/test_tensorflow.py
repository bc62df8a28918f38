"""Remedies for Keras on TensorFlow: batch normalization in one operation, convolutions in float32, and oneDNN."""

import platform
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from keras import layers

from tests.helpers import BACKEND, ROOT

if BACKEND != "tensorflow":
    pytest.skip("the remedies are for TensorFlow", allow_module_level=True)

import tensorflow as tf

import unet.model  # noqa: F401  # which applies the remedies
from unet.backend import emulates_bfloat16
from unet.speed import tensorflow as remedies

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


# === Convolutions in bfloat16 ===


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(
    ("kind", "kernel", "options"),
    [
        ("conv", (3, 3, 4, 6), {"padding": "same"}),
        ("conv", (3, 3, 4, 6), {"padding": "valid", "dilation_rate": 2}),
        ("depthwise_conv", (3, 3, 4, 2), {"padding": "same", "strides": 2}),
        ("conv_transpose", (3, 3, 6, 4), {"padding": "same", "strides": 2}),
    ],
)
def test_a_convolution_in_float32_is_rounded_and_so_are_its_gradients(
    kind, kernel, options, compiled, rng, monkeypatch
):
    monkeypatch.setattr(remedies, "emulates_bfloat16", lambda: True)
    inputs = [tf.cast(rng.normal(size=shape), "bfloat16") for shape in ((2, 9, 7, 4), kernel)]

    def values_and_gradients(dtype):
        def passes(*inputs):
            inputs = [tf.cast(one, dtype) for one in inputs]
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                y = getattr(keras.ops, kind)(*inputs, data_format="channels_last", **options)
            upstream = tf.cast(tf.reshape(tf.range(tf.size(y)) % 8, tf.shape(y)), dtype)
            return [y, *tape.gradient(y, inputs, upstream)]

        return (tf.function(passes) if compiled else passes)(*inputs)

    for found, expected in zip(values_and_gradients("bfloat16"), values_and_gradients("float32"), strict=True):
        assert found.dtype == "bfloat16"
        expected = tf.cast(expected, "bfloat16")
        np.testing.assert_allclose(tf.cast(found, "float32"), tf.cast(expected, "float32"), rtol=1 / 128, atol=1e-5)


def test_layers_get_gradients_in_float32_in_mixed_precision(monkeypatch):
    monkeypatch.setattr(remedies, "emulates_bfloat16", lambda: True)
    layer = layers.Conv2D(4, 3, dtype="mixed_bfloat16")
    with tf.GradientTape() as tape:
        y = layer(tf.ones((1, 4, 4, 2)))
    slope, _ = tape.gradient(y, [variable.value for variable in layer.trainable_variables])
    assert (y.dtype, slope.dtype) == ("bfloat16", "float32")
    np.testing.assert_array_equal(slope, np.full(layer.kernel.shape, 4.0))


def test_convolutions_are_in_float32_only_where_bfloat16_is_slow(monkeypatch):
    def types(slow, jit=False):
        monkeypatch.setattr(remedies, "emulates_bfloat16", lambda: slow)
        x, kernel = tf.ones((1, 4, 4, 2), "bfloat16"), tf.ones((3, 3, 2, 2), "bfloat16")
        function = tf.function(lambda: keras.ops.conv(x, kernel, data_format="channels_last"), jit_compile=jit)
        graph = function.get_concrete_function().graph
        return {one.outputs[0].dtype.name for one in graph.get_operations() if one.type == "Conv2D"}

    assert types(True) == {"float32"}
    assert types(False) == types(True, jit=True) == {"bfloat16"}


@pytest.mark.slow
@pytest.mark.skipif(not emulates_bfloat16(), reason="this processor convolves in bfloat16")
def test_bfloat16_is_still_slow_on_this_processor(monkeypatch):
    """If this fails, the remedy can be deleted."""
    x, kernel = tf.ones((8, 64, 64, 32), "bfloat16"), tf.ones((3, 3, 32, 32), "bfloat16")

    @tf.function
    def slopes(x, kernel):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = keras.ops.conv(x, kernel, padding="same", data_format="channels_last")
        return tape.gradient(y, [x, kernel])

    def seconds():
        slopes(x, kernel)
        start = time.perf_counter()
        slopes(x, kernel)[0].numpy()
        return time.perf_counter() - start

    remedied = seconds()
    monkeypatch.setattr(remedies, "emulates_bfloat16", lambda: False)
    slopes = tf.function(slopes.python_function)
    assert seconds() > 2 * remedied


def operations(model, options):
    """Number of fused batch normalizations in the graph of a call."""
    call = tf.function(lambda pixels: model(pixels, **options))
    graph = call.get_concrete_function(tf.zeros((1, 4, 4, 5))).graph
    return sum(operation.type == "FusedBatchNormV3" for operation in graph.get_operations())
