"""Remedies for what makes Keras slow: functions with the same results, put in the place of its own.

There is a module for each backend that needs them, with its ``REMEDIES``.
"""

import importlib
from collections.abc import Callable
from typing import Any

import keras

Remedy = tuple[Any, str, Callable[[Callable], Callable]]
"""Module or class, name of its function, and what makes the replacement of it."""


def apply() -> None:
    """Replace the functions that this version of Keras has; to be called once."""
    backend = keras.backend.backend()
    if backend == "jax":  # XLA fuses what the remedies replace
        return
    for place, name, remedy in importlib.import_module(f"unet.speed.{backend}").REMEDIES:
        if hasattr(place, name):
            setattr(place, name, remedy(getattr(place, name)))
