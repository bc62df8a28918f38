"""Functions with a backward pass of their own, the same on every backend."""

from collections.abc import Callable

from keras import ops


def differentiable(forward: Callable, backward: Callable) -> Callable:
    """Give ``forward`` the gradient ``backward``.

    For linear maps whose adjoint has a simple form of its own: what automatic differentiation would keep for the
    backward pass, or the copies it would make, is then not spent.

    Args:
        forward: Tensors to one tensor.
        backward: ``backward(upstream, *inputs)`` gives the gradient of each input, a tensor or a tuple of them.

    Returns:
        A function of the same tensors.
    """

    @ops.custom_gradient
    def function(*inputs):
        def gradient(*saved, upstream=None):
            return backward(saved[0] if upstream is None else upstream, *inputs)

        return forward(*inputs), gradient

    return function
