"""What holds for every upsampler in the registry; a new one is picked up by itself."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

from tests.helpers import BACKEND
from tests.helpers.gradients import gradient, gradients
from unet import upsamplers
from unet.cost import multiply_adds
from unet.upsamplers import UPSAMPLERS

SIZES = [(1, 1), (2, 3), (5, 8), (37, 53)]
FILTERS = 8
VARIANTS = {
    "bilinear": {"align_corners": True},
    "bicubic": {"a": -0.5, "align_corners": True},
    "conv_transpose": {"kernel_size": 3, "padding": 1},
    "resize_conv": {"kernel_size": 1},
    "pixel_shuffle": {"icnr": False},
    "carafe": {"k_up": 3, "groups": 2, "compressed": 5, "k_encoder": 1},
    "dysample": {"style": "pl", "dynamic_scope": True, "groups": 2},
    "sapa": {"k_up": 3, "embedding": 5},
    "fade": {"k_up": 3, "compressed": 5},
}
"""Every option changed from its default, where there are options."""


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


@pytest.fixture(params=[*UPSAMPLERS, *(f"{name} with options" for name in VARIANTS)])
def make(request):
    """The constructor of every upsampler, with its defaults and with every option changed."""
    name, *changed = request.param.split(" with ")
    return functools.partial(upsamplers.build, name, **(VARIANTS[name] if changed else {}))


def test_the_variants_change_every_option():
    for name in UPSAMPLERS:
        own = {key: option.default for key, option in upsamplers.options(name).items()}
        changed = {key for key, value in VARIANTS.get(name, {}).items() if value != own[key]}
        assert changed == set(own) - {"output_padding"}  # which follows from padding


@pytest.mark.parametrize("size", SIZES)
def test_any_size_comes_back_at_the_size_of_the_skip(make, size, rng):
    x, skip, argmax = inputs(rng, size)
    y = make(FILTERS)(x, skip, argmax)
    assert tuple(y.shape) == (2, *size, FILTERS)
    assert np.isfinite(ops.convert_to_numpy(y)).all()


def test_without_a_skip_the_size_doubles_or_one_message_asks_for_it(name, rng):
    x, _, argmax = inputs(rng, (6, 10))
    layer = upsamplers.build(name, FILTERS)
    if layer.needs_skip:
        with pytest.raises(ValueError, match=r"guided by the skip connection: call it as layer\(x, skip\)"):
            layer(x, argmax=argmax)
    else:
        assert tuple(layer(x, argmax=argmax).shape) == (2, 6, 10, FILTERS)


def test_one_functional_model_takes_every_size_and_survives_saving(make, rng, tmp_path):
    x = keras.Input((None, None, 5))
    skip = keras.Input((None, None, FILTERS))
    _, argmax = upsamplers.MaxPoolWithArgmax()(skip)
    model = keras.Model([x, skip], make(FILTERS, name="up", seed=3)(x, skip, argmax))
    assert model.output.shape == (None, None, None, FILTERS)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("up").get_config() == model.get_layer("up").get_config()
    for size in SIZES:
        x, skip, _ = inputs(rng, size)
        before, after = (ops.convert_to_numpy(m([x, skip])) for m in (model, loaded))
        np.testing.assert_array_equal(before, after)


def test_gradients_equal_numerical_differentiation(make, rng):
    """Of the input, the skip and every weight: along a random direction, by a central difference.

    In float64 on TensorFlow; Keras computes some operations in float32 on the other backends whatever is asked for.
    """
    dtype, step, tolerance = ("float64", 1e-6, 1e-6) if BACKEND == "tensorflow" else ("float32", 1e-3, 1e-2)
    x, skip, argmax = inputs(rng, (5, 7), dtype=dtype)
    layer = make(FILTERS, dtype=dtype)
    layer(x, skip, argmax)
    at = [x, skip, *(rng.normal(size=w.shape).astype(dtype) * 0.3 for w in layer.trainable_variables)]
    upstream = ops.convert_to_tensor(rng.normal(size=skip.shape).astype(dtype))

    def scalar(x, skip, *weights):
        y, _ = layer.stateless_call(list(weights), [], x, skip, argmax)
        return ops.sum(y * upstream)

    def moved(distance):
        there = [ops.convert_to_tensor((a + distance * d).astype(dtype)) for a, d in zip(at, direction)]
        return float(ops.convert_to_numpy(scalar(*there)))

    direction = [rng.normal(size=a.shape) for a in at]
    slope = sum(float((g * d).sum()) for g, d in zip(gradients(scalar, at), direction))
    size = sum(float(np.linalg.norm(g) * np.linalg.norm(d)) for g, d in zip(gradients(scalar, at), direction))
    assert slope == pytest.approx((moved(step) - moved(-step)) / (2 * step), rel=tolerance, abs=tolerance * size)


def test_the_projection_is_shared_and_costs_what_a_transposed_convolution_costs(name):
    """4·C_in·filters weights, a bias, and as many multiply-adds per low-resolution pixel; the rule comes on top."""
    x, skip = keras.Input((7, 9, 5)), keras.Input((14, 18, FILTERS))
    _, argmax = upsamplers.MaxPoolWithArgmax()(skip)
    layer, bare = upsamplers.build(name, FILTERS), None
    layer(x, skip, argmax)
    own_weights, own_work = 0, 0
    if name != "conv_transpose":  # is the projection itself
        bare = upsamplers.build(name)
        projected = layer.projected(5)
        bare(keras.Input((7, 9, projected)), skip, argmax)
        own_weights, own_work = bare.count_params(), bare.multiply_adds((7, 9, projected))
    assert layer.count_params() - own_weights == 4 * 5 * FILTERS + FILTERS
    assert multiply_adds(layer) - own_work == 7 * 9 * 4 * 5 * FILTERS


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_computes_low_and_keeps_weights_high(name, policy, rng):
    x, skip, argmax = inputs(rng, (5, 8))
    layer = upsamplers.build(name, FILTERS, seed=0, dtype=policy)
    y = layer(x, skip, argmax)
    assert keras.backend.standardize_dtype(y.dtype) == policy.removeprefix("mixed_")
    assert {weight.dtype for weight in layer.weights} == {"float32"}
    full = upsamplers.build(name, FILTERS)
    reference = full(x, skip, argmax)
    full.set_weights(layer.get_weights())
    reference = ops.convert_to_numpy(full(x, skip, argmax))
    np.testing.assert_allclose(ops.convert_to_numpy(ops.cast(y, "float32")), reference, atol=0.12)


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


def test_the_same_seed_and_call_give_the_same_bits(name, rng):
    x, skip, argmax = inputs(rng, (37, 53))
    first, second = (
        ops.convert_to_numpy(
            upsamplers.build(name, FILTERS, seed=7, kernel_initializer=keras.initializers.HeNormal(seed=7))(
                x, skip, argmax
            )
        )
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)


def test_its_docstring_says_what_it_computes_and_explains_every_option(name):
    text = UPSAMPLERS[name].__doc__
    assert "``" in text.split("Args:")[0]
    for option in upsamplers.options(name):
        assert f"    {option}: " in text


def test_an_unknown_name_lists_the_choices():
    with pytest.raises(ValueError, match=r"'cubic'; choose from nearest, bilinear, bicubic, .*, fade"):
        upsamplers.build("cubic", 4)


@pytest.mark.parametrize("filters", [0, -1, 2.0])
def test_filters_must_be_a_positive_integer(filters):
    with pytest.raises(ValueError, match="filters must be a positive integer"):
        upsamplers.build("nearest", filters)
