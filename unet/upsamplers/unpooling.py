"""Unpooling, which puts each value at one pixel of its cell, and max-pooling that returns the positions of maxima."""

from collections.abc import Sequence

import keras
from keras import ops

from unet.arguments import flag, whole
from unet.gradients import differentiable
from unet.upsamplers.base import Upsampler, check_enlarged, check_map


@keras.saving.register_keras_serializable("unet")
class BedOfNails(Upsampler):
    """Bed of nails: ``y[2h, 2w] = x[h, w]``, zeros elsewhere.

    Unpooling without the position of the maximum. Arguments and shapes: see
    :class:`~unet.upsamplers.base.Upsampler`.

    Example:
        >>> layer = BedOfNails(filters=8)
        >>> tuple(layer(ops.ones((1, 3, 4, 16))).shape)
        (1, 6, 8, 8)
    """

    def upsample(self, x, skip=None, argmax=None):
        # Zeros to the right of every pixel, then below every row.
        height, width, channels = ops.shape(x)[1:]
        x = ops.pad(x, [[0, 0], [0, 0], [0, 0], [0, channels]])
        x = ops.reshape(x, (-1, height, 1, 2 * width * channels))
        x = ops.pad(x, [[0, 0], [0, 0], [0, 1], [0, 0]])
        return ops.reshape(x, (-1, 2 * height, 2 * width, channels))


@keras.saving.register_keras_serializable("unet")
class MaxPoolWithArgmax(keras.Layer):
    """Max-pooling that also returns the position of each maximum, as ``torch.nn.MaxPool2d(return_indices=True)``.

    Args:
        pool_size: Height and width of the window in pixels.
        strides: Distance of the windows in pixels; ``None``: ``pool_size``. Windows overlap if it is smaller.
        padding: Rows and columns of −∞ on every side, at most half of ``pool_size``.
        ceil_mode: ``True`` also pools incomplete windows at the bottom and right, so that no pixel is dropped (with the
            default window the same as padding "same": ``ceil(H/2)``); ``False`` drops them, as PyTorch by default.
        **kwargs: ``name``, ``dtype`` and the other arguments of ``keras.Layer``.

    Call arguments:
        x: ``(B, H, W, C)``.

    Returns:
        ``pooled`` ``(B, H', W', C)`` in the compute dtype, and ``argmax``, int32 of the same shape: the flat position
        ``row·W + column`` in the H×W plane of that image and channel. Of equal values the first in row-major order is
        taken, and in a window whose maximum is NaN or −∞ the first pixel; ``argmax`` has no gradient.

    Raises:
        ValueError: The map is not ``(B, H, W, C)``, has no pixels, or no window fits into it.

    Example:
        >>> pooled, argmax = MaxPoolWithArgmax()(ops.ones((1, 5, 8, 16)))
        >>> tuple(pooled.shape), tuple(argmax.shape)
        ((1, 3, 4, 16), (1, 3, 4, 16))
    """

    def __init__(
        self, pool_size: int = 2, strides: int | None = None, padding: int = 0, ceil_mode: bool = True, **kwargs
    ):
        super().__init__(**kwargs)
        self.pool_size = whole("pool_size", pool_size, least=1)
        self.strides = self.pool_size if strides is None else whole("strides", strides, least=1)
        self.padding = whole("padding", padding, least=0)
        if self.padding > self.pool_size // 2:
            raise ValueError(f"padding must be from 0 to half of pool_size {pool_size}, received {padding!r}")
        self.ceil_mode = flag("ceil_mode", ceil_mode)

    def call(self, x):
        self._check_size(x.shape)
        x = ops.cast(x, self.compute_dtype)
        size, stride, before = self.pool_size, self.strides, self.padding
        height, width = ops.shape(x)[1:3]
        rows, columns = self._windows(height), self._windows(width)
        if (size, stride, before, self.ceil_mode) == (2, 2, 0, True):
            x = _repeat_last(_repeat_last(x, 1, 2 * rows - height), 2, 2 * columns - width)
        else:
            x = _fit(x, 1, before, (rows - 1) * stride + size, height)
            x = _fit(x, 2, before, (columns - 1) * stride + size, width)
        pooled = ops.max_pool(x, size, strides=stride, padding="valid", data_format="channels_last")

        # Compare the maximum with every pixel of its window, from the last to the first, so that the first one stays.
        maximum, candidates = ops.stop_gradient(pooled), ops.stop_gradient(x)
        offset = first = _first_inside(rows, columns, width, stride, before)  # i·W + j in the window
        for i in reversed(range(size)):
            for j in reversed(range(size)):
                candidate = candidates[
                    :, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride, :
                ]
                offset = ops.where(ops.equal(candidate, maximum), i * width + j, offset)
        if before:  # where the maximum is −∞, the padding equals it
            offset = ops.where(maximum > float("-inf"), offset, first)
        origin = _origins(rows, columns, width, stride, before)
        return pooled, ops.cast(offset, "int32") + ops.reshape(origin, (1, rows, columns, 1))

    def _windows(self, n):
        """Number of windows along an axis of ``n`` pixels, an int or a scalar tensor."""
        room = n + 2 * self.padding - self.pool_size + (self.strides - 1 if self.ceil_mode else 0)
        count, last = room // self.strides + 1, (n + self.padding - 1) // self.strides + 1
        return min(count, last) if isinstance(n, int) else ops.minimum(count, last)

    def _check_size(self, shape):
        check_map("x", shape)
        if any(isinstance(n, int) and self._windows(n) < 1 for n in shape[1:3]):
            raise ValueError(f"{self.name}: no window of {self.pool_size} pixels fits into an image of {tuple(shape)}")

    def compute_output_spec(self, x):
        self._check_size(x.shape)
        batch, height, width, channels = x.shape
        shape = (batch, *(None if n is None else self._windows(n) for n in (height, width)), channels)
        return keras.KerasTensor(shape, dtype=self.compute_dtype), keras.KerasTensor(shape, dtype="int32")

    def get_config(self):
        return super().get_config() | {
            "pool_size": self.pool_size,
            "strides": self.strides,
            "padding": self.padding,
            "ceil_mode": self.ceil_mode,
        }


