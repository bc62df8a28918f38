"""Every upsampler at the edge: dtypes, sizes, shapes that do not match, values that are not finite."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

from benchmarks.gradients import gradient, values
from tests.helpers import BACKEND, contract
from unet import upsamplers
from unet.model import build_unet
from unet.upsamplers import UPSAMPLERS, Bilinear, ConvTranspose, DySample, MaxPoolWithArgmax, MaxUnpool, Nearest
from unet.upsamplers.base import LARGEST_SEED

# Eager JAX compiles every operation of every shape.
pytestmark = [pytest.mark.slow] if BACKEND == "jax" else []

NOT_FINITE = [np.nan, np.inf, -np.inf]


@pytest.fixture(params=list(UPSAMPLERS))
def name(request):
    return request.param


@pytest.fixture
def channels_first():
    keras.config.set_image_data_format("channels_first")
    yield
    keras.config.set_image_data_format("channels_last")


def bare(name, **arguments):
    """The rule without projection, except for the one upsampler that is its own projection."""
    return upsamplers.build(name, contract.FILTERS if name == "conv_transpose" else None, seed=0, **arguments)


def compiled(layer, *inputs) -> np.ndarray:
    """Result of a layer, compiled by XLA where the backend has it."""
    if BACKEND != "tensorflow":
        return values(layer, *inputs)
    import tensorflow as tf

    return np.asarray(tf.function(layer, jit_compile=True)(*map(tf.constant, inputs)))


def integers(rng, dtype):
    x, skip, argmax = contract.inputs(rng, (5, 8), channels=contract.FILTERS)
    return np.abs(x * 9).astype(dtype), np.abs(skip * 9).astype(dtype), argmax


@pytest.mark.parametrize("dtype", ["uint8", "bool"])
def test_integers_and_bools_are_computed_in_the_compute_dtype(name, dtype, rng):
    x, skip, argmax = integers(rng, dtype)
    layer = bare(name)
    expected = values(layer, x.astype("float32"), skip.astype("float32"), argmax)
    y = values(layer, x, skip, argmax)
    assert y.dtype == "float32"
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["uint8", "bool", "int64", "float64"])
def test_pooling_of_any_dtype_is_that_in_the_compute_dtype(dtype, rng):
    _, x, _ = integers(rng, dtype)
    for found, expected in zip(MaxPoolWithArgmax()(x), MaxPoolWithArgmax()(x.astype("float32")), strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(found), ops.convert_to_numpy(expected))
        assert found.dtype == expected.dtype


def test_channels_are_last_whatever_the_image_data_format(name, rng, channels_first):
    x, skip, argmax = contract.inputs(rng)
    layer = upsamplers.build(name, contract.FILTERS, seed=0)
    assert layer(x, skip, argmax).shape == skip.shape


def test_the_network_has_channels_last_whatever_the_image_data_format(channels_first):
    assert build_unet(3, width=2, depth=1, input_shape=(16, 24, 3)).output.shape == (None, 16, 24, 3)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 0, 4, 8), r"x must have the shape .* received \(2, 0, 4, 8\)"),
        ((2, 3, 0, 8), r"x must have the shape .* received \(2, 3, 0, 8\)"),
        ((2, 3, 4, 0), r"x must have the shape .* received \(2, 3, 4, 0\)"),
        ((3, 4, 8), "expected ndim=4, found ndim=3"),
        ((1, 2, 3, 4, 8), "expected ndim=4, found ndim=5"),
    ],
)
def test_maps_without_pixels_and_of_another_rank_are_refused(name, shape, message):
    with pytest.raises(ValueError, match=message):
        bare(name)(np.zeros(shape, "float32"), None, np.zeros(shape, "int32"))


@pytest.mark.parametrize("symbolic", [False, True])
def test_a_skip_of_another_size_is_refused_even_after_the_first_call(name, rng, symbolic):
    x, skip, argmax = contract.inputs(rng)
    layer = upsamplers.build(name, contract.FILTERS)
    if not symbolic:
        layer.build(x.shape, skip.shape, argmax.shape)
    for size in [(9, 9), (5, 9), (4, 8), (5, 6)]:
        wrong = np.zeros((2, *size, contract.FILTERS), "float32")
        given = [x, wrong, argmax]
        if symbolic:
            given = [keras.KerasTensor(array.shape, dtype=str(np.asarray(array).dtype)) for array in given]
        with pytest.raises(ValueError, match=r"height must be 5 or 6 and its width 7 or 8"):
            layer(*given)


def test_an_argmax_of_another_shape_or_dtype_is_refused(rng):
    x, skip, argmax = contract.inputs(rng, channels=contract.FILTERS)
    argmax = ops.convert_to_numpy(argmax)
    for wrong in (argmax.swapaxes(1, 2), argmax[:1], argmax[..., :4], argmax[0]):
        with pytest.raises(ValueError, match=r"argmax|each channel needs its own positions"):
            MaxUnpool()(x, skip, wrong)
    layer = MaxUnpool()
    for dtype in ("float32", "bool"):
        with pytest.raises(ValueError, match=f"argmax must be int32, .*received {dtype}"):
            layer(x, skip, argmax.astype(dtype))
        with pytest.raises(ValueError, match=f"argmax must be int32, .*received {dtype}"):
            MaxUnpool()(keras.KerasTensor(x.shape), None, keras.KerasTensor(argmax.shape, dtype=dtype))
    np.testing.assert_array_equal(values(layer, x, skip, argmax.astype("int64")), values(layer, x, skip, argmax))


@pytest.mark.parametrize("position", [-1, 12, 10**6])
def test_a_position_outside_the_image_writes_nothing_into_another_image(position):
    x, argmax = np.ones((2, 1, 2, 1), "float32"), np.array([0, 2, 0, position], "int32").reshape(2, 1, 2, 1)
    for layer in (MaxUnpool(), MaxUnpool(pool_size=3, strides=2, output_size=(3, 4))):
        y = values(layer, x, None, argmax)
        assert y.sum() == 3
        assert y[1].sum() == 1


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("pooling", [{}, {"pool_size": 3, "strides": 2, "padding": 1}, {"strides": 1, "padding": 1}])
def test_positions_of_windows_without_a_maximum_stay_in_the_window(value, pooling):
    layer = MaxPoolWithArgmax(**pooling)
    _, argmax = layer(np.full((1, 5, 7, 1), value, "float32"))
    argmax = ops.convert_to_numpy(argmax)[0, ..., 0]
    rows, columns = np.indices(argmax.shape) * layer.strides - layer.padding
    np.testing.assert_array_equal(argmax, np.maximum(rows, 0) * 7 + np.maximum(columns, 0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MaxPoolWithArgmax(3, ceil_mode=False)(np.zeros((1, 2, 9, 1))), "no window of 3 pixels fits"),
        (lambda: MaxPoolWithArgmax()(np.zeros((2, 9, 1))), "x must have the shape"),
        (lambda: MaxPoolWithArgmax()(np.zeros((1, 0, 9, 1))), "x must have the shape"),
        (lambda: ConvTranspose(4, 3, 2, 0, strides=1)(np.zeros((1, 1, 1, 2))), "padding 2 leaves no pixel"),
        (
            lambda: MaxUnpool(strides=1, padding=1)(np.zeros((1, 1, 1, 2)), None, np.zeros((1, 1, 1, 2), "int32")),
            "padding 1 leaves no pixel",
        ),
        (
            lambda: MaxUnpool(output_size=(9, 9))(np.zeros((1, 3, 4, 2)), None, np.zeros((1, 3, 4, 2), "int32")),
            r"output_size \(9, 9\) is not pooled to \(3, 4\)",
        ),
        (lambda: MaxUnpool(output_size=5), r"output_size must be \(height, width\), received 5"),
        (lambda: MaxUnpool(output_size=(5, 6.0)), "output_size must be a whole number ≥ 1, received 6.0"),
        (lambda: MaxPoolWithArgmax(ceil_mode="no"), "ceil_mode must be True or False, received 'no'"),
        (lambda: MaxPoolWithArgmax(True), "pool_size must be a whole number ≥ 1, received True"),
        (lambda: ConvTranspose(4, strides=2.0), "strides must be a whole number ≥ 1, received 2.0"),
        (lambda: Nearest("2"), "filters must be a whole number ≥ 1, received '2'"),
        (lambda: Nearest(seed="3"), "seed must be a whole number from 0 to 4294967291, received '3'"),
        (lambda: Nearest(seed=2**40), "seed must be a whole number from 0 to 4294967291, received 1099511627776"),
        (lambda: Bilinear(align_corners="no"), "align_corners: must be true or false"),
    ],
)
def test_impossible_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_numbers_of_numpy_are_numbers():
    layer = ConvTranspose(np.int64(4), np.int32(3), np.uint8(1), strides=np.int64(2), seed=np.int64(3))
    assert layer.get_config() == ConvTranspose(4, 3, 1, strides=2, seed=3, name=layer.name).get_config()
    assert Bilinear(align_corners=np.True_).align_corners is True
    assert MaxPoolWithArgmax(np.int64(2), padding=np.int64(1), ceil_mode=np.False_).ceil_mode is False


def test_layers_with_equal_seeds_start_equal_and_with_different_ones_do_not(name, rng):
    x, skip, argmax = contract.inputs(rng)
    weights = []
    for seed in (3, 3, 4):
        layer = upsamplers.build(name, contract.FILTERS, seed=seed)
        layer.build(x.shape, skip.shape, argmax.shape)
        weights.append(layer.get_weights())
    for one, same in zip(weights[0], weights[1], strict=True):
        np.testing.assert_array_equal(one, same)
    assert any((one != other).any() for one, other in zip(weights[0], weights[2], strict=True))


@pytest.mark.parametrize("name", UPSAMPLERS)
def test_the_largest_seed_is_a_seed(name, rng):
    x, skip, argmax = contract.inputs(rng)
    upsamplers.build(name, contract.FILTERS, seed=LARGEST_SEED).build(x.shape, skip.shape, argmax.shape)


def test_an_initializer_with_a_seed_of_its_own_keeps_it():
    layers = [ConvTranspose(4, seed=seed, kernel_initializer=keras.initializers.HeNormal(seed=5)) for seed in (3, 4)]
    for layer in layers:
        layer.build((None, None, None, 2))
    np.testing.assert_array_equal(*(layer.get_weights()[0] for layer in layers))


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("name", ["bilinear", "bicubic", "bilinear_additive"])
def test_a_value_that_is_not_finite_stays_within_the_blocks_around_it(name, value):
    """As the docstring of :func:`unet.resample.double` says: 16 source pixels and their reach."""
    x = np.ones((1, 70, 70, 4), "float32")
    x[0, 40, 40] = value
    wrong = ~np.isfinite(values(bare(name), x))[0].all(-1)
    assert wrong[78:84, 78:84].any()
    outside = np.ones_like(wrong)
    outside[2 * 32 : 2 * 48, 2 * 32 : 2 * 48] = False  # pixel 40 is in the block 32 … 47, farther than 2 from others
    assert not wrong[outside].any()


@pytest.mark.parametrize("value", NOT_FINITE)
def test_dysample_with_a_value_that_is_not_finite_spoils_no_distant_pixel(value):
    x = np.ones((1, 9, 9, 4), "float32")
    x[0, 4, 4] = value
    y = compiled(DySample(seed=0), x)
    assert not np.isfinite(y[0, 6:12, 6:12]).all()  # XLA on TensorFlow clips NaN positions to 0
    assert np.isfinite(y[0, :6]).all()
    assert np.isfinite(y[0, 12:]).all()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_adds_logits_beyond_the_largest_float16(policy, rng):
    """FADE's logits are a sum of two parts: 40,000 each is infinite in float16, and their softmax was NaN."""
    x, skip, _ = contract.inputs(rng, channels=contract.FILTERS)
    half, full = bare("fade", dtype=policy), bare("fade")
    for layer in (half, full):
        layer.build(x.shape, skip.shape)
        kernel = np.zeros(layer.encoder.kernel.shape)
        layer.encoder.set_weights([kernel, np.where(np.arange(25) == 12, 40000.0, 39000.0)])
        layer.gate.set_weights([np.zeros((1, 1, contract.FILTERS, 1)), np.full(1, -20.0)])
    y = compiled(half, x, skip).astype("float32")
    np.testing.assert_allclose(y, values(full, x, skip), atol=0.02)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("value", [60000.0, -60000.0])
