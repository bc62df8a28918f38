"""Environment variables that apply for as long as a block of code runs."""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def environment_variables(**values: str) -> Iterator[None]:
    """Set environment variables, and restore what the caller had at the end.

    For libraries that read their settings from the environment, most of them while they are imported.
    """
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
