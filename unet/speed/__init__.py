"""Remedies for what makes Keras slow: functions with the same results, put in the place of its own.

Each module has its ``REMEDIES``, and ``MODULES`` says which a backend needs.
"""

import importlib
from collections.abc import Callable
from typing import Any

import keras

Remedy = tuple[Any, str, Callable[[Any], Any]]
"""Module or class, name of its function or other part, and what makes the replacement of it."""
MODULES = {"tensorflow": ("tensorflow",), "torch": ("torch", "saving"), "jax": ("jax", "saving")}
"""Modules of this package with the remedies for each backend. XLA fuses what those for PyTorch replace."""


def apply() -> None:
    """Replace the functions that this version of Keras has; to be called once."""
    for module in MODULES[keras.backend.backend()]:
        for place, name, remedy in importlib.import_module(f"unet.speed.{module}").REMEDIES:
            if hasattr(place, name):
                setattr(place, name, remedy(getattr(place, name)))
