"""Upsamplers with a convolution: transposed convolution, and resizing followed by a convolution."""

import math

import keras
from keras import ops

from unet import arithmetic
from unet.arguments import whole
from unet.backend import compiled_by_xla
from unet.upsamplers.base import Upsampler, check_enlarged
from unet.upsamplers.interpolation import nearest
from unet.upsamplers.settings import (
    ConvTransposeOptions,
    ResizeConvOptions,
    check_paddings,
    check_transposed_doubles,
    transposed_size,
)


@keras.saving.register_keras_serializable("unet")
class ConvTranspose(Upsampler):
    """Transposed convolution, ``y = Cᵀ·x`` with C the matrix of a strided convolution: projection and rule in one.

    Every input pixel adds a copy of the kernel to the output, ``strides`` pixels apart; the output size is
    ``o = (i − 1)·s − 2p + d(k − 1) + 1 + op`` (Dumoulin and Visin 2016, chapter 4). With kernel size 2, the default,
    the copies tile the output without overlap; kernel size 3 covers it unevenly, which causes the checkerboard of Odena
    et al. (2016); kernel size 4 covers it evenly again.

    With ``padding`` given, equal to ``torch.nn.ConvTranspose2d``. In a decoder the output must be at least twice as
    large as the input; rows and columns beyond the skip are cropped at the bottom and right.

    Args:
        filters: Output channels; required.
        kernel_size: Side of the kernel in pixels; 2, 3 and 4 are common.
        padding: Rows and columns cropped from every side of the full output. ``None`` is Keras' padding "same": the
            output size is ``strides·i``, and of the max(k − s, 0) cropped rows the smaller half is at the top and left.
        output_padding: Rows and columns added at the bottom and right. ``None``: as many as ``strides·i`` needs.
        strides: Distance of the copies in pixels; 2 in a decoder.
        dilation: Distance of the kernel's taps in pixels.
        **kwargs: See :class:`~unet.upsamplers.base.Upsampler`.

    Example:
        >>> layer = ConvTranspose(filters=8, kernel_size=4)
        >>> tuple(layer(ops.ones((1, 3, 4, 16))).shape)
        (1, 6, 8, 8)
    """

    def __init__(
        self,
        filters=None,
        kernel_size: int = 2,
        padding: int | None = None,
        output_padding: int | None = None,
        *,
        strides: int = 2,
        dilation: int = 1,
        **kwargs,
    ):
        if filters is None:
            raise ValueError("ConvTranspose requires filters, the number of output channels")
        options = ConvTransposeOptions.checked(kernel_size=kernel_size, padding=padding, output_padding=output_padding)
        super().__init__(filters, options=options, **kwargs)
        self.strides = whole("strides", strides, least=1)
        self.dilation = whole("dilation", dilation, least=1)
        check_paddings(self.kernel_size, self.padding, self.output_padding, self.strides, self.dilation)

    def make_projection(self):
        """Create nothing: the transposed convolution is the projection."""

    def check_doubles(self):
        if self.strides != 2:
            raise ValueError(f"strides must be 2 in a decoder, received {self.strides}")
        check_transposed_doubles(self.kernel_size, self.padding, self.output_padding, self.dilation)

    def build_rule(self, channels, skip_channels):
        """Create kernel ``(k, k, filters, C_in)`` and bias ``(filters,)``."""
        shape = (self.kernel_size, self.kernel_size, self.filters, channels)
        self.kernel = self.add_weight(shape=shape, initializer=self.seeded_initializer(), name="kernel")
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")

    def projected(self, channels):
        return channels

    def check_shapes(self, x_shape, skip_shape=None, argmax_shape=None):
        super().check_shapes(x_shape, skip_shape, argmax_shape)
        check_enlarged(self, x_shape)

    def upsample(self, x, skip=None, argmax=None):
        """Transpose the convolution, crop the padding and append the output padding."""
        kernel = dilated(self.kernel, self.dilation)
        tiles = self.kernel_size == self.strides and self.dilation == 1 and not (self.padding or self.output_padding)
        if tiles and compiled_by_xla():
            return ops.add(tiled(x, kernel), self.bias)
        if self.padding is None and self.dilation == 1:
            y = ops.conv_transpose(x, kernel, self.strides, padding="same", data_format="channels_last")
            return ops.add(y, self.bias)
        y = ops.conv_transpose(x, kernel, self.strides, padding="valid", data_format="channels_last")
        before, exceeding = self._cut()
        after = max(exceeding, 0)
        y = ops.pad(y, [[0, 0], [0, after], [0, after], [0, 0]])
        height, width = (self.enlarged(n) for n in ops.shape(x)[1:3])
        return y[:, before : before + height, before : before + width, :] + self.bias

    def _cut(self) -> tuple[int, int]:
        """Rows cropped at the top, and rows that the output extends beyond the full one at the bottom."""
        reach = arithmetic.extent(self.kernel_size, self.dilation)
        before = max(reach - self.strides, 0) // 2 if self.padding is None else self.padding
        return before, before + self.enlarged(1) - max(reach, self.strides)

    def enlarged(self, size):
        return transposed_size(size, self.kernel_size, self.padding, self.output_padding, self.strides, self.dilation)

    def rule_multiply_adds(self, x_shape) -> int:
        """Multiply every input pixel with the whole kernel once."""
        h, w, channels = x_shape
        return h * w * self.kernel_size**2 * channels * self.filters

    def get_config(self):
        return super().get_config() | {"strides": self.strides, "dilation": self.dilation}


