"""What holds for every upsampler in the registry; a new one is picked up by itself."""

import keras
import numpy as np
import pytest
from keras import ops

from tests.conftest import BACKEND
from tests.gradients import gradient
from unet import upsamplers
from unet.cost import multiply_adds
from unet.upsamplers import UPSAMPLERS

SIZES = [(1, 1), (2, 3), (5, 8), (16, 16), (37, 53)]
FILTERS = 6


def inputs(rng, size, channels=5, batch=2, dtype="float32"):
    """Low-resolution map, skip, and the argmax of pooling the skip."""
    height, width = size
    x = rng.normal(size=(batch, -(-height // 2), -(-width // 2), channels)).astype(dtype)
    skip = rng.normal(size=(batch, height, width, FILTERS)).astype(dtype)
    _, argmax = upsamplers.MaxPoolWithArgmax()(skip)
    return x, skip, argmax


@pytest.fixture(params=list(UPSAMPLERS))
def name(request):
    return request.param


@pytest.mark.parametrize("size", SIZES)
def test_any_size_comes_back_at_the_size_of_the_skip(name, size, rng):
    x, skip, argmax = inputs(rng, size)
    y = upsamplers.build(name, FILTERS)(x, skip, argmax)
    assert tuple(y.shape) == (2, *size, FILTERS)
    assert np.isfinite(ops.convert_to_numpy(y)).all()


def test_without_a_skip_the_size_doubles(name, rng):
    x, _, argmax = inputs(rng, (6, 10))
    y = upsamplers.build(name, FILTERS)(x, argmax=argmax)
    assert tuple(y.shape) == (2, 6, 10, FILTERS)


def test_one_functional_model_takes_every_size_and_survives_saving(name, rng, tmp_path):
    x = keras.Input((None, None, 5))
    skip = keras.Input((None, None, FILTERS))
    _, argmax = upsamplers.MaxPoolWithArgmax()(skip)
    model = keras.Model([x, skip], upsamplers.build(name, FILTERS, name="up")(x, skip, argmax))
    assert model.output.shape == (None, None, None, FILTERS)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for size in SIZES:
        x, skip, _ = inputs(rng, size)
        before, after = (ops.convert_to_numpy(m([x, skip])) for m in (model, loaded))
        np.testing.assert_array_equal(before, after)


def test_gradient_of_the_input_is_the_derivative(name, rng):
    """Every rule so far is linear once the argmax is given, so a finite difference of any length is exact."""
    x, skip, argmax = inputs(rng, (5, 8))
    layer = upsamplers.build(name, FILTERS)
    weights = ops.convert_to_tensor(rng.normal(size=(2, 5, 8, FILTERS)).astype("float32"))

    def scalar(x):
        return ops.sum(layer(x, skip, argmax) * weights)

    step = rng.normal(size=x.shape).astype("float32")
    after, before = (float(ops.convert_to_numpy(scalar(ops.convert_to_tensor(at)))) for at in (x + step, x))
    difference = after - before
    assert float((gradient(scalar, x) * step).sum()) == pytest.approx(difference, rel=1e-3, abs=1e-3)


def test_the_projection_is_shared_and_costs_what_a_transposed_convolution_costs(name):
    """4·C_in·filters weights and as many multiply-adds per low-resolution pixel; the rule comes on top."""
    x, skip = keras.Input((7, 9, 5)), keras.Input((14, 18, FILTERS))
    _, argmax = upsamplers.MaxPoolWithArgmax()(skip)
    layer = upsamplers.build(name, FILTERS)
    layer(x, skip, argmax)
    assert layer.projection.count_params() == 4 * 5 * FILTERS + FILTERS
    assert multiply_adds(layer) - layer.rule_multiply_adds((7, 9, FILTERS)) == 7 * 9 * 4 * 5 * FILTERS


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_computes_low_and_keeps_weights_high(name, policy, rng):
    x, skip, argmax = inputs(rng, (5, 8))
    layer = upsamplers.build(name, FILTERS, dtype=policy)
    y = layer(x, skip, argmax)
    assert keras.backend.standardize_dtype(y.dtype) == policy.removeprefix("mixed_")
    assert {weight.dtype for weight in layer.weights} == {"float32"}
    full = upsamplers.build(name, FILTERS)
    reference = full(x, skip, argmax)
    full.set_weights(layer.get_weights())
    reference = ops.convert_to_numpy(full(x, skip, argmax))
    np.testing.assert_allclose(ops.convert_to_numpy(ops.cast(y, "float32")), reference, atol=0.06)


@pytest.mark.skipif(BACKEND == "torch", reason="torch runs eagerly: there is no XLA to compile with")
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_compiled_by_xla_it_gives_the_same_values_and_gradients(name, policy, rng):
    x, skip, argmax = inputs(rng, (5, 8))
    layer = upsamplers.build(name, FILTERS, dtype=policy)
    layer(x, skip, argmax)

    def scalar(x):
        return ops.sum(ops.square(ops.cast(layer(x, skip, argmax), "float32")))

    if BACKEND == "tensorflow":
        import tensorflow as tf

        def slope(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = scalar(x)
            return tape.gradient(value, x)

        compiled = tf.function(slope, jit_compile=True)(tf.constant(x))
    else:
        import jax

        compiled = jax.jit(jax.grad(scalar))(x)
    tolerance = {"float32": 1e-4, "mixed_bfloat16": 0.15, "mixed_float16": 0.02}[policy]
    eager = gradient(scalar, x)
    np.testing.assert_allclose(np.asarray(compiled), eager, atol=tolerance * np.abs(eager).max())


def test_the_same_call_gives_the_same_bits(name, rng):
    x, skip, argmax = inputs(rng, (37, 53))
    layer = upsamplers.build(name, FILTERS)
    first, second = (ops.convert_to_numpy(layer(x, skip, argmax)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_its_docstring_says_what_it_computes(name):
    assert len(UPSAMPLERS[name].__doc__.splitlines()) >= 3


def test_an_unknown_name_lists_the_choices():
    with pytest.raises(ValueError, match=r"'cubic'.*conv_transpose, nearest, bilinear, max_unpool"):
        upsamplers.build("cubic", 4)


@pytest.mark.parametrize("filters", [0, -1, 2.0])
def test_filters_must_be_a_positive_integer(filters):
    with pytest.raises(ValueError, match="filters must be a positive integer"):
        upsamplers.build("nearest", filters)
