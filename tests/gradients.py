"""Gradients of a function of one tensor, on whichever backend is in use."""

import keras
import numpy as np
from keras import ops


def gradient(function, x: np.ndarray) -> np.ndarray:
    """Gradient of ``function``, from a tensor to a scalar, at ``x``."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        variable = tf.Variable(x)
        with tf.GradientTape() as tape:
            value = function(variable)
        return np.asarray(tape.gradient(value, variable))
    if backend == "jax":
        import jax

        return np.asarray(jax.grad(function)(ops.convert_to_tensor(x)))
    import torch

    tensor = torch.tensor(x, requires_grad=True)
    function(tensor).backward()
    return tensor.grad.numpy()
