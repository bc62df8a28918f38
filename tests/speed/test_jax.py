"""Remedies for JAX have the results of Keras, and Keras still needs them."""

import importlib.metadata
import subprocess
import sys

import numpy as np
import pytest
from keras import ops

from tests.helpers import BACKEND, ROOT

if BACKEND != "jax":
    pytest.skip("the remedy is for JAX", allow_module_level=True)

import jax
import keras
from keras.src.backend.jax import nn, random
from keras.src.metrics import iou_metrics
from keras.src.optimizers import base_optimizer

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


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 8])
def test_gpus_count_a_confusion_matrix_by_comparisons(classes, weighted, rng, monkeypatch):
    labels, predictions = (jax.numpy.asarray(rng.integers(0, classes, 500), "float32") for _ in range(2))
    weights = jax.numpy.asarray(rng.integers(0, 2, 500), "float32") if weighted else None
    count = iou_metrics.confusion_matrix
    expected = count.__wrapped__(labels, predictions, classes, weights, "float32")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    found = count(labels, predictions, classes, weights=weights, dtype="float32")
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("platform", "classes"), [("cpu", 3), ("gpu", 9)])
def test_other_confusion_matrices_are_left_to_keras(platform, classes, rng, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    labels = jax.numpy.asarray(rng.integers(0, classes, 50))
    program = jax.make_jaxpr(lambda x: iou_metrics.confusion_matrix(x, x, classes))(labels)
    assert "scatter" in str(program)


def fit_twice():
    """Train a model with weight averaging two times."""
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1, use_ema=True), "mse", jit_compile=True)
    for _ in range(2):
        model.fit(np.ones((4, 2)), np.ones((4, 1)), epochs=1, verbose=0)
    return model


def test_a_model_with_averaged_weights_can_be_trained_again(monkeypatch):
    model = fit_twice()
    averages = model.optimizer._model_variables_moving_average
    for variable, average in zip(model.trainable_variables, averages, strict=True):
        np.testing.assert_array_equal(variable, average)
    name = "_overwrite_model_variables_with_average_value"
    overwrite = getattr(base_optimizer.BaseOptimizer, name)
    monkeypatch.setattr(base_optimizer.BaseOptimizer, name, overwrite.__wrapped__)
    with pytest.raises(Exception):  # noqa: B017, PT011  # once Keras copies, the remedy can go
        fit_twice()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(), (7,), (3, 3, 8, 16), (1025, 3), (0, 4)])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [("normal", {"mean": 1.0, "stddev": 0.3}), ("truncated_normal", {"stddev": 0.1}), ("uniform", {"minval": -2.0})],
)
def test_random_numbers_are_those_of_keras(name, arguments, shape, dtype):
    keras_draw, own = getattr(random, name).__wrapped__, getattr(keras.random, name)
    for seeds in ((5, 5), (keras.random.SeedGenerator(5), keras.random.SeedGenerator(5))):
        for _ in range(2):
            one, expected = (
                draw(shape, **arguments, dtype=dtype, seed=seed) for draw, seed in zip((own, keras_draw), seeds)
            )
            assert (one.shape, one.dtype) == (shape, dtype)
            np.testing.assert_array_equal(np.asarray(one), np.asarray(expected))


def test_compiled_functions_draw_random_numbers_as_keras_does():
    def draw(key):
        return random.truncated_normal((3, 5), seed=key), random.truncated_normal((3, 5), seed=5)

    for found, seed in zip(jax.jit(draw)(jax.random.PRNGKey(7)), (jax.random.PRNGKey(7), 5), strict=True):
        np.testing.assert_allclose(found, random.truncated_normal((3, 5), seed=seed), atol=1e-6)


def test_weights_of_all_shapes_are_drawn_with_the_same_compiled_function(monkeypatch):
    shapes = []
    draw = jax.random.truncated_normal
    monkeypatch.setattr(
        jax.random, "truncated_normal", lambda *args, **kw: shapes.append(kw["shape"]) or draw(*args, **kw)
    )
    for shape in ((3, 3, 4, 9), (3, 3, 9, 9), (1, 1, 9, 7)):
        keras.initializers.HeNormal(seed=1)(shape)
    assert shapes == 3 * [(1024,)]
    random.truncated_normal.__wrapped__((3, 3, 4, 9), seed=1)
    assert shapes[-1] == (3, 3, 4, 9)  # once Keras draws in one dimension, the remedy can go


KEPT = """
import sys
sys.path.insert(0, {plugin!r})
from unet.backend import use_backend

use_backend()
import jax

print(jax.config.jax_compilation_cache_dir)
jax.block_until_ready(jax.jit(lambda x: [jax.numpy.sort(x * i) for i in range(100)])(jax.numpy.ones(3)))
"""
"""Program that compiles something for much more than a tenth of a second."""


@pytest.mark.parametrize(
    ("accelerated", "settings", "expected"),
    [
        (True, {}, "home/.cache/unet-upsamplers/xla"),
        (True, {"JAX_COMPILATION_CACHE_DIR": "elsewhere"}, "elsewhere"),
        (True, {"JAX_PLATFORMS": "cpu"}, None),
        (False, {}, None),
    ],
)
def test_compiled_programs_are_kept_for_later_processes(accelerated, settings, expected, tmp_path, monkeypatch):
    if not accelerated and importlib.metadata.entry_points(group="jax_plugins"):
        pytest.skip("JAX is installed with a plugin for an accelerator")
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PLATFORMS", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name, value in settings.items():
        monkeypatch.setenv(name, str(tmp_path / value) if name.endswith("DIR") else value)
    # As jax[cuda13] installs it.
    plugin = tmp_path / "plugin"
    (plugin / "other-1.0.dist-info").mkdir(parents=True)
    (plugin / "other-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    if accelerated:
        (plugin / "other-1.0.dist-info" / "entry_points.txt").write_text("[jax_plugins]\nother = other_plugin\n")
    (plugin / "other_plugin.py").write_text("def initialize():\n    pass\n")

    def kept():
        program = [sys.executable, "-c", KEPT.format(plugin=str(plugin))]
        done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
        assert done.stdout == f"{expected and tmp_path / expected}\n", done.stderr
        return {file: file.stat().st_mtime_ns for file in (tmp_path / expected).iterdir()} if expected else {}

    first = kept()
    assert bool(first) == bool(expected)
    assert kept() == first
