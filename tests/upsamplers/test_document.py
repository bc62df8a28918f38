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

from tests.helpers import ROOT, contract
from unet import benchmark, config, upsamplers
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

    layer, options, line, _ = blocks("python")
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


def test_the_benchmark_measures_it(weighted):
    assert benchmark.variants()["weighted_cell"] == ("weighted_cell", {})
