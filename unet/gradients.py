"""Functions with a custom backward pass, the same on every backend."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import keras
import numpy as np
from keras import ops

from unet.backend import compiled_by_xla

_FUSING = contextvars.ContextVar("fusing", default=False)


@contextlib.contextmanager
def fusing() -> Iterator[None]:
    """Let XLA compile the functions that ask for it, where TensorFlow runs the rest of a training step without XLA.

    For training only: exported files must not need XLA, and every other size of the images is compiled again.
    """
    token = _FUSING.set(True)
    try:
        yield
    finally:
        _FUSING.reset(token)


def fused(function: Callable) -> Callable:
    """Let XLA compile ``function`` within :func:`fusing`, unless it compiles the graph around it.

    Elsewhere, and on other backends, the function is returned as it is. Useful for many passes over the same values,
    for which XLA is much faster than separate operations. All arguments but tensors must be known while the graph is
    built.
    """
    if not _FUSING.get() or keras.backend.backend() != "tensorflow" or compiled_by_xla():
        return function
    import tensorflow as tf

    if tf.executing_eagerly():  # each call would be compiled again
        return function
    return tf.function(function, jit_compile=True, autograph=False)


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
