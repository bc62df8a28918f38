"""The benchmark of training: the PyTorch program does the same as the network, and its table says what was measured."""

import json

import numpy as np
import pytest
from keras import ops

from tests.helpers import ROOT, SLOW_BEYOND_TENSORFLOW
from tests.helpers.commands import run_unet, run_unet_process
from unet import config
from unet.benchmark.train import PLAIN, Measurement, groups, table
from unet.config import LossConfig
from unet.errors import InputError
from unet.losses import SegmentationLoss
from unet.model import build_unet

pytestmark = SLOW_BEYOND_TENSORFLOW
torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("upsampler", "options", "more"),
    [
        ("nearest", {}, {}),
        ("bilinear", {}, {"block": "residual"}),
        ("nearest", {}, {"classes": 2, "head": "sigmoid"}),
        ("bilinear", {"align_corners": True}, {"normalization": "group", "activation": "silu"}),
        *(("conv_transpose", {"kernel_size": size}, {"normalization": "none"}) for size in (2, 3, 4)),
    ],
)
def test_the_program_gives_the_logits_of_the_network(rng, upsampler, options, more):
    from unet.benchmark.torch_program import Program

    settings = {"classes": 3, "width": 4, "depth": 2, "input_shape": (13, 18, 3)} | more
    network = build_unet(**settings, upsampler=upsampler, upsampler_options=options)
    for weight in network.weights:  # biases and statistics too
        weight.assign(rng.uniform(0.1, 0.5, weight.shape) * (1 if "variance" in weight.path else rng.choice([-1, 1])))
    pixels = rng.uniform(0, 255, (2, 13, 18, 3)).astype("float32")
    expected = ops.convert_to_numpy(network(pixels, training=False))
    program = Program(network).eval()
    with torch.no_grad():
        found = program(torch.tensor(pixels).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("dice", [0.0, 1.0])
def test_the_program_has_the_loss_of_the_network(rng, dice):
    from unet.benchmark.torch_program import loss

    mask = rng.choice([0, 1, 255], (2, 5, 6))
    logits = rng.normal(size=(2, 5, 6, 3)).astype("float32")
    ours = SegmentationLoss.from_settings(LossConfig(cross_entropy=1.5, dice=dice), ("a", "b", "c"))
    theirs = loss(torch.tensor(mask), torch.tensor(logits).permute(0, 3, 1, 2), 1.5, dice)
    assert float(theirs) == pytest.approx(float(ours(mask, logits)), rel=1e-5)


def test_the_program_learns(rng):
    from unet.benchmark.torch_program import training_step

    loaded = config.load("demo", ["model.width=4", "model.depth=1", "model.upsampler=nearest", "data.size=16"])
    network = build_unet(3, width=4, depth=1, upsampler="nearest", input_shape=(16, 16, 3))
    step = training_step(network, loaded.with_training(learning_rate=0.01), compiled=False)
    images = rng.integers(0, 256, (2, 16, 16, 3), np.uint8)
    losses = [float(step(images, images[..., 0] // 86)) for _ in range(20)]
    assert losses[-1] < 0.8 * losses[0]


def test_networks_without_a_program_are_refused():
    from unet.benchmark.torch_program import Program, training_step

    with pytest.raises(InputError, match=r"no PyTorch program for carafe; there is one for nearest, bilinear, conv"):
        training_step(None, config.load("demo", ["model.upsampler=carafe"]), compiled=False)
    with pytest.raises(InputError, match=r"no PyTorch program for the layer decoder_1_gate_sigmoid.*attention=none"):
        Program(build_unet(3, width=4, depth=1, upsampler="nearest", decoder_attention="gate"))


def measured(program, seconds, precision="float32", without=(), device="CPU: a", multiply_adds=0):
    return Measurement(program, precision, "nearest", 16, False, list(seconds), list(without), multiply_adds, 1, device)


def test_speeds_are_compared_within_a_round_and_with_the_program_if_there_is_one():
    ours = measured("tensorflow", [1.0, 4.0, 2.0], without=[0.9, 4.0, 1.0])
    theirs = measured(PLAIN, [2.0, 4.0, 1.0])
    half = measured("tensorflow", [1.0, 1.0, 1.0], "mixed_bfloat16")
    assert groups([ours, theirs, half]) == [[theirs, ours], [half]]
    assert ours.speed(theirs) == (1.0, 0.5, 2.0)
    assert ours.waiting == pytest.approx(0.1)
    titles, rows = table([ours, theirs, half], on_gpu=False)
    assert [dict(zip(titles, row))["speed"] for row in rows] == ["1 (reference)", "1.00 (0.50–2.00)", "1 (reference)"]


def test_utilization_of_a_gpu():
    """100 images per second of 10¹² multiply-adds each are 6 · 10¹⁴ operations per second, of 989 · 10¹²."""
    one = measured("jax", [0.16], "mixed_bfloat16", device="NVIDIA H200", multiply_adds=10**12)
    assert one.images_per_second == pytest.approx(100)
    assert one.utilization == pytest.approx(600 / 989)
    assert measured("jax", [0.16], "float32", device="NVIDIA H200").utilization is None
    assert measured("jax", [0.16], "mixed_bfloat16").utilization is None


RESULTS = ROOT / "docs" / "results"
COMMITTED = ("training_speed", "training_speed_jax")


def committed(name):
    content = json.loads((RESULTS / f"{name}.json").read_text())
    return [Measurement(**one) for one in content["measurements"]]


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "name", [*COMMITTED, "training_speed_avx2", "training_speed_remat", "gpu/training_speed/train"]
)
def test_the_committed_table_is_that_of_the_measurements(name):
    _, rows = table(committed(name), on_gpu=name.startswith("gpu/"))
    text = (RESULTS / f"{name}.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in text if line.startswith(("| tensorflow", "| jax", "| torch", "| PyTorch"))] == [
        f"| {' | '.join(row)} |" for row in rows
    ]


@pytest.mark.backend_free
def test_the_results_page_has_the_measured_speeds():
    speeds = {}
    for name in COMMITTED:
        for theirs, *ours in groups(committed(name)):
            speeds |= {(one.program, one.precision): f"{one.speed(theirs)[0]:.2f}" for one in ours}
    text = " ".join((RESULTS / "README.md").read_text(encoding="utf-8").split())
    f32, bf16 = "float32", "mixed_bfloat16"
    assert f"TensorFlow has {speeds['tensorflow', f32]} of the program's speed in float32" in text
    assert f"and {speeds['tensorflow', bf16]} in bfloat16" in text
    assert f"backend {speeds['torch', f32]} and {speeds['torch', bf16]}, augmentation" in text
    ((theirs, *ours),) = groups(committed("training_speed_avx2"))
    tensorflow, torch = (f"{one.speed(theirs)[0]:.2f}" for one in sorted(ours, key=lambda one: one.program))
    assert f"TensorFlow has {tensorflow} and the PyTorch backend {torch} of the program's speed in float32" in text
    without, again = committed("training_speed_remat")
    assert f"has {again.speed(without)[0]:.2f} of its speed without" in text
    assert f"a peak of {again.peak_mib:.0f} instead of {without.peak_mib:.0f} MiB" in text
    gpu = groups(committed("gpu/training_speed/train"))
    ratios = {theirs.batch_size: f"{ours.speed(theirs)[0]:.2f}" for theirs, ours in gpu}
    assert f"{ratios[32]} of its speed with batches of 32, and {ratios[128]} with batches of 128" in text
    speeds_32 = [f"{one.images_per_second:,.0f}" for one in gpu[0]]
    assert "program trained {} and this package {}, on".format(*speeds_32) in text
    (jax,) = (speed for (program, _), speed in speeds.items() if program.startswith("jax"))
    assert f"compiled, has {jax} of the program's speed in float32" in text
    assert f"JAX trains at [{jax} of the speed]" in (ROOT / "docs" / "guides" / "backends.md").read_text(
        encoding="utf-8"
    )


@pytest.mark.backend_free
@pytest.mark.slow
def test_the_command_measures_every_combination(tmp_path):
    output = tmp_path / "train.json"
    tiny = ["model.width=2", "model.depth=1", "data.size=16", "model.upsampler=nearest", "training.jit=false"]
    sizes = ["--batch-size", "2", "--batch-size", "4"]
    options = ["--backend", "tensorflow", "--backend", "torch", "--against", "torch", "--remat", *sizes]
    done = run_unet_process(
        "benchmark", "train", "demo", *tiny, *options, "--rounds", "2", "--steps", "2", "--output", output
    )
    assert done.code == 0, done.err
    found = [Measurement(**one) for one in json.loads(output.read_text())["measurements"]]
    programs = [("tensorflow", False), ("torch", False), (PLAIN, False), ("tensorflow", True), ("torch", True)]
    assert [(one.batch_size, one.program, one.remat) for one in found] == [
        (size, *program) for size in (2, 4) for program in programs
    ]
    for one in found:
        assert len(one.rounds) == 2
        assert min(one.rounds) > 0
        assert one.peak_mib > 50
        assert one.multiply_adds == found[0].multiply_adds > 0
    text = output.with_suffix(".md").read_text()
    assert text.count("1 (reference)") == 2
    assert text.count("| torch, remat |") == 2
    assert "images/s" not in text  # absolute times of a CPU mean little


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "jx"], "--backend: 'jx' is not one of tensorflow, jax, torch; did you mean jax?"),
        (["--against", "tensorflow"], "--against: 'tensorflow' is not torch"),
        (["--precision", "float8"], "training.precision"),
        (["training.batch_size=auto"], "training.batch_size: auto needs the data; choose a number by --batch-size"),
        (["--output", "speed.md"], "--output: speed.md must end in .json"),
    ],
)
def test_bad_input_is_one_message(arguments, message):
    done = run_unet("benchmark", "train", "demo", *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
