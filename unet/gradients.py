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


def differentiable(forward: Callable, backward: Callable, fuse: bool = False) -> Callable:
    """Give ``forward`` the gradient ``backward``.

    Useful if the adjoint has a simple form: it saves the tensors that automatic differentiation would store or copy.

    Args:
        forward: Function from tensors to one tensor. It may use other tensors only if it computes them itself: on JAX
            ``keras.remat`` runs it when tensors around it no longer exist.
        backward: ``backward(upstream, *inputs)`` returns the gradients of the inputs, a tensor or a tuple of tensors;
            ``None`` for integers. The same holds for it.
        fuse: Whether XLA is much faster for them than separate operations, as for many passes over the same values;
            see :func:`fusing`.

    Returns:
        A function of the same tensors.
    """
    if fuse and _FUSING.get() and keras.backend.backend() == "tensorflow" and not compiled_by_xla():
        import tensorflow as tf

        if not tf.executing_eagerly():  # where each call would be compiled again
            forward, backward = (tf.function(part, jit_compile=True, autograph=False) for part in (forward, backward))

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
