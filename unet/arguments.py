"""Checks of arguments that several modules take: whole numbers and flags, of Python or numpy."""

import operator
from typing import Any

import numpy as np


def whole(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """Return ``value`` as an int.

    Raises:
        ValueError: It is not a whole number, or not between ``least`` and ``most``; a bool and ``2.0`` are not whole
            numbers.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or (least is not None and number < least) or (most is not None and number > most):
        bound = "" if least is None else f" ≥ {least}" if most is None else f" from {least} to {most}"
        raise ValueError(f"{name} must be a whole number{bound}, received {value!r}")
    return number


def flag(name: str, value: Any) -> bool:
    """Return ``value`` as a bool.

    Raises:
        ValueError: It is not a bool; 0, 1 and "no" are not bools.
    """
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} must be True or False, received {value!r}")
    return bool(value)
