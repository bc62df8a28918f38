"""Compare a function with the same one of PyTorch, which differentiates it in float64."""

import numpy as np
import torch
from keras import ops

from benchmarks.gradients import gradients


def assert_values_and_gradients_equal(ours, theirs, given, rng) -> None:
    """Compare the values of two functions of float32 arrays, and their gradients for a random upstream gradient."""
    leaves = [torch.tensor(array.astype("float64"), requires_grad=True) for array in given]
    wanted = theirs(*leaves)
    upstream = rng.normal(size=wanted.shape).astype("float32")
    wanted.backward(torch.tensor(upstream))
    values = ours(*map(ops.convert_to_tensor, given))
    np.testing.assert_allclose(ops.convert_to_numpy(values), wanted.detach().numpy(), atol=1e-5)
    slopes = gradients(lambda *given: ops.sum(ours(*given) * ops.convert_to_tensor(upstream)), given)
    for slope, leaf in zip(slopes, leaves, strict=True):
        np.testing.assert_allclose(slope, leaf.grad.numpy(), atol=1e-5)
