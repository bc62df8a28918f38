"""The state that belongs to an epoch: data order and random numbers."""

import hashlib
import itertools
from collections.abc import Iterator

import keras

from unet.data.batches import Batches


class EpochSetup(keras.callbacks.Callback):
    """Sets data order, augmentation and dropout to functions of the seed and the epoch, so that runs resume exactly.

    Args:
        batches: Training batches.
        seed: Seed of the run.
    """

    def __init__(self, batches: Batches, seed: int):
        super().__init__()
        self.batches, self.seed = batches, seed

    def on_epoch_begin(self, epoch, logs=None):
        self.batches.start_epoch(epoch)
        self.model.reseed(epoch_seeds(self.seed, epoch))


def epoch_seeds(seed: int, epoch: int) -> Iterator[int]:
    """Yield endless seeds for the random number generators of one epoch, each in 0..2³¹−1."""
    for index in itertools.count():
        digest = hashlib.sha256(f"{seed}/{epoch}/{index}".encode()).digest()
        yield int.from_bytes(digest[:4], "big") >> 1
