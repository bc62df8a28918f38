"""Upsampling by transposed convolution."""

import keras

from unet.upsamplers.base import Upsampler


@keras.saving.register_keras_serializable("unet")
class ConvTranspose(Upsampler):
    """Transposed convolution with kernel 2 and stride 2: projection and rule in one.

    Kernel and stride are equal, so the kernel's copies tile the output without overlap:
    ``y[2h+i, 2w+j] = Σ_c K[i, j, :, c] · x[h, w, c] + b``; size ``o = 2i`` (Dumoulin and Visin 2016, chapter 4).

    Arguments and shapes: :class:`~unet.upsamplers.base.Upsampler`; ``filters`` is required.
    """

    def make_projection(self):
        """Make the transposed convolution itself."""
        if self.filters is None:
            raise ValueError("ConvTranspose is a learned upsampler: give filters, the number of output channels")
        return keras.layers.Conv2DTranspose(
            self.filters,
            2,
            strides=2,
            padding="same",
            kernel_initializer=self.kernel_initializer,
            dtype=self.dtype_policy,
            name="projection",
        )

    def upsample(self, x, width=None, argmax=None):
        """Do nothing more: the projection has already doubled the size."""
        return x
