"""The upsamplers and the registry that YAML names them by.

Adding one takes a layer (:class:`~unet.upsamplers.base.Upsampler`), a model of its options if it has any, and a line in
``UPSAMPLERS``. A program can register a layer of its own: ``UPSAMPLERS["mine"] = MyLayer``. Importing this package does
not import Keras; a layer is imported when it is first used.
"""

import importlib
import inspect
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import create_model
from pydantic.fields import FieldInfo

from unet.upsamplers import settings

if TYPE_CHECKING:
    from unet.upsamplers.base import Upsampler as Upsampler
    from unet.upsamplers.sub_pixel import ICNR as ICNR
    from unet.upsamplers.unpooling import MaxPoolWithArgmax as MaxPoolWithArgmax


@dataclass(frozen=True)
class Entry:
    """What the registry knows about an upsampler without importing Keras."""

    layer: "str | type[Upsampler]"
    """The layer, or its module in this package and class, as ``"interpolation:Bilinear"``."""
    rule: str
    """What it does, in one sentence."""
    options: type[settings.Options] = settings.Options
    """Model of its options."""
    unpools: bool = False
    """Whether it needs the positions of the maxima that the encoder pooled."""
    keeps_channels: bool = False
    """Whether a decoder stage needs the channels of the encoder's, because it combines the two channel by channel."""

    def __call__(self, *args, **kwargs) -> "Upsampler":
        """Create the layer. Deprecated, as are its attributes: use :func:`build` and :func:`layer_class`."""
        return self._former()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._former(), name)

    def _former(self) -> "type[Upsampler]":
        message = "UPSAMPLERS holds entries instead of layers: use unet.upsamplers.layer_class(name) for the layer"
        warnings.warn(message, DeprecationWarning, stacklevel=3)
        return _imported(self.layer)

    @classmethod
    def of(cls, layer: "type[Upsampler]") -> "Entry":
        """Make the entry of a layer: the rule is the first line of its docstring, options are its own arguments."""
        shared = inspect.signature(_imported("base:Upsampler")).parameters
        fields: dict[str, Any] = {
            one.name: (
                type(one.default) if one.annotation is one.empty else one.annotation,
                ... if one.default is one.empty else one.default,
            )
            for one in inspect.signature(layer, eval_str=True).parameters.values()
            if one.name not in shared and one.kind is one.POSITIONAL_OR_KEYWORD
        }
        rule = (inspect.getdoc(layer) or layer.__name__).partition("\n")[0]
        return cls(
            layer,
            rule,
            create_model(f"{layer.__name__}Options", __base__=settings.Options, **fields),
            unpools=layer.needs_argmax,
            keeps_channels=layer.needs_argmax,
        )


class Registry(dict[str, Entry]):
    """Entries by name; a layer is accepted in place of its entry."""

    def __setitem__(self, name: str, entry: "Entry | type[Upsampler]") -> None:
        super().__setitem__(name, entry if isinstance(entry, Entry) else Entry.of(entry))


UPSAMPLERS = Registry(
    {
        "nearest": Entry("interpolation:Nearest", "Copies each pixel into a 2×2 cell."),
        "bilinear": Entry(
            "interpolation:Bilinear", "Interpolates linearly between two pixels per axis.", settings.BilinearOptions
        ),
        "bicubic": Entry(
            "interpolation:Bicubic",
            "Interpolates between four pixels per axis by cubic convolution.",
            settings.BicubicOptions,
        ),
        "bed_of_nails": Entry("unpooling:BedOfNails", "Puts each pixel at the top left of its cell, zeros elsewhere."),
        "max_unpool": Entry(
            "unpooling:MaxUnpool",
            "Puts each value where the pooling found its maximum, zeros elsewhere (SegNet).",
            unpools=True,
            keeps_channels=True,
        ),
        "conv_transpose": Entry(
            "convolution:ConvTranspose",
            "Transposed convolution: projection and rule in one.",
            settings.ConvTransposeOptions,
        ),
        "resize_conv": Entry(
            "convolution:ResizeConv", "Nearest neighbour, then a 3×3 convolution.", settings.ResizeConvOptions
        ),
        "pixel_shuffle": Entry(
            "sub_pixel:PixelShuffle",
            "Sub-pixel convolution, initialized without a checkerboard (ICNR).",
            settings.PixelShuffleOptions,
        ),
        "bilinear_additive": Entry(
            "sub_pixel:BilinearAdditive", "Sums groups of four bilinearly interpolated channels."
        ),
        "carafe": Entry(
            "reassembly:Carafe", "Gathers with kernels predicted from the feature map.", settings.CarafeOptions
        ),
        "dysample": Entry("sampling:DySample", "Samples bilinearly at predicted positions.", settings.DySampleOptions),
        "sapa": Entry("reassembly:Sapa", "Gathers by the similarity of skip and feature map.", settings.SapaOptions),
        "fade": Entry(
            "reassembly:Fade",
            "Gathers with kernels predicted from skip and feature map, and gates in the skip.",
            settings.FadeOptions,
            keeps_channels=True,
        ),
    }
)


def build(name: str, /, filters: int | None = None, **options) -> "Upsampler":
    """Create the upsampler called ``name``.

    Args:
        name: A key of ``UPSAMPLERS``.
        filters: Output channels; ``None`` leaves the projection out.
        **options: Further arguments of the layer.

    Raises:
        ValueError: The name is not registered, or an option is wrong; the message lists what is accepted.
    """
    return layer_class(name)(filters, **options)


def layer_class(name: str) -> "type[Upsampler]":
    """Import the layer of the upsampler called ``name``.

    Raises:
        ValueError: The name is not registered; the message lists the names that are.
    """
    if name not in UPSAMPLERS:
        raise ValueError(f"unknown upsampler {name!r}; choose from {', '.join(UPSAMPLERS)}")
    return _imported(UPSAMPLERS[name].layer)


def options(name: str) -> dict[str, FieldInfo]:
    """Options that the upsampler called ``name`` has of its own, as pydantic fields by name."""
    return UPSAMPLERS[name].options.model_fields


def register() -> None:
    """Import every layer, so that Keras can load saved models that contain it."""
    for layer in _layers().values():
        _imported(layer)


_ALSO = {"Upsampler": "base:Upsampler", "MaxPoolWithArgmax": "unpooling:MaxPoolWithArgmax", "ICNR": "sub_pixel:ICNR"}


def _layers() -> "dict[str, str | type[Upsampler]]":
    """Every public class, or its module and name, by its name."""
    layers = (entry.layer for entry in UPSAMPLERS.values())
    return _ALSO | {layer.split(":")[1] if isinstance(layer, str) else layer.__name__: layer for layer in layers}


def _imported(layer: "str | type[Upsampler]"):
    if not isinstance(layer, str):
        return layer
    module, name = layer.split(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


def __getattr__(name: str) -> "type[Upsampler]":
    if layer := _layers().get(name):
        return _imported(layer)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_layers()})


__all__ = ["UPSAMPLERS", "Entry", "build", "layer_class", "options", "register", *_layers()]
