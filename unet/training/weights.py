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
    variables = model.trainable_variables
    weights = [devices.copied(variable) for variable in variables]
    optimizer.finalize_variable_values(variables)
    averages = [devices.copied(variable) for variable in variables]
    for variable, weight in zip(variables, weights, strict=True):
        variable.assign(weight)
    with holding(variables, averages):
        yield


@contextlib.contextmanager
def holding(variables, values) -> Iterator[None]:
    """Assign other values to variables, and restore their own at the end.

    The values must be arrays of NumPy or copies, so that no device buffer has two owners.
    """
    before = [devices.copied(variable) for variable in variables]
    for variable, value in zip(variables, values, strict=True):
        variable.assign(devices.replicated(value, variable))
    try:
        yield
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(devices.replicated(value, variable))
