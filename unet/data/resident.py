"""Images and masks in the memory of the accelerator: a step then reads its batch there, and copies only row numbers."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from unet import backend
from unet.data.cache import Split

SHARE = 0.1
"""Largest part of the accelerator's memory that a split may take; the rest is for the network."""


@dataclass(frozen=True, kw_only=True)
class Resident(Split):
    """A split that is also in the memory of the device the backend computes on; batches are arrays of the backend."""

    copies: tuple[Any, Any]
    """Images and masks there."""

    def draw(self, samples: np.ndarray, epoch: tuple[int, int] | None = None):
        """Images and masks of some samples, in the memory of the device."""
        rows = keras.ops.convert_to_tensor(samples.astype(np.int32))
        images, masks = (keras.ops.take(copy, rows, axis=0) for copy in self.copies)
        return images, masks


def resident(split: Split) -> Split:
    """The same split, also in the memory of the accelerator if it takes at most ``SHARE`` of it.

    Otherwise the split is returned as it is: if it is cut into windows, which have sizes of their own; with
    TensorFlow, whose ``fit`` takes batches from the memory of the host; without an accelerator; and with several
    devices, each of which takes a part of every batch.

    Raises:
        RunError: A file has become shorter since it was mapped.
    """
    size = split.images.nbytes + split.masks.nbytes
    if type(split) is not Split or size > SHARE * backend.accelerator_memory() or keras.distribution.distribution():
        return split
    return placed(split)


def placed(split: Split) -> Resident:
    """The same split, also in the memory of the device the backend computes on."""
    copies = tuple(keras.ops.convert_to_tensor(array) for array in split.read(slice(None)))
    fields = {field.name: getattr(split, field.name) for field in dataclasses.fields(split)}
    return Resident(**fields, copies=copies)
