"""Options of the upsamplers and the rules that their values follow; importable without Keras."""

from typing import Annotated, Literal, Self

import numpy as np
from pydantic import AfterValidator, Field

from unet import arithmetic
from unet.settings import Mistakes, Settings


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError(f"must be odd, so that the kernel has a centre, received {value}")
    return value


Positive = Annotated[int, Field(ge=1)]
Channels = Annotated[int, Field(ge=1, le=2**14)]
Kernel = Annotated[int, Field(ge=1, le=64)]
Odd = Annotated[Kernel, AfterValidator(_odd)]
NonNegative = Annotated[int, Field(ge=0)]


class Options(Settings):
    """Options of one upsampler; the fields are the layer's arguments and the keys in YAML."""

    @classmethod
    def checked(cls, **values) -> Self:
        """Build from values, of which numpy scalars count as Python's; errors as in the base class."""
        return super().checked(
            **{name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}
        )

    def check_doubles(self) -> None:
        """Raise :class:`~unet.settings.Mistakes` if the result is not at least twice the size, as a decoder needs."""

    def check_channels(self, channels: int) -> None:
        """Raise :class:`~unet.settings.Mistakes` if the rule cannot be applied to this number of channels."""

    def weights(self, inputs: int, filters: int) -> int:
        """Number of weights from ``inputs`` channels to ``filters``, with a skip of as many; biases do not count."""
        return 4 * inputs * filters


class BilinearOptions(Options):
    """Options of ``bilinear``."""

    align_corners: bool = False
    """Align the centres of the corner pixels (true) or the edges of the image (false)."""


class BicubicOptions(Options):
    """Options of ``bicubic``."""

    a: Annotated[float, Field(ge=-1, le=0)] = -0.75
    """Slope of the cubic kernel at distance 1: -0.75 as in PyTorch, -0.5 as in Pillow and TensorFlow."""
    align_corners: bool = False
    """Align the centres of the corner pixels (true) or the edges of the image (false)."""


class ConvTransposeOptions(Options):
    """Options of ``conv_transpose``."""

    kernel_size: Kernel = 2
    """Side of the kernel in pixels; 2, 3 and 4 are common."""
    padding: NonNegative | None = None
    """Rows and columns cropped from every side; null: Keras' padding "same"."""
    output_padding: NonNegative | None = None
    """Rows and columns added at the bottom and right; null: as many as twice the size needs."""

    def check_doubles(self):
        check_paddings(self.kernel_size, self.padding, self.output_padding)
        check_transposed_doubles(self.kernel_size, self.padding, self.output_padding)

    def weights(self, inputs, filters):
        return self.kernel_size**2 * inputs * filters


class ResizeConvOptions(Options):
    """Options of ``resize_conv``."""

    kernel_size: Odd = 3
    """Side of the convolution's kernel in pixels, odd."""

    def weights(self, inputs, filters):
        return super().weights(inputs, filters) + self.kernel_size**2 * filters**2


class PixelShuffleOptions(Options):
    """Options of ``pixel_shuffle``."""

    icnr: bool = True
    """Start with equal weights for the four pixels of a cell, so that the untrained layer has no checkerboard."""


class ReassemblyOptions(Options):
    """Options of every upsampler that predicts its kernels."""

    k_up: Odd = 5
    """Side of the predicted kernels in source pixels, odd."""


class CarafeOptions(ReassemblyOptions):
    """Options of ``carafe``."""

    groups: Positive = 1
    """Groups of neighbouring channels with separate kernels; must divide the channels of every decoder stage."""
    compressed: Channels = 64
    """Channels of the 1×1 convolution before the kernels are predicted."""
    k_encoder: Odd = 3
    """Side of the convolution that predicts the kernels, odd."""

    def check_channels(self, channels):
        check_groups(self.groups, channels)

    def weights(self, inputs, filters):
        encoder = self.k_encoder**2 * self.compressed * 4 * self.groups * self.k_up**2
        return super().weights(inputs, filters) + filters * self.compressed + encoder


