"""The page on adding an upsampler: its code runs, and the upsampler it adds fulfils the contract."""

import doctest
import functools
import importlib.util
import re
import sys

import jsonschema
import keras
import numpy as np
import pytest
import yaml

import unet
from benchmarks import parity
from docs import generate
from tests.helpers import ROOT, TINY, contract, slow_beyond_tensorflow
from unet import config, upsamplers
from unet.benchmark import layers as benchmark
from unet.errors import InputError
from unet.model import from_config
from unet.upsamplers import settings

PAGE = (ROOT / "docs" / "adding-an-upsampler.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def weighted(monkeypatch, tmp_path):
    """The page's upsampler, added where the page says; the module of its layer."""

    def module(name, text):
        file = tmp_path / f"{name.rsplit('.', 1)[1]}.py"
        file.write_text(text, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(name, file)
        loaded = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, loaded)
        spec.loader.exec_module(loaded)
        return loaded

    layer, options, line, *_ = blocks("python")
    declared = module("unet.upsamplers.declared", f"from unet.upsamplers.settings import Options\n\n\n{options}")
    monkeypatch.setattr(settings, "WeightedCellOptions", declared.WeightedCellOptions, raising=False)
    for name, entry in eval(f"{{{line}}}", vars(upsamplers)).items():
        monkeypatch.setitem(upsamplers.UPSAMPLERS, name, entry)
    return module("unet.upsamplers.weighted", layer)


def test_the_pages_upsampler_fulfils_the_contract(weighted, rng, tmp_path):
    make = functools.partial(upsamplers.build, "weighted_cell", gain=0.5)
    contract.check_sizes_and_saving(make, rng, tmp_path)
    contract.check_gradients(make, rng)
    contract.check_costs("weighted_cell")
    contract.check_same_bits("weighted_cell", rng)
    contract.check_docstring("weighted_cell")
    contract.check_options("weighted_cell")
    assert upsamplers.WeightedCell is weighted.WeightedCell
    assert doctest.testmod(weighted) == (0, 1)


def test_the_pages_own_test_passes(weighted):
    exec(blocks("python")[3], {"keras": keras, "WeightedCell": weighted.WeightedCell})


def test_the_pages_yaml_builds_a_network_and_fits_the_schema(weighted, tmp_path):
    values = yaml.safe_load(blocks("yaml")[0])
    jsonschema.validate(values, config.json_schema())
    values["base"] = str(ROOT / "configs" / values["base"])
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
    loaded = config.load(tmp_path / "mine.yaml", ["model.width=4", "model.depth=1"])
    network = from_config(loaded, 3)
    assert tuple(network(np.zeros((1, 5, 7, 3))).shape) == (1, 5, 7, 3)
    assert network.get_layer("decoder_1_up").gain == 0.5


@pytest.mark.backend_free
def test_benchmark_and_tables_include_it_before_it_is_measured(weighted):
    assert benchmark.variants()["weighted_cell"] == ("weighted_cell", {})
    assert parity.table({"jax": {}}).splitlines()[-1] == "| `weighted_cell` | none | – | – |"
    rule = "Copies each pixel, with weights."
    readme, _, gallery = map(generate.generated, generate.DOCUMENTS[:3])
    assert f"| [`weighted_cell`](docs/upsamplers/index.md#weighted_cell) | {rule} |\n" in readme
    assert f"| [`weighted_cell`](#weighted_cell) | {rule} | – | – |\n" in gallery
    assert "## `weighted_cell` { #weighted_cell }\n" in gallery
    assert "- **Options**: `gain=1.0`\n\n<!-- end of card weighted_cell -->" in gallery


@slow_beyond_tensorflow
def test_a_program_registers_its_own_layer(weighted, monkeypatch, tmp_path):
    """With the page's code. Keras knows the layer by another package's name, as it does layers of other programs."""
    monkeypatch.chdir(tmp_path)
    text = yaml.safe_dump({"base": "demo", "model": {"upsampler": {"name": "weighted_cell"}}})
    (tmp_path / "mine.yaml").write_text(text)
    tiny = config.Draft.read("mine.yaml").checked(config.parse_override(setting) for setting in TINY)
    (tmp_path / "mine.yaml").write_text(tiny.to_yaml())

    class Own(weighted.WeightedCell):
        """Copies and weights."""

        def __init__(self, filters=None, gain: float = 1.0, **kwargs):
            super().__init__(filters, gain, **kwargs)

    own = keras.saving.register_keras_serializable("mine")(Own)
    exec(blocks("python")[4], {"WeightedCell": own})
    assert upsamplers.UPSAMPLERS["weighted_cell"].rule == "Copies and weights."
    assert type(upsamplers.build("weighted_cell", 4)) is own
    assert config.load("runs/mine").model.upsampler.options == {"gain": 0.5}
    assert unet.load("runs/mine").predict(np.zeros((20, 30, 3), "uint8")).shape == (20, 30)
    with pytest.raises(InputError, match=r'model.upsampler.gain: must be a number, received "a"'):
        config.load("mine.yaml", ["model.upsampler={name: weighted_cell, gain: a}"])
    jsonschema.validate({"model": {"upsampler": {"name": "weighted_cell", "gain": 0.5}}}, config.json_schema())
