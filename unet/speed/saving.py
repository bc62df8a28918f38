"""Remedy for Keras on JAX and PyTorch, where it imports TensorFlow when it saves or copies a model."""

import sys
from typing import Any

from keras.src.saving import serialization_lib

from unet.speed import Remedy


class IfImported:
    """Keras' reference to TensorFlow, which is available only if something else has imported it.

    Keras imports it, where it is installed, to ask of every value in the configuration of a model whether it is of a
    type of TensorFlow: that takes seconds, hundreds of megabytes, and prints messages. No value can be of such a type
    before TensorFlow has been imported.

    Args:
        reference: The reference that imports it when it is used.
    """

    def __init__(self, reference: Any):
        self._reference = reference

    @property
    def available(self) -> bool:
        """Whether TensorFlow has been imported."""
        return "tensorflow" in sys.modules and self._reference.available

    def __getattr__(self, name):
        return getattr(self._reference, name)


REMEDIES: tuple[Remedy, ...] = ((serialization_lib, "tf", IfImported),)
