"""Remedies for JAX have the results of Keras, and Keras still needs them."""

import importlib.metadata
import os
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
from unet import backend


@pytest.fixture
def without_remedy(monkeypatch):
    """Undo the remedy."""
    return lambda: monkeypatch.setattr(nn, "depthwise_conv", nn.depthwise_conv.__wrapped__)


def own_and_keras(name, call, *arguments):
    """Values and gradients of ``call(*arguments)``, and the program, with the remedy of ``nn.NAME`` and without."""

    def both(*arguments):
        y, pull = jax.vjp(lambda *a: call(*a), *arguments)
        return y, pull(jax.tree.map(lambda one: np.cos(np.arange(one.size)).reshape(one.shape).astype(one.dtype), y))

    own, found = getattr(nn, name), []
    for function in (own, own.__wrapped__):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(nn, name, function)
            program = jax.make_jaxpr(lambda *a: both(*a))(*arguments)  # new functions: JAX keeps their programs
            found.append((jax.tree.leaves(jax.jit(lambda *a: both(*a))(*arguments)), str(program)))
    return found


def assert_close(found, expected, tolerance):
    for one, other in zip(found, expected, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        one, other = (np.asarray(value, "float32") for value in (one, other))
        np.testing.assert_allclose(one, other, atol=tolerance * np.abs(other).max(), rtol=0)


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
    assert_close(found, values_and_gradients(), tolerance)


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


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.02)])
@pytest.mark.parametrize(("platform", "outputs"), [("cpu", 24), ("gpu", 3)])
def test_a_1x1_convolution_is_a_product_with_the_values_and_gradients_of_keras(
    platform, outputs, dtype, tolerance, rng, monkeypatch
):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    x, kernel = (jax.numpy.asarray(rng.normal(size=shape), dtype) for shape in ((2, 5, 7, 6), (1, 1, 6, outputs)))
    (found, program), (expected, other) = own_and_keras(
        "conv", lambda x, kernel: ops.conv(x, kernel, padding="same", data_format="channels_last"), x, kernel
    )
    assert "conv_general_dilated" not in program
    assert "conv_general_dilated" in other
    assert_close(found, expected, tolerance)


