"""The examples in the docstrings run and show what they print."""

import doctest
import importlib

import keras
import pytest

from unet.upsamplers import UPSAMPLERS

pytestmark = pytest.mark.backend_free
MODULES = sorted({f"unet.upsamplers.{entry.layer.split(':')[0]}" for entry in UPSAMPLERS.values()})


@pytest.mark.parametrize("name", [*MODULES, "unet.losses"])
def test_examples_of_a_module(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, extraglobs={"keras": keras, "ops": keras.ops})
    assert result.failed == 0
    assert result.attempted
