"""Functions with a custom backward pass, the same on every backend."""

from collections.abc import Callable

import keras
import numpy as np
from keras import ops


def differentiable(forward: Callable, backward: Callable) -> Callable:
    """Give ``forward`` the gradient ``backward``.

    Useful if the adjoint has a simple form: it saves the tensors that automatic differentiation would store or copy.

    Args:
        forward: Function from tensors to one tensor. It may use other tensors only if it computes them itself: on JAX
            ``keras.remat`` runs it when tensors around it no longer exist.
        backward: ``backward(upstream, *inputs)`` returns the gradients of the inputs, a tensor or a tuple of tensors;
            ``None`` for integers. The same holds for it.

    Returns:
        A function of the same tensors.
    """

    @ops.custom_gradient
    def function(*inputs):
        def gradient(*saved, upstream=None):
            found = backward(saved[0] if upstream is None else upstream, *inputs)
            if not isinstance(found, tuple):
                return found
            return tuple(_no_gradient(x) if slope is None else slope for slope, x in zip(found, inputs, strict=True))

        return forward(*inputs), gradient

    return function


def _no_gradient(x):
    """What stands for the gradient of integers."""
    if keras.backend.backend() != "jax":
        return None
    import jax

    return np.zeros(x.shape, jax.dtypes.float0)