@pytest.mark.parametrize("name", ["carafe", "sapa", "dysample", "fade"])
def test_half_precision_of_values_near_the_largest_float16(name, value, policy):
    """Away from the border the kernels sum to 1, so a constant map stays constant."""
    x, skip = (np.full((1, n, n, contract.FILTERS), value, "float32") for n in (8, 16))
    layer = bare(name, dtype=policy)
    layer.build(x.shape, skip.shape)
    for weight in layer.weights:  # no overflow where the kernels are predicted
        weight.assign(weight * 1e-3)
    y = compiled(layer, x, skip).astype("float32")[:, 4:-4, 4:-4]
    np.testing.assert_allclose(y, value, rtol=0.01)


SIZES = [(1, 1), (1, 7), (7, 1), (2, 2), (31, 33)]


@pytest.mark.slow
@pytest.mark.parametrize(("size", "batch"), list(itertools.product(SIZES, [1, 3])))
def test_sweep_of_sizes_compiled_and_eager_agree_and_gradients_are_finite(name, size, batch, rng):
    x, skip, argmax = contract.inputs(rng, size, batch=batch)
    argmax = ops.convert_to_numpy(argmax)
    layer = upsamplers.build(name, contract.FILTERS, seed=0)
    eager = values(layer, x, skip, argmax)
    assert eager.shape == skip.shape
    np.testing.assert_allclose(compiled(layer, x, skip, argmax), eager, atol=1e-5)
    slope = gradient(lambda x: ops.sum(ops.square(layer(x, skip, argmax))), x)
    assert slope.shape == x.shape
    assert np.isfinite(slope).all()


