"""The family of upsamplers and the registry that YAML names them by.

Adding one: a class with its rule (:class:`~unet.upsamplers.base.Upsampler`), and a line in ``UPSAMPLERS``.
"""

import inspect

from unet.upsamplers.base import Upsampler
from unet.upsamplers.convolution import ConvTranspose, ResizeConv
from unet.upsamplers.interpolation import Bicubic, Bilinear, Nearest
from unet.upsamplers.reassembly import Carafe, Fade, Sapa
from unet.upsamplers.sampling import DySample
from unet.upsamplers.sub_pixel import ICNR, BilinearAdditive, PixelShuffle
from unet.upsamplers.unpooling import BedOfNails, MaxPoolWithArgmax, MaxUnpool

UPSAMPLERS: dict[str, type[Upsampler]] = {
    "nearest": Nearest,
    "bilinear": Bilinear,
    "bicubic": Bicubic,
    "bed_of_nails": BedOfNails,
    "max_unpool": MaxUnpool,
    "conv_transpose": ConvTranspose,
    "resize_conv": ResizeConv,
    "pixel_shuffle": PixelShuffle,
    "bilinear_additive": BilinearAdditive,
    "carafe": Carafe,
    "dysample": DySample,
    "sapa": Sapa,
    "fade": Fade,
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
    return {k: v for k, v in own.items() if k not in shared and v.kind is not inspect.Parameter.KEYWORD_ONLY}


__all__ = [
    "ICNR",
    "UPSAMPLERS",
    "BedOfNails",
    "Bicubic",
    "Bilinear",
    "BilinearAdditive",
    "Carafe",
    "ConvTranspose",
    "DySample",
    "Fade",
    "MaxPoolWithArgmax",
    "MaxUnpool",
    "Nearest",
    "PixelShuffle",
    "ResizeConv",
    "Sapa",
    "Upsampler",
    "build",
    "options",
]
