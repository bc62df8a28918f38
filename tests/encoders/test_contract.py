"""Promises of every encoder in the registry; a new one is tested without an edit here."""

import functools
import itertools
import math

import keras
import numpy as np
import pytest
from keras import ops

from benchmarks.gradients import gradient, values
from tests.helpers import BACKEND, SLOW_BEYOND_TENSORFLOW
from tests.helpers.contract import compiled_gradient
from tests.helpers.encoders import PRETRAINED, STRIDED, WIDTH, build_maps, full_depth, maps
from unet import encoders, keras_file
from unet.cost import multiply_adds, stages, total
from unet.encoders import ENCODERS
from unet.encoders.weights import is_encoder
from unet.model import build_unet, load_saved
from unet.settings import Mistakes
from unet.upsamplers import UPSAMPLERS

SMALL = ("plain", "efficientnet_lite0")
"""Encoders that every backend builds quickly."""
POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")


def slow_beyond_small(*always):
    """Every encoder, marked slow unless it is small, or in ``always`` on another backend than JAX."""
    quick = SMALL if BACKEND == "jax" else (*SMALL, *always)
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in ENCODERS]


@pytest.fixture(
    params=[name if name in SMALL else pytest.param(name, marks=SLOW_BEYOND_TENSORFLOW) for name in ENCODERS]
)
def name(request):
    return request.param


@functools.cache
def network(name: str, depth: int | None = None, upsampler: str = "nearest") -> keras.Model:
    """A small U-Net, built once; not to be changed."""
    return build_unet(3, encoder=name, width=WIDTH, depth=depth, upsampler=upsampler)


def pixels(rng, height, width, batch=2):
    return rng.integers(0, 256, (batch, height, width, 3)).astype("float32")


def own_layers(model: keras.Model) -> list[keras.Layer]:
    return [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]


# === Feature maps ===


def shapes(model: keras.Model, size) -> list[tuple]:
    """Shapes of the outputs for one image; on JAX without the computation, which it would compile."""
    shape = (1, *size, 3)
    found = model.compute_output_spec(keras.KerasTensor(shape)) if BACKEND == "jax" else model(np.zeros(shape))
    return [tuple(y.shape) for y in found]


