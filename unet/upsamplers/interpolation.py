"""Upsamplers that interpolate: every new pixel is a fixed weighted mean of old ones."""

import keras
from keras import ops

from unet.resample import resize
from unet.upsamplers.base import Upsampler


@keras.saving.register_keras_serializable("unet")
class Nearest(Upsampler):
    """Nearest neighbour: ``y[2h+i, 2w+j] = x[h, w]`` for i, j in {0, 1}.

    Also called nearest-neighbour unpooling. Arguments and shapes: :class:`~unet.upsamplers.base.Upsampler`.
    """

    def upsample(self, x, width=None, argmax=None):
        """Copy every pixel into a 2×2 cell."""
        return ops.repeat(ops.repeat(x, 2, axis=1), 2, axis=2)


@keras.saving.register_keras_serializable("unet")
class Bilinear(Upsampler):
    """Bilinear interpolation, ``y = A_h · x · A_wᵀ`` with rows of hat functions (see ``unet.resample``).

    Args:
        align_corners: ``False`` scales pixel areas (source position ``(v + ½)/2 − ½``, clamped); ``True`` maps
            corner centres onto each other (``v·(n − 1)/(2n − 1)``). Both equal ``torch.nn.Upsample``.
        **kwargs: See :class:`~unet.upsamplers.base.Upsampler`.
    """

    def __init__(self, filters=None, align_corners: bool = False, **kwargs):
        super().__init__(filters, **kwargs)
        self.align_corners = align_corners

    def upsample(self, x, width=None, argmax=None):
        """Multiply by one interpolation matrix per axis."""
        height, width = ops.shape(x)[1:3]
        return resize(x, 2 * height, 2 * width, "linear", self.align_corners)

    def rule_multiply_adds(self, x_shape) -> int:
        """Two dense matrix products: (2h × h)·(h × wC), then (2w × w)·(w × C) for each of 2h rows."""
        h, w, c = x_shape
        return 2 * h * h * w * c + 2 * h * 2 * w * w * c

    def get_config(self):
        """Everything needed to build the layer again."""
        return super().get_config() | {"align_corners": self.align_corners}
