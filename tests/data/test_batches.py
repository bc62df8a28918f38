"""Batches: an order that is a function of seed and epoch."""

import numpy as np
import pytest

from unet.data.batches import Batches
from unet.data.cache import Split
from unet.errors import InputError


@pytest.fixture
def split():
    images = np.arange(10, dtype="uint8").reshape(10, 1, 1, 1) * np.ones((1, 2, 2, 3), "uint8")
    return Split(images, images[..., 0], [str(i) for i in range(10)])


def order(batches):
    return [int(i) for k in range(len(batches)) for i in batches[k]["image"][:, 0, 0, 0]]


def test_training_batches_are_full_and_shuffled_by_seed_and_epoch(split):
    batches = Batches(split, 4, shuffle_seed=3)
    assert len(batches) == 2
    epochs = []
    for epoch in range(4):
        batches.start_epoch(epoch)
        epochs.append(order(batches))
        assert len(set(epochs[-1])) == 8
    assert len({tuple(e) for e in epochs}) == 4
    again = Batches(split, 4, shuffle_seed=3)
    again.start_epoch(2)
    assert order(again) == epochs[2]
    other = Batches(split, 4, shuffle_seed=4)
    assert order(other) != epochs[0]


def test_without_a_seed_the_order_stays_and_the_last_batch_is_smaller(split):
    batches = Batches(split, 4)
    assert len(batches) == 3
    assert order(batches) == list(range(10))
    np.testing.assert_array_equal(batches[2]["mask"][:, 0, 0], [8, 9])


def test_a_batch_larger_than_the_data_is_told(split):
    with pytest.raises(InputError, match=r"training\.batch_size: 16 is more than the 10 training images"):
        Batches(split, 16, shuffle_seed=0)