def test_feature_maps_are_at_strides_1_2_4_with_the_channels_of_the_registry(name):
    model = maps(name)
    strides = [2**i for i in range(full_depth(name) + 1)]
    channels = [y.shape[-1] for y in model.outputs]
    if ENCODERS[name].pretrained:
        assert channels == list(ENCODERS[name].levels(full_depth(name), WIDTH))
    for height, width in ((1, 1), (33, 64), (101, 77)):
        assert shapes(model, (height, width)) == [
            (1, -(-height // s), -(-width // s), c) for s, c in zip(strides, channels, strict=True)
        ]


def depths():
    """Every encoder at every depth; depths that take longer are marked slow."""
    pairs = [(name, depth) for name in ENCODERS for depth in range(1, full_depth(name) + 1)]
    quick = [name in SMALL or (depth == 2 and BACKEND == "tensorflow") for name, depth in pairs]
    return [pytest.param(*pair, marks=() if few else pytest.mark.slow) for pair, few in zip(pairs, quick)]


@pytest.mark.parametrize(("name", "depth"), depths())
def test_any_depth_is_the_beginning_of_the_whole_encoder(name, depth):
    part, whole = maps(name, depth), maps(name)
    assert [y.shape[-1] for y in part.outputs[:-1]] == [y.shape[-1] for y in whole.outputs[:depth]]
    if ENCODERS[name].pretrained:
        assert {layer.name for layer in part.layers} <= {layer.name for layer in whole.layers}
        assert part.outputs[-1].shape[-1] == whole.outputs[depth].shape[-1]


def test_a_depth_beyond_the_encoder_is_refused():
    for name in PRETRAINED:
        with pytest.raises(Mistakes, match=rf"^depth: {name} halves the resolution {full_depth(name)} times, rec"):
            build_unet(3, encoder=name, depth=full_depth(name) + 1)


def test_layers_are_named_by_stage(name):
    model = maps(name)
    names = [layer.name for layer in own_layers(model)]
    assert len(set(names)) == len(names)
    assert all(name.startswith(("encoder_", "stem_", "bottleneck_")) or name == "normalize" for name in names)
    last = [y._keras_history.operation.name for y in model.outputs]
    if name in STRIDED:
        assert last.pop(0) == "stem_act"
        last.insert(0, "encoder_1_")
    if ENCODERS[name].pools:  # ends with a pooling of the stage before, or with a stage of another name
        last.pop()
    for index, layer in enumerate(last, start=1):
        assert layer.startswith(f"encoder_{index}_")
    assert [layer.name for layer in build_maps(name, 2).layers] == [layer.name for layer in maps(name, 2).layers]


def test_channels_are_last_whatever_keras_is_set_to(name):
    keras.config.set_image_data_format("channels_first")
    try:
        model = build_maps(name, 2)
        assert keras.config.image_data_format() == "channels_first"
    finally:
        keras.config.set_image_data_format("channels_last")
    assert [y.shape for y in model.outputs] == [y.shape for y in maps(name, 2).outputs]


@pytest.mark.parametrize("name", slow_beyond_small("mobilenet_v2", "vgg16"))
def test_the_seed_decides_every_weight(name):
    first = maps(name, 2)
    keras.utils.set_random_seed(2)
    again, other = build_maps(name, 2), build_maps(name, 2, seed=8)
    for a, b, c in zip(first.weights, again.weights, other.weights, strict=True):
        assert a.path == b.path == c.path
        assert a.path.endswith("seed_generator_state") or np.array_equal(*map(ops.convert_to_numpy, (a, b))), a.path
        if a.path.endswith("kernel"):
            assert np.abs(ops.convert_to_numpy(a) - ops.convert_to_numpy(c)).max() > 1e-3, a.path


# === Precision ===


@pytest.mark.parametrize("policy", POLICIES[1:])
@pytest.mark.parametrize("name", slow_beyond_small("efficientnet_v2_b0", "vgg16"))
def test_a_policy_reaches_every_layer_and_logits_stay_float32(name, policy):
    model = build_unet(3, encoder=name, width=WIDTH, depth=2, dtype=policy)
    found = {layer.name: layer.dtype_policy.name for layer in own_layers(model)}
    assert found.pop("logits") == "float32"
    assert model.output.dtype == "float32"
    assert set(found.values()) == {policy}
    assert {weight.dtype for weight in model.trainable_weights} == {"float32"}


@pytest.mark.skipif(BACKEND == "torch", reason="torch runs eagerly: there is no XLA to compile with")
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "efficientnet_lite0" else pytest.mark.slow) for name in ENCODERS]
)
def test_compiled_by_xla_it_gives_the_same_gradients(name, policy, rng):
    """In training mode; on JAX, always compiled, compared with float32."""
    model, reference = (build_unet(3, encoder=name, width=WIDTH, depth=2, dtype=p) for p in (policy, "float32"))
    if BACKEND == "tensorflow":
        reference = model

    def energy(network):
        def of(x):
            states = [[v.value for v in vs] for vs in (network.trainable_variables, network.non_trainable_variables)]
            logits, _ = network.stateless_call(*states, x, training=True)
            return ops.sum(ops.square(logits))  # a mean has gradients too small for float16

        return of

    x = pixels(rng, 13, 22)
    expected = gradient(energy(reference), x)
    found = compiled_gradient(energy(model), x)
    tolerance = {"float32": 1e-5, "mixed_bfloat16": 0.5, "mixed_float16": 0.2}[policy]
    assert np.linalg.norm(found - expected) < tolerance * np.linalg.norm(expected)


# === Files ===


@pytest.mark.parametrize("name", slow_beyond_small())
def test_a_saved_network_is_the_same_when_loaded(name, rng, tmp_path):
    model = build_unet(3, encoder=name, width=WIDTH, depth=None if BACKEND == "tensorflow" else 2)
    model.save(tmp_path / "model.keras")
    loaded = load_saved(tmp_path / "model.keras")
    assert [(layer.name, type(layer)) for layer in loaded.layers] == [
        (layer.name, type(layer)) for layer in model.layers
    ]
    x = pixels(rng, 13, 22)
    np.testing.assert_array_equal(values(loaded, x), values(model, x))


@pytest.mark.backend_free
def test_files_may_contain_the_layers_of_these_networks_and_no_others():
    models = [maps(name) for name in ENCODERS]
    for block, normalization in itertools.product(("plain", "residual"), ("batch", "group", "none")):
        models.append(build_unet(3, width=2, depth=1, block=block, normalization=normalization, dropout=0.5))
    found = {type(layer).__name__ for model in models for layer in model.layers if _of_keras(layer)}
    assert found | {"Softmax"} == keras_file.LAYERS  # exported files end with a softmax


def _of_keras(layer) -> bool:
    return keras.saving.get_registered_name(type(layer)) == type(layer).__name__


# === Upsamplers ===


