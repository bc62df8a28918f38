"""Upsamplers that are convolutions: transposed, and resize followed by convolution."""

import math

import keras
from keras import ops

from unet import arithmetic
from unet.upsamplers.base import Upsampler, check_positive
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

    Size ``o = (i − 1)·s − 2p + d(k − 1) + 1 + op`` (Dumoulin and Visin 2016, chapter 4); every input pixel adds a copy
    of the kernel to the output at stride s. With the default kernel 2 the copies tile the output without overlap;
    kernel 3 covers pixels unevenly, the checkerboard of Odena et al. (2016); kernel 4 evenly again.

    Args:
        filters: Output channels; required.
        kernel_size: Side of the kernel in pixels; 2, 3 and 4 are in use.
        padding: Rows and columns cut from every side of the full result. ``None`` is Keras' 'same': the result is
            ``strides·i``, max(k − s, 0) cut in all, the smaller half of it at the top and left.
        output_padding: Rows and columns kept more at the bottom and right. ``None``: as many as ``strides·i`` needs.
        strides: Distance of the copies in pixels; 2 in a decoder.
        dilation: Distance of the kernel's taps in pixels.
        **kwargs: See :class:`~unet.upsamplers.base.Upsampler`. With padding given, equal to
            ``torch.nn.ConvTranspose2d``. In a decoder the result must be at least twice as large; what exceeds the skip
            is cut at the bottom and right.

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
            raise ValueError("ConvTranspose is a learned upsampler: give filters, the number of output channels")
        options = ConvTransposeOptions.checked(kernel_size=kernel_size, padding=padding, output_padding=output_padding)
        super().__init__(filters, options=options, **kwargs)
        check_positive(strides=strides, dilation=dilation)
        check_paddings(kernel_size, padding, output_padding, strides, dilation)
        self.strides = strides
        self.dilation = dilation

    def make_projection(self):
        """Make nothing: the transposed convolution is the projection."""

    def check_doubles(self):
        """Raise a ValueError with the paddings that reach twice the size, if these do not."""
        if self.strides != 2:
            raise ValueError(f"strides must be 2 in a decoder, received {self.strides}")
        check_transposed_doubles(self.kernel_size, self.padding, self.output_padding, self.dilation)

    def build_rule(self, channels, skip_channels):
        """Create kernel ``(k, k, filters, C_in)`` and bias ``(filters,)``."""
        shape = (self.kernel_size, self.kernel_size, self.filters, channels)
        self.kernel = self.add_weight(shape=shape, initializer=self.kernel_initializer, name="kernel")
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")

    def projected(self, channels):
        """Channels of the input: nothing comes before the rule."""
        return channels

    def upsample(self, x, skip=None, argmax=None):
        """Transpose the convolution, then cut its padding and add what the output padding lacks."""
        kernel = dilated(self.kernel, self.dilation)
        if self.padding is None and self.dilation == 1:
            return ops.conv_transpose(x, kernel, self.strides, padding="same") + self.bias
        y = ops.conv_transpose(x, kernel, self.strides, padding="valid")
        before, exceeding = self._cut()
        after = max(exceeding, 0)
        y = ops.pad(y, [[0, 0], [0, after], [0, after], [0, 0]])
        height, width = (self.enlarged(n) for n in ops.shape(x)[1:3])
        return y[:, before : before + height, before : before + width, :] + self.bias

    def _cut(self) -> tuple[int, int]:
        """Rows cut at the top, and rows that the result reaches beyond the full one at the bottom."""
        reach = arithmetic.extent(self.kernel_size, self.dilation)
        before = max(reach - self.strides, 0) // 2 if self.padding is None else self.padding
        return before, before + self.enlarged(1) - max(reach, self.strides)

    def enlarged(self, size):
        """Height or width of the result."""
        return transposed_size(size, self.kernel_size, self.padding, self.output_padding, self.strides, self.dilation)

    def rule_multiply_adds(self, x_shape) -> int:
        """Every input pixel meets the whole kernel once."""
        h, w, channels = x_shape
        return h * w * self.kernel_size**2 * channels * self.filters

    def get_config(self):
        """Everything needed to build the layer again."""
        return super().get_config() | {
            "strides": self.strides,
            "dilation": self.dilation,
        }


@keras.saving.register_keras_serializable("unet")
class ResizeConv(Upsampler):
    """Nearest neighbour, then a 3×3 convolution: ``y = K * nearest(x)``, the remedy of Odena et al. (2016).

    Every target pixel is covered by the same number of taps, and no weight belongs to a pixel phase, so that a constant
    map stays constant: no checkerboard. The 3×3 convolution at high resolution is its own cost.

    Args:
        filters: See :class:`~unet.upsamplers.base.Upsampler`. ``None``: the 3×3 convolution keeps the channels.
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
        """Make the convolution at high resolution."""
        config = self.kernel_initializer.get_config()
        if self.seed is not None and "seed" in config:
            config["seed"] = self.rule_seed(0)
        initializer = type(self.kernel_initializer).from_config(config)
        self.refine = self.convolution(channels, self.kernel_size, "refine", initializer)
        self.refine.build((None, None, None, channels))

    def upsample(self, x, skip=None, argmax=None):
        """Copy every pixel into a 2×2 cell, then convolve."""
        return self.refine(nearest(x))

    def rule_multiply_adds(self, x_shape) -> int:
        """The convolution at high resolution."""
        h, w, c = x_shape
        return 4 * h * w * self.kernel_size**2 * c * c


def dilated(kernel, dilation: int):
    """Spread the taps of a kernel ``(k, k, ...)`` by zeros: ``(d(k − 1) + 1, d(k − 1) + 1, ...)``."""
    if dilation == 1:
        return kernel
    size, _, *rest = kernel.shape
    reach = arithmetic.extent(size, dilation)
    kernel = ops.reshape(ops.convert_to_tensor(kernel), (size, 1, size, math.prod(rest)))
    kernel = ops.pad(kernel, [[0, 0], [0, dilation - 1], [0, 0], [0, 0]])
    kernel = ops.reshape(kernel, (size * dilation, size, 1, math.prod(rest)))
    kernel = ops.pad(kernel, [[0, 0], [0, 0], [0, dilation - 1], [0, 0]])
    return ops.reshape(kernel, (size * dilation, size * dilation, *rest))[:reach, :reach]
