"""The U-Net: sizes, seeds, precision, and the network of the first seed document."""

import math

import keras
import numpy as np
import pytest
from keras import layers, ops

from benchmarks.gradients import gradients, values
from tests.helpers import BACKEND, on_every_backend, slow_beyond_tensorflow
from unet.config import ModelConfig
from unet.cost import multiply_adds, stages, surplus, total
from unet.model import build_unet
from unet.upsamplers import UPSAMPLERS, neighbourhood

TINY = {"width": 4, "depth": 2}
SIZES = [(1, 1), (37, 53)] if BACKEND == "jax" else [(1, 1), (2, 3), (37, 53), (127, 255)]
"""Fewer on JAX, which compiles the network for every size."""
BY_THE_TAP = {"bilinear", "bicubic", "bilinear_additive", "dysample"}
"""Upsamplers whose multiply-adds count taps; PyTorch counts the matrix products of the blocks, or nothing."""


def pixels(rng, *size):
    return rng.integers(0, 256, (2, *size, 3)).astype("uint8")


@pytest.mark.parametrize("upsampler", on_every_backend(UPSAMPLERS, ["conv_transpose", "max_unpool", "fade"]))
def test_any_size_gives_float32_logits_of_that_size(rng, upsampler):
    model = build_unet(5, upsampler=upsampler, dtype="mixed_bfloat16", **TINY)
    for size in SIZES:
        logits = values(model, pixels(rng, *size))
        assert logits.shape == (2, *size, 5)
        assert logits.dtype == "float32"


@pytest.mark.skipif(BACKEND == "jax", reason="JAX compiles the training step for every size: minutes")
@pytest.mark.parametrize("upsampler", list(UPSAMPLERS))
def test_any_size_trains(rng, upsampler):
    model = build_unet(3, upsampler=upsampler, **TINY)
    weights = [ops.convert_to_numpy(variable) for variable in model.trainable_variables]
    others = list(model.non_trainable_variables)
    moved = [False] * len(weights)
    for size in SIZES:
        images, labels = pixels(rng, *size), rng.integers(0, 3, (2, *size))

        def loss(*weights, images=images, labels=labels):
            logits, _ = model.stateless_call(list(weights), others, images, training=True)
            return ops.mean(ops.sparse_categorical_crossentropy(labels, logits, from_logits=True))

        slopes = gradients(loss, weights)
        assert all(np.isfinite(slope).all() for slope in slopes)
        moved = [before or bool(np.abs(slope).max() > 0) for before, slope in zip(moved, slopes)]
    assert all(moved), [v.path for v, some in zip(model.trainable_variables, moved) if not some]


@pytest.mark.parametrize("block", ["plain", "residual"])
@pytest.mark.parametrize("normalization", ["batch", "group", "none"])
def test_every_block_and_normalization_survives_saving(rng, block, normalization, tmp_path):
    model = build_unet(3, block=block, normalization=normalization, dropout=0.1, **TINY)
    model.save(tmp_path / "unet.keras")
    x = pixels(rng, 9, 12)
    loaded = keras.saving.load_model(tmp_path / "unet.keras")
    np.testing.assert_array_equal(values(model, x), values(loaded, x))
    kinds = {type(layer).__name__ for layer in model.layers}
    assert ("BatchNormalization" in kinds) == (normalization == "batch")
    assert ("GroupNormalization" in kinds) == (normalization == "group")
    assert ("Add" in kinds) == (block == "residual")


def test_seed_decides_every_weight_and_the_upsampler_none_of_the_others():
    """Layers of the same name and shape start with the same weights, whatever the upsampler."""
    models = {name: build_unet(3, upsampler=name, seed=7, **TINY) for name in UPSAMPLERS}
    reference = {w.path: ops.convert_to_numpy(w) for w in models["nearest"].weights}
    for name, model in models.items():
        shared = [w for w in model.weights if w.path in reference and w.shape == reference[w.path].shape]
        assert len(shared) >= len(reference) - 4  # some projections differ: kernel and bias, 2 depths
        for weight in shared:
            np.testing.assert_array_equal(ops.convert_to_numpy(weight), reference[weight.path], err_msg=name)
        again = build_unet(3, upsampler=name, seed=7, **TINY)
        for weight, same in zip(model.weights, again.weights, strict=True):
            np.testing.assert_array_equal(*map(ops.convert_to_numpy, (weight, same)), err_msg=weight.path)
    other = build_unet(3, upsampler="nearest", seed=8, **TINY)
    first = [ops.convert_to_numpy(m.get_layer("encoder_1_conv_1").kernel) for m in (models["nearest"], other)]
    assert np.abs(first[0] - first[1]).max() > 0.1


