"""Promises of every upsampler in the registry; a new one is tested without an edit here."""

import functools

import keras
import pytest

from benchmarks.gradients import values
from tests.helpers import BACKEND, contract, on_every_backend, slow_beyond_tensorflow
from unet import upsamplers
from unet.upsamplers import UPSAMPLERS

POLICIES = ["float32", "mixed_bfloat16", "mixed_float16"]
CHANGED = {name: changed for name in UPSAMPLERS if (changed := contract.changed_options(name))}
"""By upsampler, options that all differ from their defaults."""


@pytest.fixture(params=list(UPSAMPLERS))
def name(request):
    return request.param


@pytest.fixture(params=on_every_backend([*UPSAMPLERS, *(f"{name} with options" for name in CHANGED)], UPSAMPLERS))
def make(request):
    """The constructor of every upsampler, with its defaults and with every option changed."""
    name, *changed = request.param.split(" with ")
    return functools.partial(upsamplers.build, name, **(CHANGED[name] if changed else {}))


def test_one_functional_model_accepts_every_size_and_survives_saving(make, rng, tmp_path):
    contract.check_sizes_and_saving(make, rng, tmp_path)


@pytest.mark.parametrize("name", on_every_backend(UPSAMPLERS, ["dysample", "sapa"]))
def test_gradients_equal_numerical_differentiation(name, rng):
    contract.check_gradients(functools.partial(upsamplers.build, name), rng)


@slow_beyond_tensorflow
@pytest.mark.parametrize("name", CHANGED)
def test_gradients_with_other_options_equal_numerical_differentiation(name, rng):
    contract.check_gradients(functools.partial(upsamplers.build, name, **CHANGED[name]), rng)


def test_without_a_skip_the_size_doubles_or_one_message_asks_for_it(name, rng):
    x, _, argmax = contract.inputs(rng, (6, 8))
    layer = upsamplers.build(name, contract.FILTERS)
    if layer.needs_skip:
        with pytest.raises(ValueError, match=r"guided by the skip connection: call it as layer\(x, skip\)"):
            layer(x, argmax=argmax)
    else:
        assert values(layer, x, None, argmax).shape == (2, 6, 8, contract.FILTERS)


def test_the_projection_is_shared_and_costs_what_a_transposed_convolution_costs(name):
    contract.check_costs(name)


@pytest.mark.parametrize("policy", POLICIES[1:])
def test_mixed_precision_computes_low_and_keeps_weights_high(name, policy, rng):
    contract.check_mixed_precision(name, policy, rng)


@pytest.mark.skipif(BACKEND == "torch", reason="torch runs eagerly: there is no XLA to compile with")
@pytest.mark.parametrize("policy", POLICIES[1:] if BACKEND == "jax" else POLICIES)
def test_compiled_by_xla_it_gives_the_same_gradients(name, policy, rng):
    contract.check_xla(name, policy, rng)


def test_the_same_seed_gives_the_same_bits(name, rng):
    contract.check_same_bits(name, rng)


@pytest.mark.backend_free
def test_the_docstring_states_the_rule_explains_every_option_and_has_an_example(name):
    contract.check_docstring(name)


@pytest.mark.backend_free
def test_layer_and_options_model_agree(name):
    contract.check_options(name)


@pytest.mark.backend_free
def test_every_layer_is_public_under_its_own_name(name):
    layer = upsamplers.layer_class(name)
    assert getattr(upsamplers, layer.__name__) is layer
    assert layer.__name__ in upsamplers.__all__
    assert layer.__name__ in dir(upsamplers)
    assert keras.saving.get_registered_name(layer) == f"unet>{layer.__name__}"


@pytest.mark.backend_free
def test_an_entry_of_the_registry_still_acts_as_the_layer():
    entry = UPSAMPLERS["max_unpool"]
    with pytest.warns(DeprecationWarning, match="use unet.upsamplers.layer_class"):
        assert entry.needs_argmax
    with pytest.warns(DeprecationWarning, match="use unet.upsamplers.layer_class"):
        assert isinstance(entry(4), upsamplers.MaxUnpool)


@pytest.mark.backend_free
def test_an_unknown_name_lists_the_choices():
    with pytest.raises(ValueError, match=r"'cubic'; choose from nearest, bilinear, bicubic, .*, fade"):
        upsamplers.build("cubic", 4)
    with pytest.raises(AttributeError, match="has no attribute 'Cubic'"):
        _ = upsamplers.Cubic


@pytest.mark.backend_free
@pytest.mark.parametrize("filters", [0, -1, 2.0])
def test_filters_must_be_a_positive_integer(filters):
    with pytest.raises(ValueError, match="filters must be a whole number ≥ 1"):
        upsamplers.build("nearest", filters)
