"""Remedies for Keras on PyTorch: the results of Keras, and what Keras still does without them.

A remedy whose last test fails can be deleted: Keras no longer needs it. Those of softmax and bias have no such test, as
they are for PyTorch's own slowness.
"""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.helpers import BACKEND

if BACKEND != "torch":
    pytest.skip("the remedies are for PyTorch", allow_module_level=True)

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import unet.model  # noqa: F401  # which applies the remedies
from unet.speed import torch as remedies


class Operations(TorchDispatchMode):
    """Names of the operations that PyTorch executes."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func._opname)
        return func(*args, **(kwargs or {}))


def keras_without(monkeypatch, name):
    """Undo the remedy of a function; return the function of Keras."""
    place = next(place for place, function, _ in remedies.REMEDIES if function == name)
    original = getattr(place, name).__wrapped__
    monkeypatch.setattr(place, name, original)
    return original


def values_and_gradients(function, *inputs):
    """Result of a function and the gradients of a weighted sum of it, as float32 arrays."""
    tensors = [torch.tensor(one).requires_grad_() for one in inputs]
    y = function(*tensors)
    weights = torch.linspace(-1, 2, y.numel()).reshape(y.shape)
    (y.float() * weights).sum().backward()
    return [one.detach().float().numpy() for one in (y, *(tensor.grad for tensor in tensors))]


def test_every_function_is_replaced():
    for place, name, _ in remedies.REMEDIES:
        assert getattr(place, name).__code__.co_filename == remedies.__file__


# === Convolution and pooling ===

KERNELS = {"conv": (3, 2, 4, 6), "conv with groups": (3, 3, 2, 4), "depthwise_conv": (3, 3, 4, 2)}


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("strides", "dilation"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("kind", KERNELS)
def test_convolution_is_that_of_keras(monkeypatch, rng, kind, strides, dilation, padding):
    inputs = rng.normal(size=(2, 9, 12, 4)).astype("float32"), rng.normal(size=KERNELS[kind]).astype("float32")

    def convolve(x, kernel):
        options = {"padding": padding, "dilation_rate": dilation, "data_format": "channels_last"}
        return getattr(ops, kind.split()[0])(x, kernel, strides, **options)

    found = values_and_gradients(convolve, *inputs)
    keras_without(monkeypatch, "_transpose_spatial_inputs")
    for one, expected in zip(found, values_and_gradients(convolve, *inputs), strict=True):
        np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("size", [2, 3])
def test_transposed_convolution_and_pooling_are_those_of_keras(monkeypatch, rng, size, padding, dtype):
    x = rng.normal(size=(2, 5, 7, 4)).astype("float32")
    kernel = rng.normal(size=(size, size, 3, 4)).astype("float32")
    common = {"padding": padding, "data_format": "channels_last"}
    functions = [
        lambda x, k: ops.conv_transpose(ops.cast(x, dtype), ops.cast(k, dtype), 2, **common),
        lambda x, k: ops.max_pool(ops.cast(x, dtype), size, 2, **common) + 0 * k.sum(),
        lambda x, k: ops.average_pool(ops.cast(x, dtype), size, 2, **common) + 0 * k.sum(),
    ]
    found = [values_and_gradients(function, x, kernel) for function in functions]
    keras_without(monkeypatch, "_transpose_spatial_inputs")
    for function, one in zip(functions, found, strict=True):
        for value, expected in zip(one, values_and_gradients(function, x, kernel), strict=True):
            rounding = {"rtol": 1e-5, "atol": 1e-4} if dtype == "float32" else {"rtol": 2e-2, "atol": 2e-1}
            np.testing.assert_allclose(value, expected, **rounding)


@pytest.mark.parametrize(
    ("kind", "kernel", "options"),
    [
        ("conv", (3, 3, 4, 6), {"padding": "same"}),
        ("depthwise_conv", (3, 3, 4, 2), {"padding": "same", "strides": 2}),
        ("conv_transpose", (3, 3, 6, 4), {"padding": "same", "strides": 2}),
    ],
)
def test_a_convolution_in_float32_is_rounded_and_so_are_its_gradients(monkeypatch, rng, kind, kernel, options):
    monkeypatch.setattr(remedies, "emulates_bfloat16", lambda: True)
    arrays = [torch.tensor(rng.normal(size=shape)).bfloat16() for shape in ((2, 9, 7, 4), kernel)]

    def values_and_gradients(dtype):
        inputs = [one.to(dtype).detach().requires_grad_() for one in arrays]
        with Operations() as operations:
            y = getattr(ops, kind)(*inputs, data_format="channels_last", **options)
        assert ("_to_copy" in operations.names) == (dtype == torch.bfloat16)
        y.backward((torch.arange(y.numel()) % 8).reshape(y.shape).to(dtype))
        return [y.detach(), *(one.grad for one in inputs)]

    for found, expected in zip(values_and_gradients(torch.bfloat16), values_and_gradients(torch.float32), strict=True):
        torch.testing.assert_close(found, expected.bfloat16(), rtol=1 / 128, atol=1e-5)


def test_keras_still_copies_feature_maps(monkeypatch):
    x = torch.zeros(2, 5, 6, 3)
    assert remedies.nn._transpose_spatial_inputs(x).data_ptr() == x.data_ptr()
    assert keras_without(monkeypatch, "_transpose_spatial_inputs")(x).data_ptr() != x.data_ptr()


# === Batch normalization ===


@pytest.mark.parametrize(
    ("options", "shape", "training"),
    [
        ({}, (3, 5, 4, 6), True),
        ({}, (3, 5, 4, 6), False),
        ({"trainable": False}, (3, 5, 4, 6), True),
        ({"scale": False}, (3, 5, 4, 6), True),
        ({"center": False, "axis": 1}, (3, 5, 4, 6), True),
        ({"dtype": "mixed_bfloat16"}, (3, 5, 4, 6), True),
        ({"dtype": "mixed_bfloat16"}, (3, 5, 4, 6), False),
        ({"dtype": "mixed_float16"}, (3, 5, 4, 6), True),
        ({"dtype": "bfloat16"}, (3, 5, 4, 6), True),
        ({}, (8, 6), True),
        ({}, (1, 1, 1, 6), True),  # a single value of each channel
    ],
)
def test_batch_normalization_is_that_of_keras(monkeypatch, rng, options, shape, training):
    x = (2 + 3 * rng.normal(size=shape)).astype("float32")
    layer = layers.BatchNormalization(momentum=0.9, **options)
    layer.build(shape)
    starts = [rng.uniform(0.5, 1.5, weight.shape).astype("float32") for weight in layer.weights]

    def results():
        layer.set_weights(starts)
        layer.zero_grad()
        found = values_and_gradients(lambda x: layer(x, training=training), x)
        gradients = [weight.value.grad for weight in layer.trainable_weights]
        return [
            *found,
            *(gradient.float().numpy().copy() for gradient in gradients),
            *map(np.float32, layer.get_weights()),
        ]

    found = results()
    keras_without(monkeypatch, "call")
    rounding = {"rtol": 1e-5, "atol": 1e-5} if "dtype" not in options else {"rtol": 2e-2, "atol": 2e-2}
    for one, expected in zip(found, results(), strict=True):
        np.testing.assert_allclose(one, expected, **rounding)


def test_moving_statistics_stay_those_of_keras_with_16_bits(monkeypatch, rng):
    """They are float32, and rounded to 16 bits nowhere."""
    x = torch.tensor(2 + 3 * rng.normal(size=(3, 5, 4, 6))).bfloat16()
    layer = layers.BatchNormalization(dtype="mixed_bfloat16")
    layer(x, training=True)
    found = layer.get_weights()
    layer.set_weights([np.ones(6), np.zeros(6), np.zeros(6), np.ones(6)])
    keras_without(monkeypatch, "call")
    layer(x, training=True)
    for one, expected in zip(found, layer.get_weights(), strict=True):
        np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-6)


def test_keras_still_normalizes_in_several_operations(monkeypatch):
    layer, x = layers.BatchNormalization(), torch.zeros(2, 5, 6, 3)
    layer(x)
    with Operations() as ours:
        layer(x, training=True)
    keras_without(monkeypatch, "call")
    with Operations() as theirs:
        layer(x, training=True)
    assert any("batch_norm" in name for name in ours.names)
    assert not any("batch_norm" in name for name in theirs.names)


# === Confusion matrix ===


def test_scatter_is_that_of_keras(monkeypatch, rng):
    indices, values = rng.integers(0, 3, (40, 2)), rng.normal(size=40).astype("float32")
    rows = rng.normal(size=(40, 5)).astype("float32")
    found = ops.scatter(indices, values, (3, 4)), ops.scatter(indices[:, :1], rows, (3, 5))
    keras_without(monkeypatch, "scatter")
    expected = ops.scatter(indices, values, (3, 4)), ops.scatter(indices[:, :1], rows, (3, 5))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5, atol=1e-5)


def test_keras_still_scatters_in_a_loop(monkeypatch):
    def operations(count):
        with Operations() as found:
            ops.scatter(np.zeros((count, 2), int), np.ones(count, "float32"), (3, 3))
        return len(found.names)

    assert operations(50) == operations(10)
    keras_without(monkeypatch, "scatter")
    assert operations(50) > operations(10) + 40


# === Softmax ===


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize(("shape", "axis"), [((2, 5, 7, 3), -1), ((2, 5, 7, 3), 3), ((5, 3), -1), ((2, 4, 3), 1)])
def test_softmax_is_that_of_keras(monkeypatch, rng, name, shape, axis):
    x = rng.normal(size=shape).astype("float32")
    found = values_and_gradients(lambda x: getattr(ops, name)(x, axis), x)
    keras_without(monkeypatch, name)
    for one, expected in zip(found, values_and_gradients(lambda x: getattr(ops, name)(x, axis), x), strict=True):
        np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-6)


# === Bias ===


@pytest.mark.parametrize(("shape", "dtype"), [((4,), "bfloat16"), ((1, 1, 1, 4), "bfloat16"), ((4,), "float32")])
def test_a_bias_is_added_as_by_keras(monkeypatch, rng, shape, dtype):
    inputs = rng.normal(size=(2, 5, 7, 4)).astype("float32"), rng.normal(size=shape).astype("float32")

    def add(x, bias):
        return ops.add(ops.cast(x, dtype), ops.cast(bias, dtype))

    found = values_and_gradients(add, *inputs)
    keras_without(monkeypatch, "add")
    y, *gradients = values_and_gradients(add, *inputs)
    np.testing.assert_array_equal(found[0], y)
    for one, expected in zip(found[1:], gradients, strict=True):
        np.testing.assert_allclose(one, expected, rtol=2e-2 if dtype == "bfloat16" else 1e-5)


@pytest.mark.parametrize("other", [1.5, np.ones((2, 5, 7, 4)), np.ones((7, 4)), np.ones((5, 1, 1))])
def test_other_sums_of_16_bits_are_those_of_keras(monkeypatch, rng, other):
    x = torch.tensor(rng.normal(size=(2, 5, 7, 4))).bfloat16()
    other = other if isinstance(other, float) else torch.tensor(other).bfloat16()
    found = ops.add(x, other)
    assert torch.equal(found, keras_without(monkeypatch, "add")(x, other))


# === Optimizer ===


@pytest.mark.parametrize("permuted", [False, True])
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"epsilon": 1e-3, "beta_2": 0.9}, {"amsgrad": True}])
def test_adam_is_that_of_keras(monkeypatch, rng, options, permuted):
    starts = [rng.normal(size=shape).astype("float32") for shape in ((3, 4), (2, 5))]
    gradients = [[torch.tensor(rng.normal(size=one.shape)).float() for one in starts] for _ in range(4)]

    def results():
        weights = [keras.Variable(one) for one in starts]
        optimizer = keras.optimizers.AdamW(0.01, **options)
        optimizer.build(weights)
        for step in gradients:
            # The same values in another order in memory, as those of convolutions may be.
            optimizer.apply([one.T.contiguous().T if permuted else one.clone() for one in step], weights)
        return [one.numpy() for one in (*weights, *optimizer.variables)]

    found = results()
    keras_without(monkeypatch, "_parallel_update_step")
    for one, expected in zip(found, results(), strict=True):
        np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("values", [[0.1, 0.2], [3.0, 4.0], [0.0, 0.0], [np.inf, 1.0], [np.nan, 1.0]])
def test_clipping_is_that_of_keras(monkeypatch, values):
    gradients = [torch.tensor([value, value]) for value in values] + [None]
    found = remedies.base_optimizer.clip_by_global_norm(gradients, 1.0)
    expected = keras_without(monkeypatch, "clip_by_global_norm")(gradients, 1.0)
    assert found.pop() is expected.pop() is None
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_keras_still_takes_many_operations_for_an_update(monkeypatch):
    def operations():
        weights = [keras.Variable(np.ones(2, "float32")) for _ in range(20)]
        optimizer = keras.optimizers.Adam(0.01, global_clipnorm=1.0)
        optimizer.build(weights)
        with Operations() as found:
            optimizer.apply([torch.ones(2) for _ in weights], weights)
        return found.names

    assert "_fused_adam_" in operations()
    keras_without(monkeypatch, "_parallel_update_step")
    without = operations()
    assert "_fused_adam_" not in without
    keras_without(monkeypatch, "clip_by_global_norm")
    assert len(operations()) > len(without) + 20


# === Export ===


def test_exported_programs_have_the_operations_of_keras():
    network = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.BatchNormalization()])
    program = torch.export.export(network.eval(), (torch.zeros(1, 8, 8, 3),))
    called = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert any("conv2d" in name for name in called)
    assert any("rsqrt" in name for name in called)
    assert not any("batch_norm" in name for name in called)
