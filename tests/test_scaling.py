"""The model of data-parallel training, against a ring all-reduce that is played through."""

import numpy as np
import pytest

from benchmarks import scaling

pytestmark = pytest.mark.backend_free


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_bytes_are_those_of_a_ring_that_is_played_through(devices, rng):
    gradients = rng.integers(0, 9, (devices, devices, 5))  # of every device, in as many parts
    expected, sent = gradients.sum(0), np.zeros(devices)
    for start, replaces in ((0, False), (1, True)):  # sums travel around the ring, then results
        for step in range(devices - 1):
            moving = [gradients[device, (start + device - step) % devices].copy() for device in range(devices)]
            for device, part in enumerate(moving):
                target, index = (device + 1) % devices, (start + device - step) % devices
                gradients[target, index] = part if replaces else gradients[target, index] + part
                sent[device] += part.size * scaling.BYTES
    assert (gradients == expected).all()
    assert sent == pytest.approx(scaling.sent_bytes(5 * devices, devices))


def test_a_transfer_is_hidden_as_far_as_the_backward_pass_lasts():
    assert scaling.efficiency(3.0, 2.0, 2 / 3) == 1
    assert scaling.efficiency(3.0, 3.0, 2 / 3) == 0.75
    assert scaling.efficiency(3.0, 3.0, 0.0) == 0.5


def test_the_committed_table_is_that_of_the_networks():
    assert scaling.RESULTS.read_text(encoding="utf-8") == scaling.as_markdown()
