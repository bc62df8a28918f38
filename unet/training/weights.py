"""Temporarily replacing the weights of a model, by their moving averages or any others."""

import contextlib
from collections.abc import Iterator

import keras

from unet.training import devices


@contextlib.contextmanager
def averaged_weights(model: keras.Model) -> Iterator[None]:
    """Hold the moving averages of the weights in the model, if its optimizer keeps them."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if not optimizer.use_ema:
        yield
        return
    with _restored(model.trainable_variables):
        optimizer.finalize_variable_values(model.trainable_variables)
        yield


@contextlib.contextmanager
def holding(variables, values) -> Iterator[None]:
    """Assign other values, arrays of NumPy, to variables, and restore their own at the end."""
    with _restored(variables):
        for variable, value in zip(variables, values, strict=True):
            variable.assign(devices.replicated(value, variable))
        yield


@contextlib.contextmanager
def _restored(variables) -> Iterator[None]:
    """Restore the values of variables at the end."""
    before = [devices.copied(variable) for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(devices.replicated(value, variable))