@pytest.mark.parametrize(
    ("platform", "shape", "kernel", "options"),
    [
        ("gpu", (1, 4, 4, 3), (1, 1, 3, 17), {}),  # many outputs
        ("cpu", (1, 4, 4, 3), (3, 3, 3, 5), {}),
        ("cpu", (1, 4, 4, 3), (1, 1, 3, 5), {"strides": 2}),
        ("cpu", (1, 4, 4, 6), (1, 1, 3, 4), {}),  # in groups
        ("cpu", (1, 3, 4, 4), (1, 1, 3, 5), {"data_format": "channels_first"}),
    ],
)
def test_other_convolutions_are_left_to_keras(platform, shape, kernel, options, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    options = {"data_format": "channels_last"} | options
    program = jax.make_jaxpr(lambda x, kernel: ops.conv(x, kernel, **options))(np.ones(shape), np.ones(kernel))
    assert "conv_general_dilated" in str(program)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("size", [2, (2, 2), (3, 2), (1, 4)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_max_pooling_has_the_bits_of_keras_and_gives_the_gradient_to_the_first_maximum(dtype, size, padding, rng):
    """Most windows have several equal maxima."""
    x = jax.numpy.asarray(rng.integers(-1, 2, size=(2, 7, 10, 3)), dtype)
    (found, program), (expected, other) = own_and_keras(
        "max_pool", lambda x: ops.max_pool(x, size, size, padding, data_format="channels_last"), x
    )
    assert "select_and_scatter" not in program
    assert "select_and_scatter" in other  # once Keras has a faster gradient, the remedy can go
    assert_close(found, expected, 0)


def test_max_pooling_is_differentiated_forwards_too(rng):
    x, direction = rng.normal(size=(2, 1, 6, 4, 2)).astype("float32")

    def total(x):
        return jax.numpy.sum(ops.max_pool(x, 2, data_format="channels_last") ** 2)

    slope = jax.jvp(total, (x,), (direction,))[1]
    assert slope == pytest.approx(float(np.sum(jax.grad(total)(x) * direction)), rel=1e-5)


def test_max_pooling_of_a_map_smaller_than_the_window_is_that_of_keras(rng):
    x = jax.numpy.asarray(rng.normal(size=(1, 1, 5, 2)), "float32")
    for padding, size in (("same", (1, 1, 3, 2)), ("valid", (1, 0, 2, 2))):
        found = ops.max_pool(x, 2, padding=padding, data_format="channels_last")
        assert found.shape == size
        expected = nn.max_pool.__wrapped__(x, 2, 2, padding, data_format="channels_last")
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("shape", "dtype", "size", "options"),
    [
        ((1, 6, 6, 2), "float32", 3, {"strides": 2}),  # overlapping
        ((1, 6, 6, 2), "float32", 5, {}),  # large
        ((1, 2, 6, 6), "float32", 2, {"data_format": "channels_first"}),
        ((1, 6, 6, 6, 2), "float32", 2, {}),
        ((1, 6, 2), "float32", 2, {}),
    ],
)
def test_other_windows_are_left_to_keras(shape, dtype, size, options):
    options = {"data_format": "channels_last", "strides": size} | options
    program = jax.make_jaxpr(lambda x: ops.max_pool(x, size, **options))(np.ones(shape, dtype))
    assert "reduce_window" in str(program)


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axes", [(0, 1, 2), [-2, 1], 3, (0,)])
def test_mean_and_variance_and_their_gradients_are_those_of_keras(axes, keepdims, rng):
    x = jax.numpy.asarray(rng.normal(size=(3, 5, 4, 6), loc=2), "float32")
    (found, program), (expected, other) = own_and_keras("moments", lambda x: ops.moments(x, axes, keepdims), x)
    assert_close(found, expected, 1e-5)
    # Once the gradient that Keras has adds nothing, the remedy can go.
    assert program.count("reduce_sum") < other.count("reduce_sum")


@pytest.mark.parametrize(("mean", "deviation"), [(1e4, 1.0), (-3e5, 10.0), (255.0, 0.0), (0.0, 1e-4)])
def test_the_variance_is_exact_for_a_large_mean(mean, deviation, rng):
    x = (mean + deviation * rng.normal(size=(4, 32, 32, 3))).astype("float32")
    found, variance = ops.moments(x, (0, 1, 2))
    np.testing.assert_allclose(found, x.mean((0, 1, 2), dtype="float64"), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(variance, x.var((0, 1, 2), dtype="float64"), rtol=1e-4)


def test_moments_in_half_precision_and_on_several_devices_are_left_to_keras(monkeypatch):
    def programs():
        return [
            str(jax.make_jaxpr(lambda x: ops.moments(x, (0, 1)))(np.ones((4, 3), dtype)))
            for dtype in ("float16", "float32")
        ]

    half, single = programs()
    assert "_var" in half
    assert "_var" not in single
    monkeypatch.setattr("unet.speed.jax.distribution", lambda: keras.distribution.DataParallel)
    assert "_var" in programs()[1]


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


CONVOLUTION = """
from unet.backend import use_backend

use_backend()
import jax
import keras

x, kernel = jax.numpy.ones((2, 64, 64, 32)), jax.numpy.ones((3, 3, 32, 32))
print(jax.jit(lambda x, kernel: keras.ops.conv(x, kernel)).lower(x, kernel).compile().as_text())
"""


def compiled_convolution(**environment) -> str:
    """What XLA made of a convolution."""
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"} | environment
    program = [sys.executable, "-c", CONVOLUTION]
    return subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(not backend._without_avx512(), reason="XLA convolves in its own way on this processor")
def test_xla_leaves_convolutions_to_eigen_without_avx512():
    assert "ynn" not in compiled_convolution()
    # Once XLA does so by itself, the flag can go.
    assert "ynn" in compiled_convolution(XLA_FLAGS=f"{backend.YNNPACK}=+individual_convolution")


@pytest.mark.parametrize(
    ("version", "without_avx512", "given", "expected"),
    [
        ("0.10.2", True, "", f"{backend.YNNPACK}=-individual_convolution"),
        ("0.12.0.1", True, "--xla_a=1", f"--xla_a=1 {backend.YNNPACK}=-individual_convolution"),
        ("0.10.2", True, f"{backend.YNNPACK}=", f"{backend.YNNPACK}="),
        ("0.10.2", False, "--xla_a=1", "--xla_a=1"),
        ("0.9.2", True, "", ""),
        ("0.13.0", True, "", ""),
    ],
)
def test_xla_gets_the_flag_if_it_knows_it_and_the_user_has_not_set_it(
    version, without_avx512, given, expected, monkeypatch
):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: {"jaxlib": version}[name])
    monkeypatch.setattr(backend, "_without_avx512", lambda: without_avx512)
    monkeypatch.setenv("XLA_FLAGS", given)
    assert backend._xla_flags().get("XLA_FLAGS", given) == expected


def test_the_flag_was_tried_with_this_version():
    """If this fails, measure training with and without the flag, and move the limit."""
    version = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2]))
    assert version < backend.YNNPACK_UNTIL
