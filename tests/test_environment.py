"""Environment variables for a block of code, and former names of arguments."""

import os

import pytest

from unet.deprecation import renamed
from unet.environment import environment_variables
from unet.errors import InputError

pytestmark = pytest.mark.backend_free


def test_environment_variables_are_restored(monkeypatch):
    monkeypatch.setenv("UNET_TEST_SET", "before")
    monkeypatch.delenv("UNET_TEST_UNSET", raising=False)
    within = {}
    with pytest.raises(KeyError), environment_variables(UNET_TEST_SET="within", UNET_TEST_UNSET="within"):
        raise KeyError(within.update(os.environ))
    assert within["UNET_TEST_SET"] == within["UNET_TEST_UNSET"] == "within"
    assert os.environ["UNET_TEST_SET"] == "before"
    assert "UNET_TEST_UNSET" not in os.environ


def test_a_renamed_argument_is_accepted_with_a_warning():
    @renamed(large="mode")
    def predict(image, mode="resize"):
        return image, mode

    with pytest.warns(DeprecationWarning, match="'large' is now called 'mode'"):
        assert predict(1, large="tile") == (1, "tile")
    assert predict(1, mode="tile") == (1, "tile")


def test_an_error_names_the_argument_in_python_and_the_option_on_the_command_line():
    error = InputError("must be 1 or more", argument="batch_size")
    assert str(error) == "batch_size: must be 1 or more"
    assert error.for_command_line() == "--batch-size: must be 1 or more"
    assert InputError("x: no such file").for_command_line() == "x: no such file"
