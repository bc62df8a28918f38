"""Max-unpooling: a pooling that remembers where its maxima were, and the layer that puts values back there."""

import keras
from keras import ops

from unet.upsamplers.base import Upsampler


@keras.saving.register_keras_serializable("unet")
class MaxPoolWithArgmax(keras.Layer):
    """2×2 max-pooling, stride 2, that also returns where each maximum was.

    No row is dropped: an odd size is pooled as if padded with −∞ at the bottom and right ('same', ceil).

    Call arguments:
        x: ``(B, H, W, C)``.

    Returns:
        ``pooled`` ``(B, ceil(H/2), ceil(W/2), C)`` and ``argmax``, int32 of the same shape: the flat position
        ``row·W + column`` in the H×W plane of that image and channel, as ``torch.nn.MaxPool2d(return_indices=True)``
        gives it. Among equal values the first in row-major order counts; no gradient flows through ``argmax``.
    """

    def call(self, x):
        """Pool, and look up which of the four strided slices holds the maximum."""
        width = ops.shape(x)[2]
        pooled = ops.max_pool(x, 2, strides=2, padding="same")
        rows, columns = ops.shape(pooled)[1:3]

        # A row and a column of −∞ complete the last windows where the size is odd, and are cut off where it is even.
        padded = ops.pad(ops.stop_gradient(x), [[0, 0], [0, 1], [0, 1], [0, 0]], constant_values=float("-inf"))[
            :, : 2 * rows, : 2 * columns, :
        ]
        maximum = ops.stop_gradient(pooled)
        within = width + 1  # position in the window of the last candidate, as a flat offset i·W + j
        for i, j in ((1, 0), (0, 1), (0, 0)):
            is_maximum = ops.equal(padded[:, i::2, j::2, :], maximum)
            within = ops.where(is_maximum, i * width + j, within)
        return pooled, ops.cast(within, "int32") + window_origins(rows, columns, width)

    def compute_output_spec(self, x):
        """Shapes and dtypes of ``(pooled, argmax)``."""
        batch, height, width, channels = x.shape
        shape = (batch, *(None if n is None else (n + 1) // 2 for n in (height, width)), channels)
        return keras.KerasTensor(shape, dtype=self.compute_dtype), keras.KerasTensor(shape, dtype="int32")


@keras.saving.register_keras_serializable("unet")
class MaxUnpool(Upsampler):
    """Put each value where its maximum was, zeros elsewhere: ``y[argmax[h, w]] = x[h, w]``, per channel.

    The decoder step of SegNet (Badrinarayanan et al. 2017). With window = stride no scatter is needed: the value is
    compared into one of the four positions of its own window. Equal to ``torch.nn.MaxUnpool2d(2, 2)``.

    Arguments and shapes: :class:`~unet.upsamplers.base.Upsampler`; the call needs ``argmax``, and ``filters`` must
    be its number of channels.
    """

    needs_argmax = True

    def upsample(self, x, width=None, argmax=None):
        """Spread each value over its window: itself at the argmax, zero at the three other places."""
        rows, columns, channels = ops.shape(x)[1:]
        within = argmax - window_origins(rows, columns, width)
        zero = ops.zeros_like(x)
        cells = [
            [ops.where(ops.equal(within, i * width + j), x, zero) for j in (0, 1)]  # (B, h, w, C) each
            for i in (0, 1)
        ]
        y = ops.stack([ops.stack(row, axis=3) for row in cells], axis=2)  # (B, h, 2, w, 2, C)
        return ops.reshape(y, (-1, 2 * rows, 2 * columns, channels))


def window_origins(rows, columns, width):
    """Flat position ``2h·W + 2w`` of each 2×2 window's first pixel in an image ``W`` wide: int32 ``(1, h, w, 1)``."""
    row = ops.arange(rows, dtype="int32")[:, None] * 2 * ops.cast(width, "int32")
    column = ops.arange(columns, dtype="int32")[None, :] * 2
    return (row + column)[None, :, :, None]
