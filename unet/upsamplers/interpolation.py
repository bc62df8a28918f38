"""Upsamplers that interpolate: every output pixel is a fixed weighted mean of input pixels."""

import functools

import keras
from keras import ops

from unet import resample
from unet.upsamplers.base import Upsampler
from unet.upsamplers.settings import BicubicOptions, BilinearOptions


@keras.saving.register_keras_serializable("unet")
class Nearest(Upsampler):
    """Nearest neighbour: ``y[2h+i, 2w+j] = x[h, w]`` for i, j in {0, 1}.

    Also called nearest-neighbour unpooling. Arguments and shapes: see :class:`~unet.upsamplers.base.Upsampler`.

    Example:
        >>> layer = Nearest(filters=8)
        >>> tuple(layer(ops.ones((1, 3, 4, 16))).shape)
        (1, 6, 8, 8)
    """

    def upsample(self, x, skip=None, argmax=None):
        return nearest(x)


@keras.saving.register_keras_serializable("unet")
class Bilinear(Upsampler):
    """Bilinear interpolation: ``y = A_h · x · A_wᵀ`` with matrices of hat functions (see :mod:`unet.resample`).

    Args:
        filters: See :class:`~unet.upsamplers.base.Upsampler`.
        align_corners: ``False`` aligns the edges of the images (source position ``(v + ½)/2 − ½``, clamped); ``True``
            aligns the centres of the corner pixels (``v·(n − 1)/(2n − 1)``). Both equal ``torch.nn.Upsample``.
        **kwargs: See :class:`~unet.upsamplers.base.Upsampler`.

    Example:
        >>> layer = Bilinear(filters=8, align_corners=True)
        >>> tuple(layer(ops.ones((1, 3, 4, 16))).shape)
        (1, 6, 8, 8)
    """

    def __init__(self, filters=None, align_corners: bool = False, **kwargs):
        super().__init__(filters, options=BilinearOptions.checked(align_corners=align_corners), **kwargs)

    def upsample(self, x, skip=None, argmax=None):
        return resample.double(x, resample.linear_weights, 1, self.align_corners)

    def rule_multiply_adds(self, x_shape) -> int:
        """Multiply-adds of two taps per pixel along each axis."""
        return separable_multiply_adds(x_shape, taps=2)


@keras.saving.register_keras_serializable("unet")
class Bicubic(Upsampler):
    """Bicubic interpolation: ``y = A_h · x · A_wᵀ`` with matrices of cubic convolution kernels (Keys 1981).

    Args:
        filters: See :class:`~unet.upsamplers.base.Upsampler`.
        a: Slope of the kernel at distance 1, from −1 to 0: −0.75 equals ``torch.nn.Upsample(mode="bicubic")``, −0.5 is
            the kernel of Pillow and TensorFlow.
        align_corners: See :class:`Bilinear`.
        **kwargs: See :class:`~unet.upsamplers.base.Upsampler`.

    Example:
        >>> layer = Bicubic(filters=8, a=-0.5)
        >>> tuple(layer(ops.ones((1, 3, 4, 16))).shape)
        (1, 6, 8, 8)
    """

    def __init__(self, filters=None, a: float = -0.75, align_corners: bool = False, **kwargs):
        super().__init__(filters, options=BicubicOptions.checked(a=a, align_corners=align_corners), **kwargs)

    def upsample(self, x, skip=None, argmax=None):
        weights = functools.partial(resample.cubic_weights, a=self.a)
        return resample.double(x, weights, 2, self.align_corners)

    def rule_multiply_adds(self, x_shape) -> int:
        """Multiply-adds of four taps per pixel along each axis."""
        return separable_multiply_adds(x_shape, taps=4)


def nearest(x):
    """Copy every pixel into a 2×2 cell: ``(B, h, w, C)`` to ``(B, 2h, 2w, C)``."""
    height, width, channels = ops.shape(x)[1:]
    y = ops.repeat(ops.repeat(x, 2, axis=1), 2, axis=2)
    return ops.reshape(y, (-1, 2 * height, 2 * width, channels))  # repeat loses the channels of dynamic shapes


def separable_multiply_adds(x_shape, taps: int) -> int:
    """Multiply-adds of ×2 interpolation along one axis, then the other, with ``taps`` input pixels per output pixel."""
    h, w, c = x_shape
    return taps * (2 * h * w * c + 4 * h * w * c)
