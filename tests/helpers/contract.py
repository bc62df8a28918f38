"""What every upsampler promises, as checks of a constructor ``make(filters, **arguments)`` or of a registered name."""

import itertools
import typing

import keras
import numpy as np
import pytest
from keras import ops

from benchmarks.gradients import gradient, gradients, values
from tests.helpers import BACKEND
from unet import upsamplers
from unet.cost import multiply_adds
from unet.settings import Mistakes
from unet.upsamplers import UPSAMPLERS

SIZE = (5, 8)
"""Height and width of the skip where one size says it all; a single one, so that JAX compiles its operations once."""
SIZES = [(1, 1), (2, 3), SIZE, (37, 53)]
FILTERS = 8


def inputs(rng, size=SIZE, channels=5, batch=2, dtype="float32"):
    """Low-resolution map, skip, and the argmax of pooling the skip."""
    height, width = size
    x = rng.normal(size=(batch, -(-height // 2), -(-width // 2), channels)).astype(dtype)
    skip = rng.normal(size=(batch, height, width, FILTERS)).astype(dtype)
    _, argmax = upsamplers.MaxPoolWithArgmax()(skip)
    return x, skip, argmax


def changed_options(name: str) -> dict:
    """Options that all differ from their defaults and suit a decoder; empty if the upsampler has none."""
    model = UPSAMPLERS[name].options
    fields = upsamplers.options(name)
    candidates = [[value for value in _values(field.annotation) if value != field.default] for field in fields.values()]
    for choice in itertools.product(*candidates):
        options = dict(zip(fields, choice))
        try:
            settings = model.checked(**options)
            settings.check_doubles()
            settings.check_channels(FILTERS)
        except Mistakes:
            continue
        return options
    raise AssertionError(f"no candidates differ from every default of {name}: add some to _values")


def _values(annotation) -> list:
    if typing.get_origin(annotation) is typing.Literal:
        return list(typing.get_args(annotation))
    known = {bool: [True, False], int: [3, 2, 1, 5, 0], float: [-0.5, 0.5, 2.0]}
    if annotation in known:
        return known[annotation]
    return [value for part in typing.get_args(annotation) for value in _values(part)]


def check_sizes_and_saving(make, rng, tmp_path) -> None:
    """One functional model accepts every size, gives finite values of the skip's size, and is the same when loaded."""
    x, skip = keras.Input((None, None, 5)), keras.Input((None, None, FILTERS))
    _, argmax = upsamplers.MaxPoolWithArgmax()(skip)
    model = keras.Model([x, skip], make(FILTERS, name="up", seed=3)(x, skip, argmax))
    assert model.output.shape == (None, None, None, FILTERS)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("up").get_config() == model.get_layer("up").get_config()
    for size in SIZES:
        x, skip, _ = inputs(rng, size)
        y = values(loaded, [x, skip])
        assert y.shape == (2, *size, FILTERS)
        assert np.isfinite(y).all()
    np.testing.assert_array_equal(y, values(model, [x, skip]))


def check_gradients(make, rng) -> None:
    """Gradients of input, skip and every weight equal a central difference along a random direction.

    In float64 on TensorFlow; on the other backends Keras computes some operations in float32 whatever the dtype.
    """
    dtype, step, tolerance = ("float64", 1e-6, 1e-6) if BACKEND == "tensorflow" else ("float32", 1e-3, 1e-2)
    x, skip, argmax = inputs(rng, dtype=dtype)
    layer = make(FILTERS, dtype=dtype)
    layer(x, skip, argmax)
    at = [x, skip, *(rng.normal(size=w.shape).astype(dtype) * 0.3 for w in layer.trainable_variables)]
    upstream = rng.normal(size=skip.shape).astype(dtype)

    def scalar(x, skip, *weights):
        y, _ = layer.stateless_call(list(weights), [], x, skip, argmax)
        return ops.sum(y * ops.convert_to_tensor(upstream))

    def moved(distance):
        x, skip, *weights = [(a + distance * d).astype(dtype) for a, d in zip(at, direction)]
        layer.set_weights(weights)
        return float((values(layer, x, skip, argmax) * upstream).sum())

    direction = [rng.normal(size=a.shape) for a in at]
    found = gradients(scalar, at)
    slope = sum(float((g * d).sum()) for g, d in zip(found, direction))
    size = sum(float(np.linalg.norm(g) * np.linalg.norm(d)) for g, d in zip(found, direction))
    assert slope == pytest.approx((moved(step) - moved(-step)) / (2 * step), rel=tolerance, abs=tolerance * size)


def check_costs(name: str) -> None:
    """The projection has 4·C_in·filters weights, a bias, and as many multiply-adds per low-resolution pixel."""
    x, skip = keras.Input((7, 9, 5)), keras.Input((14, 18, FILTERS))
    _, argmax = upsamplers.MaxPoolWithArgmax()(skip)
    layer = upsamplers.build(name, FILTERS)
    layer(x, skip, argmax)
    own_weights, own_work = 0, 0
    if name != "conv_transpose":  # is the projection itself
        bare = upsamplers.build(name)
        projected = layer.projected(5)
        bare(keras.Input((7, 9, projected)), skip, argmax)
        own_weights, own_work = bare.count_params(), bare.multiply_adds((7, 9, projected))
    assert layer.count_params() - own_weights == 4 * 5 * FILTERS + FILTERS
    assert multiply_adds(layer) - own_work == 7 * 9 * 4 * 5 * FILTERS


def check_same_bits(name: str, rng) -> None:
    """Two layers with the same seed give the same bits."""
    given = inputs(rng)
    first, second = (
        upsamplers.build(name, FILTERS, seed=7, kernel_initializer=keras.initializers.HeNormal(seed=7))
        for _ in range(2)
    )
    np.testing.assert_array_equal(values(first, *given), values(second, *given))


def check_docstring(name: str) -> None:
    """The docstring states the rule as a formula, explains every option, and has an example."""
    text = upsamplers.layer_class(name).__doc__
    assert "``" in text.split("Args:")[0]
    assert ">>>" in text
    for option in upsamplers.options(name):
        assert f"    {option}: " in text


def check_options(name: str) -> None:
    """The layer's arguments, their defaults and its saved configuration agree with the options model."""
    import inspect

    parameters = inspect.signature(upsamplers.layer_class(name)).parameters
    for option, field in upsamplers.options(name).items():
        assert parameters[option].default == field.default
        assert field.description
    changed = changed_options(name)
    config = upsamplers.build(name, FILTERS, **changed).get_config()
    assert {key: config[key] for key in changed} == changed


def check_mixed_precision(name: str, policy: str, rng) -> None:
    """Values and compiled gradients are computed in half precision, close to those of float32; weights stay float32."""
    given = x, skip, argmax = inputs(rng)
    half, full = (upsamplers.build(name, FILTERS, seed=0, dtype=dtype) for dtype in (policy, "float32"))
    for layer in (half, full):
        layer.build(x.shape, skip.shape, argmax.shape)
    full.set_weights(half.get_weights())
    assert half.compute_dtype == policy.removeprefix("mixed_")
    assert {weight.dtype for weight in half.weights} == {"float32"}
    low = values(half, *given)
    assert str(low.dtype) == half.compute_dtype
    np.testing.assert_allclose(low.astype("float32"), values(full, *given), atol=0.12)


def check_xla(name: str, policy: str, rng) -> None:
    """Compiled by XLA the gradient is that of the eager layer; on JAX, always compiled, that of float32."""
    x, skip, argmax = inputs(rng)
    layer, reference = (upsamplers.build(name, FILTERS, seed=0, dtype=dtype) for dtype in (policy, "float32"))
    layer.build(x.shape, skip.shape, argmax.shape)
    if BACKEND == "tensorflow":
        reference = layer
    else:
        reference.build(x.shape, skip.shape, argmax.shape)
        reference.set_weights(layer.get_weights())
    tolerance = {"float32": 1e-4, "mixed_bfloat16": 0.15, "mixed_float16": 0.02}[policy]
    expected = gradient(_energy(reference, skip, argmax), x)
    np.testing.assert_allclose(
        compiled_gradient(_energy(layer, skip, argmax), x), expected, atol=tolerance * np.abs(expected).max()
    )


def _energy(layer, skip, argmax):
    return lambda x: ops.sum(ops.square(ops.cast(layer(x, skip, argmax), "float32")))


def compiled_gradient(function, x) -> np.ndarray:
    """Gradient of ``function``, from a tensor to a scalar, at ``x``, compiled by XLA."""
    if BACKEND == "jax":
        return gradient(function, x)
    import tensorflow as tf

    @tf.function(jit_compile=True)
    def slope(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = function(x)
        return tape.gradient(value, x)

    return np.asarray(slope(tf.constant(x)))