@pytest.mark.slow
@pytest.mark.parametrize("value", NOT_FINITE)
def test_sweep_of_values_one_image_that_is_not_finite_spoils_no_other(name, value, rng):
    x, skip, argmax = contract.inputs(rng)
    layer = upsamplers.build(name, contract.FILTERS, seed=0)
    expected = values(layer, x, skip, argmax)[1]
    x[0, 1, 1] = value
    np.testing.assert_allclose(values(layer, x, skip, argmax)[1], expected, atol=1e-5)
    np.testing.assert_allclose(compiled(layer, x, skip, ops.convert_to_numpy(argmax))[1], expected, atol=1e-5)
    slope = gradient(lambda x: ops.sum(ops.square(layer(x, skip, argmax)[1])), x)
    assert np.isfinite(slope[1]).all()


@pytest.mark.slow
@pytest.mark.parametrize("channels_last_size", [(0, 3, 4), (0, 1, 1)])
def test_sweep_of_empty_batches(name, channels_last_size):
    """A batch without images gives one, wherever the convolution of the backend takes it."""
    batch, height, width = channels_last_size
    x = np.zeros((batch, height, width, contract.FILTERS), "float32")
    layer = bare(name)
    try:
        keras.layers.Conv2D(2, 3, padding="same")(x)
    except Exception:
        if name in ("carafe", "dysample", "fade", "resize_conv"):
            pytest.skip("this backend has no convolution of an empty batch")
    y = layer(x, np.zeros((batch, 2 * height, 2 * width, contract.FILTERS), "float32"), np.zeros(x.shape, "int32"))
    assert tuple(y.shape[:3]) == (0, 2 * height, 2 * width)
