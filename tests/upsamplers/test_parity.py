"""Every upsampler against its independent reference, values and gradients; see ``parity.py``."""

import pytest

from tests.upsamplers import parity
from unet.upsamplers import UPSAMPLERS


@pytest.mark.parametrize("case", parity.CASES, ids=str)
@pytest.mark.parametrize("size", [(6, 10), (5, 7), (1, 1)])
def test_values_and_gradients_equal_the_reference(case, size):
    values, slope = parity.differences(case, size)
    assert values <= case.tolerance
    assert slope is None or slope <= case.tolerance


def test_every_upsampler_has_a_reference():
    assert {case.name for case in parity.CASES} == set(UPSAMPLERS)