class SapaOptions(ReassemblyOptions):
    """Options of ``sapa``."""

    embedding: Channels = 64
    """Length of the vectors that are compared."""

    def weights(self, inputs, filters):
        return super().weights(inputs, filters) + 2 * filters * self.embedding


class FadeOptions(ReassemblyOptions):
    """Options of ``fade``."""

    compressed: Channels = 64
    """Channels of both maps before the kernels are predicted."""

    def weights(self, inputs, filters):
        encoder = 9 * self.compressed * self.k_up**2
        return super().weights(inputs, filters) + 2 * filters * self.compressed + encoder + filters


class DySampleOptions(Options):
    """Options of ``dysample``."""

    style: Literal["lp", "pl"] = "lp"
    """Predict offsets at low resolution (lp: linear, then pixel shuffle) or at high resolution (pl)."""
    dynamic_scope: bool = False
    """Scale the offsets by a predicted factor (the "+" variant) instead of the constant 0.25."""
    groups: Positive = 4
    """Groups of neighbouring channels with separate offsets; must divide the channels of every decoder stage."""

    def check_channels(self, channels):
        check_groups(self.groups, channels)
        if self.style == "pl" and channels % 4:
            raise Mistakes.of("style", f"pl shuffles four channels into one: {channels} channels do not divide by 4")

    def weights(self, inputs, filters):
        predictor = 8 * self.groups * filters if self.style == "lp" else self.groups * filters // 2
        return super().weights(inputs, filters) + (1 + self.dynamic_scope) * predictor


# === Rules that a layer and its options share ===


def check_groups(groups: int, channels: int) -> None:
    """Raise :class:`~unet.settings.Mistakes` if the groups do not divide the channels."""
    if channels % groups:
        choices = ", ".join(str(n) for n in range(1, channels + 1) if channels % n == 0)
        raise Mistakes.of("groups", f"{groups} does not divide the {channels} channels; choose from {choices}")


def check_paddings(
    kernel_size: int, padding: int | None, output_padding: int | None, strides: int = 2, dilation: int = 1
) -> None:
    """Raise :class:`~unet.settings.Mistakes` if a transposed convolution cannot have these paddings."""
    if padding is None and output_padding is not None:
        raise Mistakes.of("output_padding", "needs padding: give both, or neither for Keras' padding 'same'")
    limits = {
        "padding": (padding, arithmetic.full_padding(kernel_size, dilation)),
        "output_padding": (output_padding, max(strides, dilation) - 1),
    }
    for name, (value, largest) in limits.items():
        if value is not None and value > largest:
            raise Mistakes.of(name, f"must be from 0 to {largest} with kernel_size {kernel_size}, received {value}")


def transposed_size(
    size: int, kernel_size: int, padding: int | None, output_padding: int | None, strides: int = 2, dilation: int = 1
) -> int:
    """Output size of a transposed convolution; ``None`` as in :class:`ConvTransposeOptions`."""
    if padding is None:
        return strides * size
    exact = (size - 1) * strides - 2 * padding + arithmetic.extent(kernel_size, dilation)
    if output_padding is not None:
        return exact + output_padding
    return exact + min(max(strides * size - exact, 0), max(strides, dilation) - 1)


def check_transposed_doubles(
    kernel_size: int, padding: int | None, output_padding: int | None, dilation: int = 1
) -> None:
    """Raise :class:`~unet.settings.Mistakes` if a transposed convolution of stride 2 does not reach twice the size."""
    if transposed_size(1, kernel_size, padding, output_padding, dilation=dilation) >= 2:
        return
    sizes = arithmetic.conv_transpose_sizes(1, kernel_size, dilation=dilation)
    pairs = sorted(pair for size, reached in sizes.items() if size >= 2 for pair in reached)
    choices = f"choose (padding, output_padding) from {', '.join(map(str, pairs))}" if pairs else "no padding does"
    raise Mistakes.of(
        "padding",
        f"{padding} with kernel_size {kernel_size} and output_padding {output_padding} does not reach twice the input "
        f"size; {choices}",
    )