@pytest.mark.backend_free
def test_widths_that_double_are_the_same_network_as_a_width():
    one, other = (build_unet(3, depth=2, seed=3, **widths) for widths in ({"width": 5}, {"widths": (5, 10, 20)}))
    assert one.count_params() == other.count_params()
    for a, b in zip(one.weights, other.weights, strict=True):
        assert a.path == b.path
        np.testing.assert_array_equal(*map(ops.convert_to_numpy, (a, b)), err_msg=a.path)


@slow_beyond_tensorflow
@pytest.mark.parametrize("upsampler", list(UPSAMPLERS))
def test_every_stage_has_its_width(rng, upsampler):
    """Including odd and decreasing ones, at an odd size."""
    widths = (7, 3, 5)
    options = {"carafe": {"groups": 1}, "dysample": {"groups": 1}}.get(upsampler, {})
    model = build_unet(3, widths=widths, depth=2, upsampler=upsampler, upsampler_options=options)
    channels = {"encoder_1": 7, "encoder_2": 3, "bottleneck": 5, "decoder_2": 3, "decoder_1": 7}
    assert {name: model.get_layer(f"{name}_act_2").output.shape[-1] for name in channels} == channels
    assert [model.get_layer(f"decoder_{i}_up").output.shape[-1] for i in (1, 2)] == [7, 3]
    if BACKEND != "jax":  # which would compile each of these networks
        assert tuple(model(pixels(rng, 13, 22)).shape) == (2, 13, 22, 3)


OPTIONS = {
    "conv_transpose": {"kernel_size": 4},
    "resize_conv": {"kernel_size": 5},
    "carafe": {"k_up": 3, "groups": 2, "compressed": 6, "k_encoder": 5},
    "sapa": {"embedding": 6},
    "fade": {"k_up": 3, "compressed": 6},
    "dysample": {"style": "pl", "groups": 2, "dynamic_scope": True},
}
"""Options of each upsampler that change the number of its weights."""


@pytest.mark.backend_free
@pytest.mark.parametrize("upsampler", list(UPSAMPLERS))
def test_the_configuration_knows_the_number_of_weights(upsampler):
    for options in ({}, OPTIONS.get(upsampler, {})):
        config = ModelConfig(width=4, depth=2, upsampler={"name": upsampler} | options)
        model = build_unet(3, width=4, depth=2, upsampler=upsampler, upsampler_options=options)
        kernels = [kernel.shape for kernel in model.trainable_variables if len(kernel.shape) > 1]
        assert config.parameters == sum(map(math.prod, kernels)) - 4 * 3  # those of the logits


@pytest.mark.backend_free
@pytest.mark.parametrize("widths", [(8, 16), (8, 16, 32, 64), ()])
def test_every_stage_needs_a_width(widths):
    with pytest.raises(ValueError, match=r"widths: a network of depth 2 has 3 stages, received \["):
        build_unet(3, widths=widths, depth=2)


def test_pixels_are_normalized_inside():
    model = build_unet(3, **TINY)
    inside = keras.Model(model.input, model.get_layer("normalize").output)
    x = np.array([0, 127.5, 255], "float32").reshape(1, 1, 1, 3)
    np.testing.assert_allclose(ops.convert_to_numpy(inside(x)).ravel(), [-1, 0, 1], atol=1e-6)


def test_dropout_works_in_training_only(rng):
    model = build_unet(3, dropout=0.5, normalization="none", **TINY)
    x = pixels(rng, 16, 16)
    still = [ops.convert_to_numpy(model(x, training=False)) for _ in range(2)]
    moving = [ops.convert_to_numpy(model(x, training=True)) for _ in range(2)]
    np.testing.assert_array_equal(*still)
    assert np.abs(moving[0] - moving[1]).max() > 1e-3


