"""Attention in the decoder: values of gates and scSE, and what a network with them promises like any other."""

import keras
import numpy as np
import pytest
from keras import ops

from benchmarks.export_matrix import FLOAT, QUANTIZED, metadata_for, scenes, writable
from benchmarks.gradients import gradient, gradients, values
from tests.helpers import BACKEND
from tests.helpers.contract import compiled_gradient
from unet import config, cost
from unet.blocks import StageBlock, attention_gate, squeeze_and_excitation
from unet.data.batches import Batches
from unet.data.cache import Split
from unet.errors import InputError
from unet.formats import FORMATS, load_network
from unet.model import build_unet, load_saved
from unet.training import make_optimizer, make_trainer

KINDS = ["gate", "scse"]
TINY = {"width": 4, "depth": 2}
SIZES = [(5, 7)] if BACKEND == "jax" else [(1, 1), (5, 7), (37, 53)]
"""Fewer on JAX, which compiles for every size."""


def stage(dtype=None, seed=0):
    return StageBlock("plain", "batch", 0.0, "relu", "he_normal", seed, dtype)


def of_inputs(dtype):
    return dtype if dtype == "float64" else "float32"


def gate(skip_channels=7, channels=5, dtype=None):
    skip, up = (keras.Input((None, None, n), dtype=of_inputs(dtype)) for n in (skip_channels, channels))
    return keras.Model([skip, up], attention_gate(skip, up, stage(dtype), "gate"))


def scse(channels=33, dtype=None):
    x = keras.Input((None, None, channels), dtype=of_inputs(dtype))
    return keras.Model(x, squeeze_and_excitation(x, stage(dtype), "scse"))


def randomize(model, rng):
    """Give biases values too."""
    model.set_weights([rng.normal(size=weight.shape, scale=0.5) for weight in model.get_weights()])
    return {layer.name: [np.asarray(w, "float64") for w in layer.get_weights()] for layer in model.layers}


