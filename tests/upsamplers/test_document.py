"""The page on adding an upsampler: its code runs, and what it adds fulfils the contract."""

import functools
import re

import numpy as np
import pytest
import yaml

from tests.helpers import ROOT
from tests.upsamplers import test_contract as contract
from unet import config, upsamplers
from unet.model import from_config

PAGE = (ROOT / "docs" / "adding-an-upsampler.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def make(monkeypatch):
    """The page's upsampler, registered as the page says."""
    monkeypatch.setattr(upsamplers, "UPSAMPLERS", upsamplers.UPSAMPLERS.copy())
    namespace = {}
    for block in blocks("python"):
        exec(block, namespace)
    assert upsamplers.UPSAMPLERS["weighted_cell"] is namespace["WeightedCell"]
    monkeypatch.setitem(contract.UPSAMPLERS, "weighted_cell", namespace["WeightedCell"])
    return functools.partial(upsamplers.build, "weighted_cell", gain=0.5)


def test_the_pages_upsampler_fulfils_the_contract(make, rng, tmp_path):
    for size in contract.SIZES:
        contract.test_any_size_comes_back_at_the_size_of_the_skip(make, size, rng)
    contract.test_one_functional_model_takes_every_size_and_survives_saving(make, rng, tmp_path)
    contract.test_gradients_equal_numerical_differentiation(make, rng)
    contract.test_the_projection_is_shared_and_costs_what_a_transposed_convolution_costs("weighted_cell")
    contract.test_the_same_seed_and_call_give_the_same_bits("weighted_cell", rng)
    contract.test_its_docstring_says_what_it_computes_and_explains_every_option("weighted_cell")


def test_the_pages_yaml_builds_a_network(make, tmp_path):
    values = yaml.safe_load(blocks("yaml")[0])
    values["base"] = str(ROOT / "configs" / values["base"])
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
    loaded = config.load(tmp_path / "mine.yaml", ["model.width=4", "model.depth=1"])
    network = from_config(loaded, 3)
    assert tuple(network(np.zeros((1, 5, 7, 3))).shape) == (1, 5, 7, 3)
    assert network.get_layer("decoder_1_up").gain == 0.5