@pytest.mark.parametrize("upsampler", list(UPSAMPLERS))
def test_every_upsampler_works_on_a_pretrained_encoder(upsampler, rng):
    name = "vgg16" if UPSAMPLERS[upsampler].unpools else "efficientnet_lite0"
    model = network(name, 2, upsampler)
    assert model.output.shape == (None, None, None, 3)
    if BACKEND != "jax":  # which would compile each of these networks
        y = values(model, pixels(rng, 13, 22))
        assert y.shape == (2, 13, 22, 3)
        assert np.isfinite(y).all()


@pytest.mark.parametrize("name", [name for name in ENCODERS if ENCODERS[name].pools and name != "plain"])
def test_unpooling_uses_the_positions_of_the_encoders_own_pooling(name, rng):
    model = network(name, 1, "max_unpool")
    up, x = model.get_layer("decoder_1_up"), pixels(rng, 8, 12)
    skip, y = (values(keras.Model(model.input, tensor), x) for tensor in (up.input[1], up.output))
    windows, chosen = (a.reshape(2, 4, 2, 6, 2, -1).transpose(0, 1, 3, 5, 2, 4).reshape(-1, 4) for a in (skip, y))
    assert ((chosen != 0).sum(-1) <= 1).all()
    found = chosen.any(-1)
    assert found.mean() > 0.9
    positions = chosen[found].astype(bool)
    np.testing.assert_array_equal(windows[found][positions], windows[found].max(-1))


@pytest.mark.backend_free
@pytest.mark.parametrize("name", STRIDED)
def test_unpooling_without_pooling_is_refused_with_the_encoders_that_pool(name):
    with pytest.raises(Mistakes) as caught:
        build_unet(3, encoder=name, upsampler="max_unpool")
    able = ", ".join(name for name in ENCODERS if name not in STRIDED)
    assert str(caught.value) == (
        f"upsampler: max_unpool needs an encoder that max-pools ({able}); {name} has strided convolutions instead"
    )


# === Cost ===


@pytest.mark.skipif(BACKEND != "torch", reason="torch has the independent counter of floating-point operations")
@pytest.mark.parametrize("name", slow_beyond_small())
def test_multiply_adds_equal_torchs_own_count(name, rng):
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model = build_unet(3, encoder=name, width=WIDTH, upsampler="nearest", input_shape=(45, 40, 3))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(pixels(rng, 45, 40))
    assert total(stages(model)).multiply_adds * 2 * 2 == counter.get_total_flops()  # 2 images, 2 operations each


@pytest.mark.backend_free
def test_a_depthwise_convolution_costs_one_kernel_per_channel():
    """The second block of EfficientNet-Lite0: 96 channels, filtered at stride 2 from 112×112 to 56×56 pixels."""
    model = build_unet(3, encoder="efficientnet_lite0", depth=3, width=WIDTH, input_shape=(224, 224, 3))
    layer = model.get_layer("encoder_3_block_1_depthwise")
    assert isinstance(layer, keras.layers.DepthwiseConv2D)
    assert multiply_adds(layer) == 3 * 3 * 96 * 56 * 56


PUBLISHED = {
    "efficientnet_lite0": (4_652_008, 320),
    "efficientnet_lite1": (5_416_680, 320),
    "efficientnet_lite2": (6_092_072, 352),
    "mobilenet_v2": (3_504_872, 320),
}
"""Parameters of classifiers of 1,000 classes with a 1×1 convolution to 1,280 channels, and the channels before it."""


@pytest.mark.backend_free
@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name):
    parameters, channels = PUBLISHED[name]
    model = maps(name)
    trained = sum(math.prod(w.shape) for layer in model.layers if is_encoder(layer) for w in layer.trainable_weights)
    assert trained + channels * 1280 + 2 * 1280 + 1280 * 1000 + 1000 == parameters


@pytest.mark.backend_free
def test_multiply_adds_are_the_published_ones():
    """300 million for MobileNetV2 at 224×224 (Sandler et al. 2018, table 4)."""
    model = build_unet(3, encoder="mobilenet_v2", width=WIDTH, input_shape=(224, 224, 3))
    costs = stages(model)
    assert total(costs).parameters == model.count_params()
    work = sum(stage.multiply_adds for stage in costs if stage.name.startswith("encoder_"))
    assert work + 320 * 1280 * 7 * 7 + 1280 * 1000 == pytest.approx(300e6, rel=0.005)


# === The registry ===


@pytest.mark.backend_free
def test_an_unknown_name_lists_the_choices():
    with pytest.raises(ValueError, match=r"'resnet'; choose from plain, efficientnet_lite0, .*, vgg16"):
        encoders.create("resnet")