@pytest.mark.backend_free
@pytest.mark.parametrize(("argument", "value"), [("block", "dense"), ("normalization", "layer")])
def test_a_wrong_argument_lists_the_choices(argument, value):
    with pytest.raises(ValueError, match=f"{argument} must be one of .*received '{value}'"):
        build_unet(3, **{argument: value})


# === The first seed document ===


def seed_document_unet():
    """The Keras network printed in the first seed document, with its Lambda written as Rescaling."""
    he = {"kernel_initializer": "he_normal", "padding": "same"}

    def conv(filters, x, name, activation="relu"):
        return layers.Conv2D(filters, 3, activation=activation, name=name, **he)(x)

    def up(filters, x, name):
        return layers.Conv2DTranspose(filters, 2, strides=2, activation="relu", name=name, **he)(x)

    inputs = keras.Input((128, 128, 3))
    s = layers.Rescaling(1 / 255)(inputs)
    encoding_1 = conv(64, conv(64, s, "encoding_1a"), "encoding_1")
    encoding_2 = conv(128, layers.MaxPool2D()(encoding_1), "encoding_2")
    encoding_3 = conv(256, layers.MaxPool2D()(encoding_2), "encoding_3")
    up_2 = up(128, encoding_3, "up_2")
    decoding_2 = conv(128, layers.concatenate([encoding_2, up_2], name="join_2"), "decoding_2")
    up_1 = up(64, decoding_2, "up_1")
    decoding_1 = conv(64, layers.concatenate([encoding_1, up_1], name="join_1"), "decoding_1a")
    decoding_1 = conv(64, decoding_1, "decoding_1")
    return keras.Model(inputs, conv(2, decoding_1, "outputs", "sigmoid"))


# Our layer, the document's, the shape that follows from its text.
SEED_STAGES = [
    ("encoder_1_act_2", "encoding_1", (128, 128, 64)),
    ("encoder_2_act_2", "encoding_2", (64, 64, 128)),
    ("bottleneck_act_2", "encoding_3", (32, 32, 256)),
    ("decoder_2_up", "up_2", (64, 64, 128)),
    ("decoder_2_concat", "join_2", (64, 64, 256)),
    ("decoder_2_act_2", "decoding_2", (64, 64, 128)),
    ("decoder_1_up", "up_1", (128, 128, 64)),
    ("decoder_1_concat", "join_1", (128, 128, 128)),
    ("decoder_1_act_2", "decoding_1", (128, 128, 64)),
    ("logits", "outputs", (128, 128, 2)),
]


@pytest.mark.backend_free
def test_seed_unet_has_the_shapes_of_the_seed_document(config):
    from unet.model import from_config

    ours = from_config(config("seed_unet.yaml"), classes=2, fixed_size=True)
    theirs = seed_document_unet()
    for our_layer, their_layer, shape in SEED_STAGES:
        assert tuple(ours.get_layer(our_layer).output.shape) == (None, *shape), our_layer
        assert tuple(theirs.get_layer(their_layer).output.shape) == (None, *shape), their_layer
    for our_layer, their_layer in (("decoder_2_up", "up_2"), ("decoder_1_up", "up_1")):
        up = ours.get_layer(our_layer)
        assert up.count_params() == theirs.get_layer(their_layer).count_params()
        assert keras.activations.serialize(up.activation) == "relu"
        assert type(up.kernel_initializer).__name__ == "HeNormal"
    assert not any("Normalization" in type(layer).__name__ for layer in ours.layers)


# === Cost ===


