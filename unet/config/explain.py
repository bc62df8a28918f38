"""Mistakes in a configuration as messages: the place, the key, what is wrong and what is accepted."""

from pydantic import ValidationError

from unet.config.schema import Config
from unet.errors import shortened
from unet.settings import mistakes

Places = dict[tuple[str, ...], str]
"""Where each key was written, as ``file:line`` or ``command line``."""


def explain(error: ValidationError, places: Places, origin: str) -> str:
    """List mistakes, one per line; ``origin`` is the place of keys that were not written anywhere."""
    return "\n".join(
        f"{_place(keys, places) or origin}: {shortened('.'.join(keys)) or 'config'}: {text}"
        for keys, text in mistakes(error, Config)
    )


def _place(keys: tuple[str, ...], places: Places) -> str | None:
    """Place of a key, else of one below it, else of the closest one above it."""
    if keys in places:
        return places[keys]
    below = [place for key, place in places.items() if keys and key[: len(keys)] == keys]
    above = [places[keys[:n]] for n in range(len(keys) - 1, 0, -1) if keys[:n] in places]
    return next(iter([*below, *above]), None)