def pointwise(x, weights):
    """A 1×1 convolution as a product of matrices: kernel ``(1, 1, C, C')`` and, if there is one, bias."""
    kernel, *bias = weights
    return x @ kernel[0, 0] + (bias[0] if bias else 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# === Values ===


def test_a_gate_has_the_values_of_the_papers_formula(rng):
    """Oktay et al. 2018, equations 1 and 2: W_x without a bias, W_g and psi with one."""
    model = gate()
    weights = randomize(model, rng)
    assert [len(weights[f"gate_{name}"]) for name in ("skip", "signal", "psi")] == [1, 2, 2]
    assert weights["gate_skip"][0].shape == (1, 1, 7, 3)
    for size in SIZES:
        skip, up = (rng.normal(size=(2, *size, channels)).astype("float32") for channels in (7, 5))
        hidden = np.maximum(pointwise(skip, weights["gate_skip"]) + pointwise(up, weights["gate_signal"]), 0)
        factors = sigmoid(pointwise(hidden, weights["gate_psi"]))
        assert factors.shape == (2, *size, 1)
        np.testing.assert_allclose(values(model, [skip, up]), skip * factors, atol=1e-5)


@pytest.mark.parametrize(("channels", "hidden"), [(150, 9), (5, 8)])
def test_scse_has_the_values_of_the_papers_formula(rng, channels, hidden):
    """Roy et al. 2018, equations 3 to 6: x · σ(W_1 δ(W_2 mean(x))) + x · σ(w · x), with reduction 16, at least to 8."""
    model = scse(channels)
    weights = randomize(model, rng)
    assert weights["scse_hidden"][0].shape == (1, 1, channels, hidden)
    for size in SIZES:
        x = rng.normal(size=(2, *size, channels)).astype("float32")
        squeezed = np.maximum(pointwise(x.mean((1, 2), keepdims=True), weights["scse_hidden"]), 0)
        by_channel = x * sigmoid(pointwise(squeezed, weights["scse_excite"]))
        by_pixel = x * sigmoid(pointwise(x, weights["scse_squeeze"]))
        np.testing.assert_allclose(values(model, x), by_channel + by_pixel, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_a_difference_along_a_random_direction(rng, kind):
    dtype, step, tolerance = ("float64", 1e-6, 1e-6) if BACKEND == "tensorflow" else ("float32", 1e-3, 1e-2)
    make, channels = {"gate": (gate, (7, 5)), "scse": (scse, (33,))}[kind]
    model = make(*channels, dtype=dtype)
    given = [rng.normal(size=(2, 3, 4, n)).astype(dtype) for n in channels]
    at = [*given, *(rng.normal(size=weight.shape).astype(dtype) for weight in model.trainable_variables)]
    upstream = rng.normal(size=model.compute_output_shape([x.shape for x in given][0 if kind == "scse" else slice(2)]))

    def scalar(*arrays):
        inputs, weights = list(arrays[: len(channels)]), list(arrays[len(channels) :])
        y, _ = model.stateless_call(weights, [], inputs if len(inputs) > 1 else inputs[0])
        return ops.sum(y * ops.cast(upstream, dtype))

    def moved(distance):
        tensors = [ops.convert_to_tensor((a + distance * d).astype(dtype)) for a, d in zip(at, direction)]
        return float(ops.convert_to_numpy(scalar(*tensors)))

    direction = [rng.normal(size=a.shape) for a in at]
    found = gradients(scalar, at)
    assert all(np.abs(slope).max() > 0 for slope in found)
    slope = sum(float((g * d).sum()) for g, d in zip(found, direction))
    size = sum(float(np.linalg.norm(g) * np.linalg.norm(d)) for g, d in zip(found, direction))
    assert slope == pytest.approx((moved(step) - moved(-step)) / (2 * step), abs=tolerance * size)


def test_the_mean_of_a_large_map_is_finite_in_float16(rng):
    """The sum of 128×128 pixels of 100 is beyond float16."""
    model, x = scse(16, "mixed_float16"), np.full((1, 128, 128, 16), 100, "float32")
    reference = scse(16)
    reference.set_weights(model.get_weights())
    np.testing.assert_allclose(values(model, x), values(reference, x), rtol=0.01, atol=0.01)


# === In a network ===


def pixels(rng, *size):
    return rng.integers(0, 256, (2, *size, 3)).astype("uint8")


@pytest.mark.parametrize(("kind", "policy"), [("gate", "float32"), ("scse", "mixed_bfloat16")])
def test_any_size_gives_float32_logits_and_saving_keeps_them(rng, kind, policy, tmp_path):
    model = build_unet(5, decoder_attention=kind, dtype=policy, **TINY)
    half = {layer.compute_dtype for layer in model.layers if kind in layer.name}
    assert half == {policy.removeprefix("mixed_")}
    model.save(tmp_path / "unet.keras")
    loaded = load_saved(tmp_path / "unet.keras")
    for size in SIZES:
        x = pixels(rng, *size)
        logits = values(model, x)
        assert logits.shape == (2, *size, 5)
        assert logits.dtype == "float32"
        np.testing.assert_array_equal(values(loaded, x), logits)


@pytest.mark.parametrize("upsampler", ["max_unpool", "sapa", "fade", "conv_transpose"])
def test_the_gate_changes_what_is_concatenated_and_nothing_else(upsampler):
    """Upsamplers that use the skip, or the positions of its maxima, get what they get without attention."""
    model = build_unet(3, upsampler=upsampler, decoder_attention="gate", **TINY)
    for i in (1, 2):
        skip = model.get_layer(f"encoder_{i}_act_2").output
        up = model.get_layer(f"decoder_{i}_up")
        assert up.input[1] is skip
        assert model.get_layer(f"decoder_{i}_gate_skip").input is skip
        assert model.get_layer(f"decoder_{i}_gate_signal").input is up.output
        gated, upsampled = model.get_layer(f"decoder_{i}_concat").input
        assert gated is model.get_layer(f"decoder_{i}_gate").output
        assert upsampled is up.output


def test_scse_is_before_and_after_the_convolutions_of_a_stage():
    model = build_unet(3, decoder_attention="scse", **TINY)
    for i in (1, 2):
        assert model.get_layer(f"decoder_{i}_scse_1_squeeze").input is model.get_layer(f"decoder_{i}_concat").output
        assert model.get_layer(f"decoder_{i}_conv_1").input is model.get_layer(f"decoder_{i}_scse_1").output
        assert model.get_layer(f"decoder_{i}_scse_2_squeeze").input is model.get_layer(f"decoder_{i}_act_2").output
    assert model.get_layer("logits").input is model.get_layer("decoder_1_scse_2").output
    assert model.get_layer("decoder_1_up").input[0] is model.get_layer("decoder_2_scse_2").output


@pytest.mark.parametrize("kind", KINDS)
def test_attention_has_its_own_weights_by_name_and_changes_no_others(kind):
    def weights(kind, seed):
        model = build_unet(3, decoder_attention=kind, seed=seed, **TINY)
        return {weight.path: ops.convert_to_numpy(weight) for weight in model.weights}

    plain, one, again, other = weights("none", 1), weights(kind, 1), weights(kind, 1), weights(kind, 2)
    own = set(one) - set(plain)
    assert set(plain) < set(one)
    assert all(f"_{kind}" in path for path in own)
    for path, weight in (plain | {path: again[path] for path in own}).items():
        np.testing.assert_array_equal(weight, one[path], err_msg=path)
    kernels = [path for path in own if path.endswith("kernel")]
    assert len(kernels) == 2 * {"gate": 3, "scse": 2 * 3}[kind]
    for path in kernels:
        assert not np.isclose(one[path], other[path]).any(), path


@pytest.mark.backend_free
@pytest.mark.parametrize("kind", KINDS)
def test_the_cost_equals_the_formula_and_is_that_of_the_stages(kind):
    def stages(kind):
        model = build_unet(3, width=32, depth=1, decoder_attention=kind, input_shape=(6, 10, 3))
        return {stage.name: stage for stage in cost.stages(model)}

    plain, found = stages("none"), stages(kind)
    assert list(found) == list(plain)
    assert found["decoder_1"].output == (6, 10, 32)
    more = {name: found[name].parameters - plain[name].parameters for name in found}
    work = {name: found[name].multiply_adds - plain[name].multiply_adds for name in found}
    if kind == "gate":  # skip and upsampled map have 32 channels, the hidden map 16
        expected = (32 * 16) + (32 * 16 + 16) + (16 + 1), 60 * (32 * 16 + 32 * 16 + 16)
    else:  # 64 channels after the concatenation, 32 after the convolutions
        expected = (
            sum((n * 8 + 8) + (8 * n + n) + (n + 1) for n in (64, 32)),
            sum(2 * n * 8 + 60 * n for n in (64, 32)),
        )
    assert (more.pop("decoder_1"), work.pop("decoder_1")) == expected
    assert set(more.values()) | set(work.values()) == {0}


@pytest.mark.skipif(BACKEND != "torch", reason="torch has the independent counter of floating-point operations")
@pytest.mark.parametrize("kind", KINDS)
def test_multiply_adds_equal_torchs_own_count(rng, kind):
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model = build_unet(3, decoder_attention=kind, input_shape=(24, 40, 3), **TINY)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(pixels(rng, 24, 40))
    assert cost.total(cost.stages(model)).multiply_adds * 2 * 2 == counter.get_total_flops()


@pytest.mark.backend_free
def test_a_wrong_kind_lists_the_choices(tmp_path):
    with pytest.raises(ValueError, match="decoder_attention must be one of none, gate, scse, received 'se'"):
        build_unet(3, decoder_attention="se", **TINY)
    (tmp_path / "t.yaml").write_text("model: {decoder: {attention: se}}\n")
    with pytest.raises(InputError, match=r"model\.decoder\.attention: .* is not one of none, gate, scse"):
        config.load(tmp_path / "t.yaml")


# === Training ===


@pytest.mark.skipif(BACKEND == "torch", reason="torch runs eagerly: there is no XLA to compile with")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_gradients_compiled_by_xla_are_those_of_float32(rng, kind, policy):
    make, channels = {"gate": (gate, (7, 5)), "scse": (scse, (33,))}[kind]
    model, reference = make(*channels, dtype=policy), make(*channels)
    randomize(model, rng)
    reference.set_weights(model.get_weights())
    x, *others = (rng.normal(size=(2, 5, 8, n)).astype("float32") for n in channels)
    others = [ops.convert_to_tensor(other) for other in others]

    def energy(model):
        return lambda x: ops.sum(ops.square(ops.cast(model([x, *others] if others else x), "float32")))

    expected = gradient(energy(reference), x)
    tolerance = {"float32": 1e-4, "mixed_bfloat16": 0.05, "mixed_float16": 0.01}[policy]
    found = compiled_gradient(energy(model), x)
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_the_whole_step_compiles_and_every_weight_learns(rng, kind, precision, tmp_path):
    """On PyTorch it runs eagerly."""
    settings = (f"training.jit={str(BACKEND != 'torch').lower()}", f"training.precision={precision}")
    moved = train(rng, tmp_path, f"model.decoder.attention={kind}", *settings)
    assert min(moved.values()) > 0, moved


def train(rng, folder, *overrides):
    """Train two steps; how far each weight has moved at most."""
    path = folder / "t.yaml"
    path.write_text(
        "data: {size: [9, 14]}\nmodel: {width: 16, depth: 1}\n"
        "training: {epochs: 1, batch_size: 4, warmup: 0, learning_rate: 0.01}\n"
    )
    loaded = config.load(path, overrides)
    trainer = make_trainer(loaded, ("pet", "background", "border"))
    trainer.compile(optimizer=make_optimizer(loaded.training, 2), jit_compile=loaded.training.jit)
    before = {v.path: ops.convert_to_numpy(v).copy() for v in trainer.network.trainable_variables}
    masks = rng.integers(0, 3, (8, 9, 14)).astype("uint8")
    images = ((masks * 100)[..., None] + rng.integers(0, 40, (8, 9, 14, 3))).astype("uint8")
    split = Split(images, masks, [str(i) for i in range(8)])
    history = trainer.fit(Batches(split, 4, 0), shuffle=False, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    return {v.path: np.abs(ops.convert_to_numpy(v) - before[v.path]).max() for v in trainer.network.trainable_variables}


# === Export ===


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "quantization"), [*FLOAT, *QUANTIZED])
def test_every_format_has_the_logits_of_the_network(kind, name, quantization, tmp_path):
    if not writable(name):
        pytest.skip(f"{name} is written by the {FORMATS[name].backend} backend")
    for module in {"onnx": ("tf2onnx", "onnxruntime"), "litert": ("ai_edge_litert",)}.get(name, (name,)):
        if name in ("onnx", "litert", "openvino"):
            pytest.importorskip(module)
    metadata = metadata_for("conv_transpose", name, quantization, (21, 27))
    size = (None, None) if metadata.dynamic else metadata.size
    network = build_unet(3, decoder_attention=kind, input_shape=(*size, 3), **TINY)
    path = tmp_path / f"network{FORMATS[name].ending}"
    images = scenes(metadata.size, 8)
    FORMATS[name].write(network, path, metadata, images)
    loaded = load_network(path)
    for size in [(21, 27), (1, 1), (20, 28)] if metadata.dynamic else [metadata.size]:
        images = scenes((24, 32), 4)[:, : size[0], : size[1]]
        expected = network.predict_on_batch(images)
        apart = np.abs(loaded(images) - expected) / max(1, np.abs(expected).max())
        if quantization == "int8":  # pixels brighter than those of the calibration are clipped
            assert np.quantile(apart, 0.99) < 0.1, size
        else:
            assert apart.max() < {"none": 1e-4, "float16": 0.02}[quantization], size