@pytest.mark.backend_free
def test_cost_of_the_seed_network_equals_the_formula():
    """Parameters k²·C_in·C_out + C_out, multiply-adds k²·C_in·C_out per output pixel (input pixel if transposed)."""
    model = build_unet(2, width=64, depth=2, normalization="none", input_shape=(128, 128, 3))
    by_name = {stage.name: stage for stage in stages(model)}
    convolutions = {
        "encoder_1": (128**2, [(9, 3, 64), (9, 64, 64)]),
        "encoder_2": (64**2, [(9, 64, 128), (9, 128, 128)]),
        "bottleneck": (32**2, [(9, 128, 256), (9, 256, 256)]),
        "decoder_2_up": (32**2, [(4, 256, 128)]),
        "decoder_2": (64**2, [(9, 256, 128), (9, 128, 128)]),
        "decoder_1_up": (64**2, [(4, 128, 64)]),
        "decoder_1": (128**2, [(9, 128, 64), (9, 64, 64)]),
        "logits": (128**2, [(1, 64, 2)]),
    }
    for name, (positions, kernels) in convolutions.items():
        assert by_name[name].parameters == sum(k * i * o + o for k, i, o in kernels), name
        assert by_name[name].multiply_adds == sum(positions * k * i * o for k, i, o in kernels), name
    whole = total(list(by_name.values()))
    assert whole.parameters == model.count_params()
    assert whole.output == (128, 128, 2)
    # One convolution's output: 128·128·64 float32.
    encoder_1 = ["conv_1", "act_1", "conv_2", "act_2"]
    assert by_name["encoder_1"].activation_bytes == len(encoder_1) * 128 * 128 * 64 * 4 + 64 * 64 * 64 * 4


class PixelByPixel:
    """The sums of CARAFE, SAPA and FADE without multiplications by zero."""

    @staticmethod
    def neighbours(shape, around, groups, size):
        shifted = [around[:, i : i + shape[0], j : j + shape[1]] for i in range(size) for j in range(size)]
        near = ops.reshape(ops.stack(shifted, axis=3), (-1, *shape, size**2, groups, around.shape[-1] // groups))
        return ops.swapaxes(near, -2, -3)

    @classmethod
    def reassemble(cls, shape, kernels, around):
        return ops.matmul(kernels, cls.neighbours(shape, around, kernels.shape[3], math.isqrt(kernels.shape[-1])))

    @classmethod
    def correlate(cls, shape, cells, around, size):
        return ops.matmul(cells, ops.swapaxes(cls.neighbours(shape, around, cells.shape[3], size), -1, -2))


@pytest.mark.skipif(BACKEND != "torch", reason="torch has the independent counter of floating-point operations")
@pytest.mark.parametrize("upsampler", sorted(set(UPSAMPLERS) - BY_THE_TAP))
def test_multiply_adds_equal_torchs_own_count(rng, upsampler, monkeypatch):
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    monkeypatch.setattr(neighbourhood, "Blocks", PixelByPixel)

    narrow = {"carafe": {"compressed": 2}, "fade": {"compressed": 2}, "sapa": {"embedding": 2}}  # merges no weights
    options = narrow.get(upsampler, {})
    model = build_unet(3, upsampler=upsampler, upsampler_options=options, input_shape=(24, 40, 3), **TINY)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(pixels(rng, 24, 40))
    assert total(stages(model)).multiply_adds * 2 * 2 == counter.get_total_flops()  # 2 images, 2 operations each


@pytest.mark.backend_free
def test_cost_depends_on_a_size():
    with pytest.raises(ValueError, match="cost depends on the image size"):
        stages(build_unet(3, **TINY))


@pytest.mark.backend_free
def test_upsamplers_differ_only_by_what_they_need_beyond_the_shared_projection():
    costs = {}
    for name in UPSAMPLERS:
        model = build_unet(3, upsampler=name, input_shape=(32, 32, 3), **TINY)
        parameters, work = model.count_params(), sum(multiply_adds(layer) for layer in model.layers)
        for layer in model.layers:
            if layer.name.endswith("_up"):
                h, w, channels = layer.input[0].shape[1:]
                parameters -= layer.count_params() - (4 * channels + 1) * layer.filters
                work -= multiply_adds(layer) - 4 * h * w * channels * layer.filters
        costs[name] = (parameters, work)
        whole = model.count_params(), sum(multiply_adds(layer) for layer in model.layers)
        assert surplus(model) == (whole[0] - parameters, whole[1] - work)
    assert len(set(costs.values())) == 1