@keras.saving.register_keras_serializable("unet")
class ResizeConv(Upsampler):
    """Nearest neighbour, then a 3×3 convolution: ``y = K * nearest(x)``, proposed by Odena et al. (2016).

    Every output pixel is covered by the same number of taps, and no weight belongs to one phase of the pixel grid, so
    a constant map stays constant: there is no checkerboard. The convolution at high resolution adds to the cost.

    Args:
        filters: See :class:`~unet.upsamplers.base.Upsampler`. ``None``: the convolution keeps the channels.
        kernel_size: Side of the convolution's kernel, an odd number of pixels.
        **kwargs: See :class:`~unet.upsamplers.base.Upsampler`.

    Example:
        >>> layer = ResizeConv(filters=8)
        >>> tuple(layer(ops.ones((1, 3, 4, 16))).shape)
        (1, 6, 8, 8)
    """

    def __init__(self, filters=None, kernel_size: int = 3, **kwargs):
        super().__init__(filters, options=ResizeConvOptions.checked(kernel_size=kernel_size), **kwargs)

    def build_rule(self, channels, skip_channels):
        config = self.kernel_initializer.get_config()
        if self.seed is not None and "seed" in config:
            config["seed"] = self.rule_seed(0)
        initializer = type(self.kernel_initializer).from_config(config)
        self.refine = self.convolution(channels, self.kernel_size, "refine", initializer)
        self.refine.build((None, None, None, channels))

    def upsample(self, x, skip=None, argmax=None):
        return self.refine(nearest(x))

    def rule_multiply_adds(self, x_shape) -> int:
        """Multiply-adds of the convolution at high resolution."""
        h, w, c = x_shape
        return 4 * h * w * self.kernel_size**2 * c * c


def tiled(x, kernel):
    """Transposed convolution whose kernel ``(s, s, filters, C)`` is as large as its stride, as one matrix product.

    XLA's own takes 4 to 13 times as long on a CPU; on a GPU it computes the kernel's gradient by a slow convolution.

    Args:
        x: Map ``(B, h, w, C)``.
        kernel: ``(s, s, filters, C)``.

    Returns:
        Map ``(B, s·h, s·w, filters)``.
    """
    size, _, filters, _ = kernel.shape
    height, width = (size * n for n in ops.shape(x)[1:3])
    return ops.reshape(ops.einsum("bhwc,ijfc->bhiwjf", x, kernel), (-1, height, width, filters))


def dilated(kernel, dilation: int):
    """Insert zeros between the taps of a kernel: ``(k, k, ...)`` to ``(d(k − 1) + 1, d(k − 1) + 1, ...)``."""
    if dilation == 1:
        return kernel
    size, _, *rest = kernel.shape
    reach = arithmetic.extent(size, dilation)
    kernel = ops.reshape(ops.convert_to_tensor(kernel), (size, 1, size, math.prod(rest)))
    kernel = ops.pad(kernel, [[0, 0], [0, dilation - 1], [0, 0], [0, 0]])
    kernel = ops.reshape(kernel, (size * dilation, size, 1, math.prod(rest)))
    kernel = ops.pad(kernel, [[0, 0], [0, 0], [0, dilation - 1], [0, 0]])
    return ops.reshape(kernel, (size * dilation, size * dilation, *rest))[:reach, :reach]
