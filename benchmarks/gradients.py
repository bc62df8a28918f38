"""Values and gradients on the backend in use, compiled on JAX, which is slow operation by operation."""

import keras
import numpy as np
from keras import ops


def gradient(function, x: np.ndarray) -> np.ndarray:
    """Gradient of ``function``, from a tensor to a scalar, at ``x``."""
    return gradients(function, [x])[0]


def gradients(function, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Gradient of ``function``, from tensors to a scalar, with respect to each of them, at ``arrays``."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        variables = [tf.Variable(x) for x in arrays]
        with tf.GradientTape() as tape:
            value = function(*variables)
        return [np.asarray(g) for g in tape.gradient(value, variables, unconnected_gradients="zero")]
    if backend == "jax":
        import jax

        tensors = [ops.convert_to_tensor(x) for x in arrays]
        return [np.asarray(g) for g in jax.jit(jax.grad(function, argnums=tuple(range(len(arrays)))))(*tensors)]
    import torch

    tensors = [torch.tensor(x, requires_grad=True) for x in arrays]
    function(*tensors).backward()
    return [np.zeros_like(x) if t.grad is None else t.grad.numpy() for x, t in zip(arrays, tensors)]


def values(layer, *inputs) -> np.ndarray:
    """Result of a layer or model whose arguments are ``inputs``; ``None`` where there is none."""
    if keras.backend.backend() != "jax":
        return ops.convert_to_numpy(layer(*inputs))
    import jax

    if not layer.built:
        layer.build(*(None if x is None else x.shape for x in inputs))

    def call(weights, inputs):  # weights as arguments, so that equal layers are compiled once
        with keras.StatelessScope(state_mapping=list(zip(layer.variables, weights))):
            return layer(*inputs)

    return np.asarray(jax.jit(call)([variable.value for variable in layer.variables], inputs))
