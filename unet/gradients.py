"""Functions with a custom backward pass, the same on every backend."""

from collections.abc import Callable

from keras import ops


def differentiable(forward: Callable, backward: Callable) -> Callable:
    """Give ``forward`` the gradient ``backward``.

    Useful if the adjoint has a simple form: it saves the tensors that automatic differentiation would store or copy.

    Args:
        forward: Function from tensors to one tensor.
        backward: ``backward(upstream, *inputs)`` returns the gradients of the inputs, a tensor or a tuple of tensors.

    Returns:
        A function of the same tensors.
    """

    @ops.custom_gradient
    def function(*inputs):
        def gradient(*saved, upstream=None):
            return backward(saved[0] if upstream is None else upstream, *inputs)

        return forward(*inputs), gradient

    return function