@keras.saving.register_keras_serializable("unet")
class MaxUnpool(Upsampler):
    """Put each value at the position of its maximum, zeros elsewhere: ``y[argmax[h, w]] = x[h, w]``, per channel.

    The upsampling of SegNet (Badrinarayanan et al. 2017), equal to ``torch.nn.MaxUnpool2d``. The call needs ``argmax``,
    and ``filters`` must be its number of channels. In a decoder the pooling is 2×2 with stride 2 and the output has the
    size of the skip; the keyword-only arguments are for use outside a decoder.

    Args:
        filters: See :class:`~unet.upsamplers.base.Upsampler`.
        pool_size: Window of the pooling, in pixels.
        strides: Stride of the pooling; ``None``: ``pool_size``.
        padding: Padding of the pooling.
        output_size: Height and width of the image that was pooled, to which the positions in ``argmax`` refer.
            ``None``: ``(h − 1)·strides − 2·padding + pool_size``, the smallest size that is pooled to h×w. If
            overlapping windows name a pixel twice, the last in row-major order is written and receives the gradient.
        **kwargs: See :class:`~unet.upsamplers.base.Upsampler`.

    The positions in ``argmax`` are not checked, as a compiled graph cannot raise an error: a value whose position lies
    outside its 2×2 cell, or with other windows outside the image, is dropped.

    Example:
        >>> pooled, argmax = MaxPoolWithArgmax()(ops.ones((1, 6, 8, 16)))
        >>> tuple(MaxUnpool()(pooled, argmax=argmax).shape)
        (1, 6, 8, 16)
    """

    needs_argmax = True

    def __init__(
        self,
        filters=None,
        *,
        pool_size: int = 2,
        strides: int | None = None,
        padding: int = 0,
        output_size: tuple[int, int] | None = None,
        **kwargs,
    ):
        super().__init__(filters, **kwargs)
        pooling = MaxPoolWithArgmax(pool_size, strides, padding)  # checks the arguments
        self.pool_size, self.strides, self.padding = pooling.pool_size, pooling.strides, pooling.padding
        self.output_size = output_size
        if output_size is not None:
            if not isinstance(output_size, Sequence) or len(output_size) != 2:
                raise ValueError(f"output_size must be (height, width), received {output_size!r}")
            height, width = (whole("output_size", n, least=1) for n in output_size)
            self.output_size = (height, width)

    def check_doubles(self):
        if not self._is_default_pooling() or self.output_size is not None:
            raise ValueError("in a decoder the pooling is 2×2 with stride 2, and the skip determines the output size")

    def check_shapes(self, x_shape, skip_shape=None, argmax_shape=None):
        super().check_shapes(x_shape, skip_shape, argmax_shape)
        if self.output_size is None:
            check_enlarged(self, x_shape)
            return
        for size, n in zip(self.output_size, x_shape[1:3]):  # torch.nn.MaxUnpool2d has the same limits
            if isinstance(n, int) and abs(size - self.enlarged(n)) >= self.strides:
                raise ValueError(
                    f"output_size {self.output_size} is not pooled to {tuple(x_shape[1:3])}: both must be less than "
                    f"strides {self.strides} from {tuple(map(self.enlarged, x_shape[1:3]))}"
                )

    def upsample(self, x, skip=None, argmax=None):
        # Without overlap each position is one of the four pixels of a cell: no scatter is needed.
        rows, columns, channels = ops.shape(x)[1:]
        size = self._size(rows, columns) if skip is None else ops.shape(skip)[1:3]
        is_cells = self._is_default_pooling() and (self.output_size is None or size_of_cells(size) == (rows, columns))
        if not is_cells:
            return _scatter(x, argmax, *size)
        width = size[1]
        origin = ops.repeat(ops.reshape(_origins(rows, columns, width), (-1,)), channels)
        within = ops.reshape(argmax, (-1, rows * columns * channels)) - origin  # i·W + j in the cell
        within = ops.reshape(within, (-1, 1, columns, 1, channels))
        cell = [[0, 1], [width, width + 1]]

        def forward(x, within):
            places = ops.reshape(ops.convert_to_tensor(cell, "int32"), (2, 1, 2, 1))
            x = ops.reshape(x, (-1, 1, columns, 1, channels))
            y = ops.where(ops.equal(within, places), x, ops.cast(0, x.dtype))
            return ops.reshape(y, (-1, 2 * rows, 2 * columns, channels))

        def backward(dy, x, within):
            dy = ops.reshape(dy, (-1, 2, columns, 2, channels))
            dx = dy[:, 1, :, 1]
            for i, j in ((0, 1), (1, 0), (0, 0)):  # in an image one pixel wide, (1, 0) and (0, 1) are one position
                dx = ops.where(ops.equal(within[:, 0, :, 0], cell[i][j]), dy[:, i, :, j], dx)
            return ops.reshape(dx, (-1, rows, columns, channels)), None

        y = differentiable(forward, backward)(x, within)
        return y if self.output_size is None else y[:, : size[0], : size[1]]

    def _is_default_pooling(self) -> bool:
        return (self.pool_size, self.strides, self.padding) == (2, 2, 0)

    def _size(self, rows, columns):
        return self.output_size or (self.enlarged(rows), self.enlarged(columns))

    def enlarged(self, size: int) -> int:
        return (size - 1) * self.strides - 2 * self.padding + self.pool_size

    def compute_output_shape(self, x_shape, skip_shape=None, argmax_shape=None):
        shape = super().compute_output_shape(x_shape, skip_shape, argmax_shape)
        return shape if skip_shape is not None or self.output_size is None else (shape[0], *self.output_size, shape[3])

    def get_config(self):
        return super().get_config() | {
            "pool_size": self.pool_size,
            "strides": self.strides,
            "padding": self.padding,
            "output_size": self.output_size,
        }


