"""Upsamplers that turn four channels at low resolution into one at high resolution."""

import keras
from keras import ops

from unet import resample
from unet.upsamplers.base import Upsampler
from unet.upsamplers.interpolation import separable_multiply_adds
from unet.upsamplers.settings import PixelShuffleOptions


class FourChannelsForOne(Upsampler):
    """Base class: a 1×1 projection to 4·filters channels, which costs as much as the others' 2×2 one to filters.

    The bias is added after the rule, one per filter: a bias per phase of the pixel grid would cause a checkerboard.
    """

    def make_projection(self):
        return self.convolution(4 * self.filters, 1, "projection", self.seeded_initializer(), use_bias=False)

    def build_rule(self, channels, skip_channels):
        if channels % 4:
            name = type(self).__name__
            raise ValueError(f"{name} turns four channels into one: {channels} channels do not divide by 4")
        if self.filters:
            self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")

    def upsample(self, x, skip=None, argmax=None):
        y = self.gather(x)
        return y + self.bias if self.filters else y

    def gather(self, x):
        """Combine four channels into one: ``(B, h, w, 4C)`` to ``(B, 2h, 2w, C)``."""
        raise NotImplementedError

    def projected(self, channels):
        return 4 * self.filters if self.filters else channels

    def output_channels(self, channels):
        return self.filters or channels // 4


@keras.saving.register_keras_serializable("unet")
class PixelShuffle(FourChannelsForOne):
    """Sub-pixel convolution: ``y[2h+i, 2w+j, c] = x[h, w, (2i + j)·C + c]`` (Shi et al. 2016).

    The channel order is that of ``depth_to_space`` in Keras and TensorFlow; PyTorch's ``PixelShuffle`` reads channel
    ``4c + 2i + j`` instead. With ``filters`` it is a transposed convolution of kernel size 2, initialized differently.

    Args:
        filters: See :class:`~unet.upsamplers.base.Upsampler`. ``None``: only rearranges 4C channels into C.
        icnr: Initialize the four pixels of a cell with equal weights (:class:`ICNR`), so that the untrained layer is a
            convolution followed by nearest neighbour, without a checkerboard.
        **kwargs: See :class:`~unet.upsamplers.base.Upsampler`.

    Example:
        >>> layer = PixelShuffle(filters=8)
        >>> tuple(layer(ops.ones((1, 3, 4, 16))).shape)
        (1, 6, 8, 8)
    """

    def __init__(self, filters=None, icnr: bool = True, **kwargs):
        super().__init__(filters, options=PixelShuffleOptions.checked(icnr=icnr), **kwargs)

    def make_projection(self):
        initializer = ICNR(self.seeded_initializer()) if self.icnr else self.seeded_initializer()
        return self.convolution(4 * self.filters, 1, "projection", initializer, use_bias=False)

    def gather(self, x):
        return pixel_shuffle(x)


@keras.saving.register_keras_serializable("unet")
class BilinearAdditive(FourChannelsForOne):
    """Bilinear additive upsampling: ``y[..., c] = Σ_{q<4} bilinear(x)[..., 4c + q]`` (Wojna et al. 2017).

    Interpolates four channels and sums them, so the output has as many values as the input; the rule has no weights.
    Arguments and shapes: see :class:`~unet.upsamplers.base.Upsampler`; without ``filters`` the channels are quartered.

    Example:
        >>> layer = BilinearAdditive(filters=8)
        >>> tuple(layer(ops.ones((1, 3, 4, 16))).shape)
        (1, 6, 8, 8)
    """

    def gather(self, x):
        # Summing first gives the same values as interpolating first, and is cheaper.
        height, width, channels = ops.shape(x)[1:]
        x = ops.sum(ops.reshape(x, (-1, height, width, channels // 4, 4)), axis=-1)
        return resample.double(x)

    def rule_multiply_adds(self, x_shape) -> int:
        """Multiply-adds of the bilinear interpolation of a quarter of the channels."""
        h, w, c = x_shape
        return separable_multiply_adds((h, w, c // 4), taps=2)


@keras.saving.register_keras_serializable("unet")
class ICNR(keras.initializers.Initializer):
    """Initializer that makes a convolution followed by a pixel shuffle equal to nearest neighbour (Aitken et al. 2017).

    Draws a kernel ``(k, k, in, C)`` and repeats it for the four pixels of a cell: ``(k, k, in, 4C)``, in the channel
    order of :class:`PixelShuffle`.

    Args:
        initializer: Initializer that draws the kernel.

    Example:
        >>> kernel = ICNR("he_normal")((1, 1, 16, 32))
        >>> tuple(kernel.shape)
        (1, 1, 16, 32)
    """

    def __init__(self, initializer="glorot_uniform"):
        self.initializer = keras.initializers.get(initializer)

    def __call__(self, shape, dtype=None):
        """Draw a kernel of ``shape``, whose last axis must divide by 4."""
        kernel = self.initializer((*shape[:-1], shape[-1] // 4), dtype=dtype)
        return ops.concatenate([kernel] * 4, axis=-1)

    def get_config(self):
        return {"initializer": keras.initializers.serialize(self.initializer)}


def pixel_shuffle(x):
    """Rearrange ``(B, h, w, 4C)`` to ``(B, 2h, 2w, C)``: ``y[2h+i, 2w+j, c] = x[h, w, (2i + j)·C + c]``."""
    height, width, channels = ops.shape(x)[1:]
    x = ops.reshape(x, (-1, width, 2, channels // 2))  # two pixels for each of the two rows of a cell
    return ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, 2 * height, 2 * width, channels // 4))


def pixel_unshuffle(y):
    """Undo :func:`pixel_shuffle`: ``(B, 2h, 2w, C)`` to ``(B, h, w, 4C)``."""
    height, width, channels = ops.shape(y)[1:]
    y = ops.reshape(y, (-1, 2, width // 2, 2 * channels))
    return ops.reshape(ops.transpose(y, (0, 2, 1, 3)), (-1, height // 2, width // 2, 4 * channels))
