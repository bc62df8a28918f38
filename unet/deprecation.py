"""Former names of options, accepted for one release."""

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def renamed(**names: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Accept keyword arguments by their former names, with a DeprecationWarning.

    Args:
        names: ``former="present"``, for each argument that was renamed.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            for former in names.keys() & kwargs.keys():
                present = names[former]
                message = f"{function.__name__}(): the argument {former!r} is now called {present!r}"
                warnings.warn(message, DeprecationWarning, stacklevel=2)
                kwargs[present] = kwargs.pop(former)
            return function(*args, **kwargs)

        return call

    return decorate
