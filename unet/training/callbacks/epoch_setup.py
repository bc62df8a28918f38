"""The state that belongs to an epoch: data order and random numbers."""

import hashlib
import itertools
import logging
from collections.abc import Iterator

import keras

from unet.data.batches import Batches

log = logging.getLogger("unet")


class EpochSetup(keras.callbacks.Callback):
    """Sets what is a function of the epoch, so that runs resume exactly.

    These are, with the seed, data order, augmentation and dropout; and whether the encoder is frozen.

    Args:
        batches: Training batches.
        seed: Seed of the run.
        freeze_epochs: Number of epochs at the beginning with a frozen encoder.
    """

    def __init__(self, batches: Batches, seed: int, freeze_epochs: int = 0):
        super().__init__()
        self.batches, self.seed, self.freeze_epochs = batches, seed, freeze_epochs

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.freeze_epochs > 0:
            log.info("from epoch %d on, the encoder is trained too", epoch + 1)
        self.model.freeze_encoder(epoch < self.freeze_epochs)
        self.batches.start_epoch(epoch)
        self.model.reseed(epoch_seeds(self.seed, epoch))


def epoch_seeds(seed: int, epoch: int) -> Iterator[int]:
    """Yield endless seeds for the random number generators of one epoch, each in 0..2³¹−1."""
    for index in itertools.count():
        digest = hashlib.sha256(f"{seed}/{epoch}/{index}".encode()).digest()
        yield int.from_bytes(digest[:4], "big") >> 1
