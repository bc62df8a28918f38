"""The family of upsamplers and the registry that YAML names them by.

Adding one: a class with its rule (:class:`~unet.upsamplers.base.Upsampler`), and a line in ``UPSAMPLERS``.
"""

import inspect

from unet.upsamplers.base import Upsampler
from unet.upsamplers.conv_transpose import ConvTranspose
from unet.upsamplers.interpolation import Bilinear, Nearest
from unet.upsamplers.max_unpool import MaxPoolWithArgmax, MaxUnpool

UPSAMPLERS: dict[str, type[Upsampler]] = {
    "conv_transpose": ConvTranspose,
    "nearest": Nearest,
    "bilinear": Bilinear,
    "max_unpool": MaxUnpool,
}


def build(name: str, /, filters: int | None = None, **options) -> Upsampler:
    """Make the upsampler called ``name``; options are its constructor's arguments.

    Raises:
        ValueError: The name is not registered; the message lists those that are.
    """
    if name not in UPSAMPLERS:
        raise ValueError(f"unknown upsampler {name!r}; choose from {', '.join(UPSAMPLERS)}")
    return UPSAMPLERS[name](filters, **options)


def options(name: str) -> dict[str, inspect.Parameter]:
    """The options that belong to the upsampler called ``name`` itself, beyond what all share."""
    own = inspect.signature(UPSAMPLERS[name].__init__).parameters
    shared = inspect.signature(Upsampler.__init__).parameters
    return {key: value for key, value in own.items() if key not in shared}


__all__ = [
    "UPSAMPLERS",
    "Bilinear",
    "ConvTranspose",
    "MaxPoolWithArgmax",
    "MaxUnpool",
    "Nearest",
    "Upsampler",
    "build",
    "options",
]