def _origins(rows, columns, width, stride=2, before=0):
    """Flat position of the first pixel of each window in an image of ``width``: int32 ``(rows, columns)``."""
    row = (ops.arange(rows, dtype="int32") * stride - before)[:, None]
    column = (ops.arange(columns, dtype="int32") * stride - before)[None, :]
    return row * ops.cast(width, "int32") + column


def _first_inside(rows, columns, width, stride, before):
    """Offset ``i·W + j`` of the first pixel of each window that is not padding: 0, or int32 ``(rows, columns, 1)``."""
    if before == 0:
        return 0
    above = ops.maximum(before - ops.arange(rows, dtype="int32") * stride, 0)[:, None, None]
    left = ops.maximum(before - ops.arange(columns, dtype="int32") * stride, 0)[:, None]
    return above * ops.cast(width, "int32") + left


def size_of_cells(size) -> tuple:
    """Height and width of the 2×2 pooling of an image of ``size``."""
    return tuple((n + 1) // 2 for n in size)


def _repeat_last(x, axis, count):
    """Repeat the last row (axis 1) or column (axis 2) ``count`` times, 0 or 1, an int or a scalar tensor.

    A window that contains a pixel twice has the same maximum as an incomplete one, and the first of equal values is the
    pixel itself. Unlike −∞, the value can be quantized to 8 bits.
    """
    if isinstance(count, int) and count == 0:
        return x
    first = ops.shape(x)[axis] - count
    return ops.concatenate([x, x[:, first:] if axis == 1 else x[:, :, first:]], axis=axis)


def _fit(x, axis, before, length, n):
    """Pad rows (axis 1) or columns (axis 2) with −∞, ``before`` of them in front, then pad or crop to ``length``."""
    if isinstance(n, int) and (before, length) == (0, n):
        return x
    after = length - before - n
    paddings = [[0, 0]] * 4
    paddings[axis] = [before, max(after, 0) if isinstance(after, int) else ops.maximum(after, 0)]
    sizes = [*ops.shape(x)]
    sizes[axis] = length
    x = ops.pad(x, paddings, constant_values=float("-inf"))
    x = x[:, :length] if axis == 1 else x[:, :, :length]
    return ops.reshape(x, (-1, *sizes[1:]))  # padding loses the channels of dynamic shapes


def _scatter(x, argmax, height, width):
    """Write every value at its position, the last one if several share it: ``(B, height, width, C)``."""
    batch = ops.shape(x)[0]
    rows, columns, channels = ops.shape(x)[1:]
    source, target = rows * columns, height * width  # pixels of a plane

    # Number of the input pixel that is written to each output pixel, counted from 1; less than 1: none.
    number = ops.arange(batch * source * channels, dtype="int32")
    image, pixel, channel = number // (source * channels), number // channels % source, number % channels
    position = ops.reshape(argmax, (-1,))
    is_inside = ops.logical_and(position >= 0, position < target)
    place = (image * target + ops.clip(position, 0, target - 1)) * channels + channel
    writer = ops.segment_max(ops.where(is_inside, pixel + 1, 0), place, batch * target * channels)

    number = ops.arange(batch * target * channels, dtype="int32")
    image, channel = number // (target * channels), number % channels
    y = ops.take(ops.reshape(x, (-1,)), (image * source + ops.maximum(writer, 1) - 1) * channels + channel, axis=0)
    return ops.reshape(ops.where(writer > 0, y, ops.zeros_like(y)), (-1, height, width, channels))
