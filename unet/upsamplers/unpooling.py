"""Unpooling: values go to one place of their cell, zeros to the others; and the pooling that remembers the places."""

import keras
from keras import ops

from unet.gradients import differentiable
from unet.upsamplers.base import Upsampler, check_positive


@keras.saving.register_keras_serializable("unet")
class BedOfNails(Upsampler):
    """Bed of nails: ``y[2h, 2w] = x[h, w]``, zeros elsewhere.

    Unpooling that does not know where the maximum was. Arguments and shapes:
    :class:`~unet.upsamplers.base.Upsampler`.

    Example:
        >>> layer = BedOfNails(filters=8)
        >>> tuple(layer(ops.ones((1, 3, 4, 16))).shape)
        (1, 6, 8, 8)
    """

    def upsample(self, x, skip=None, argmax=None):
        """Zeros to the right of every pixel, then below every row."""
        height, width, channels = ops.shape(x)[1:]
        x = ops.pad(x, [[0, 0], [0, 0], [0, 0], [0, channels]])
        x = ops.reshape(x, (-1, height, 1, 2 * width * channels))
        x = ops.pad(x, [[0, 0], [0, 0], [0, 1], [0, 0]])
        return ops.reshape(x, (-1, 2 * height, 2 * width, channels))


@keras.saving.register_keras_serializable("unet")
class MaxPoolWithArgmax(keras.Layer):
    """Max-pooling that also returns where each maximum was, ``torch.nn.MaxPool2d(return_indices=True)``.

    Args:
        pool_size: Height and width of the window in pixels.
        strides: Distance of the windows in pixels; ``None``: ``pool_size``. Smaller ones overlap.
        padding: Rows and columns of −∞ on every side, at most half of ``pool_size``.
        ceil_mode: ``True`` also pools what does not fill a window at the bottom and right, so that no pixel is
            dropped (with the default window: 'same', ``ceil(H/2)``); ``False`` drops it, PyTorch's default.
        **kwargs: ``name``, ``dtype`` and the other arguments of ``keras.Layer``.

    Call arguments:
        x: ``(B, H, W, C)``.

    Returns:
        ``pooled`` ``(B, H', W', C)`` and ``argmax``, int32 of the same shape: the flat position ``row·W + column`` in
        the H×W plane of that image and channel. Among equal values the first in row-major order counts; no gradient
        flows through ``argmax``.

    Example:
        >>> pooled, argmax = MaxPoolWithArgmax()(ops.ones((1, 5, 8, 16)))
        >>> tuple(pooled.shape), tuple(argmax.shape)
        ((1, 3, 4, 16), (1, 3, 4, 16))
    """

    def __init__(
        self, pool_size: int = 2, strides: int | None = None, padding: int = 0, ceil_mode: bool = True, **kwargs
    ):
        super().__init__(**kwargs)
        strides = pool_size if strides is None else strides
        check_positive(pool_size=pool_size, strides=strides)
        if isinstance(padding, bool) or not isinstance(padding, int) or not 0 <= padding <= pool_size // 2:
            raise ValueError(f"padding must be from 0 to half of pool_size {pool_size}, received {padding!r}")
        self.pool_size = pool_size
        self.strides = strides
        self.padding = padding
        self.ceil_mode = ceil_mode

    def call(self, x):
        """Pool, and look up which of the strided slices, one for each place in the window, holds the maximum."""
        size, stride, before = self.pool_size, self.strides, self.padding
        height, width = ops.shape(x)[1:3]
        rows, columns = self._windows(height), self._windows(width)
        if (size, stride, before, self.ceil_mode) == (2, 2, 0, True):
            x = _repeat_last(_repeat_last(x, 1, 2 * rows - height), 2, 2 * columns - width)
        else:
            x = _fit(x, 1, before, (rows - 1) * stride + size, height)
            x = _fit(x, 2, before, (columns - 1) * stride + size, width)
        pooled = ops.max_pool(x, size, strides=stride, padding="valid")

        maximum, candidates = ops.stop_gradient(pooled), ops.stop_gradient(x)
        offset = (size - 1) * width + size - 1  # in the window, as a flat offset i·W + j: the last place, then better
        for i in reversed(range(size)):
            for j in reversed(range(size)):
                candidate = candidates[
                    :, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride, :
                ]
                offset = ops.where(ops.equal(candidate, maximum), i * width + j, offset)
        origin = _origins(rows, columns, width, stride, before)
        return pooled, ops.cast(offset, "int32") + ops.reshape(origin, (1, rows, columns, 1))

    def _windows(self, n):
        """How many windows fit along an axis of ``n`` pixels, an int or a scalar tensor."""
        room = n + 2 * self.padding - self.pool_size + (self.strides - 1 if self.ceil_mode else 0)
        count, last = room // self.strides + 1, (n + self.padding - 1) // self.strides + 1
        return min(count, last) if isinstance(n, int) else ops.minimum(count, last)

    def compute_output_spec(self, x):
        """Shapes and dtypes of ``(pooled, argmax)``."""
        batch, height, width, channels = x.shape
        for n in (height, width):
            if n is not None and self._windows(n) < 1:
                raise ValueError(f"{self.name}: no window of {self.pool_size} pixels fits into an image of {x.shape}")
        shape = (batch, *(None if n is None else self._windows(n) for n in (height, width)), channels)
        return keras.KerasTensor(shape, dtype=self.compute_dtype), keras.KerasTensor(shape, dtype="int32")

    def get_config(self):
        """Everything needed to build the layer again."""
        return super().get_config() | {
            "pool_size": self.pool_size,
            "strides": self.strides,
            "padding": self.padding,
            "ceil_mode": self.ceil_mode,
        }


@keras.saving.register_keras_serializable("unet")
class MaxUnpool(Upsampler):
    """Put each value where its maximum was, zeros elsewhere: ``y[argmax[h, w]] = x[h, w]``, per channel.

    The decoder step of SegNet (Badrinarayanan et al. 2017), equal to ``torch.nn.MaxUnpool2d``. In a decoder the
    pooling is 2×2 with stride 2 and the result has the skip's size; the keyword-only arguments are for use outside.
    The call needs ``argmax``; ``filters`` must be its number of channels.

    Args:
        filters: See :class:`~unet.upsamplers.base.Upsampler`.
        pool_size: Window of the pooling, in pixels.
        strides: Its stride; ``None``: ``pool_size``.
        padding: Its padding.
        output_size: Height and width of the pooled image. ``None``: ``(h − 1)·strides − 2·padding + pool_size``, the
            smallest of the sizes that pool to h×w. Positions in ``argmax`` are read in an image of this size, which
            must be the one that was pooled. Where overlapping windows name one pixel twice, the last in row-major
            order is written, and receives the gradient.
        **kwargs: See :class:`~unet.upsamplers.base.Upsampler`.

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
        pooling = MaxPoolWithArgmax(pool_size, strides, padding)  # checks the values
        self.pool_size, self.strides, self.padding = pooling.pool_size, pooling.strides, pooling.padding
        self.output_size = output_size
        if output_size is not None:
            height, width = output_size
            check_positive(height=height, width=width)
            self.output_size = (height, width)

    def check_doubles(self):
        """A decoder undoes the network's own pooling."""
        if not self._is_default_pooling() or self.output_size is not None:
            raise ValueError("in a decoder the pooling is 2×2 with stride 2, and the skip gives the output size")

    def upsample(self, x, skip=None, argmax=None):
        """Compare the argmax with the four places of its cell; scatter where windows are not cells."""
        rows, columns, channels = ops.shape(x)[1:]
        size = self._size(rows, columns) if skip is None else ops.shape(skip)[1:3]
        is_cells = self._is_default_pooling() and (self.output_size is None or size_of_cells(size) == (rows, columns))
        if not is_cells:
            return _scatter(x, argmax, *size)
        width = size[1]
        origin = ops.repeat(ops.reshape(_origins(rows, columns, width), (-1,)), channels)
        within = ops.reshape(argmax, (-1, rows * columns * channels)) - origin  # its cell: i·W + j
        within = ops.reshape(within, (-1, 1, columns, 1, channels))
        cell = [[0, 1], [width, width + 1]]

        def forward(x):
            places = ops.reshape(ops.convert_to_tensor(cell, "int32"), (2, 1, 2, 1))
            x = ops.reshape(x, (-1, 1, columns, 1, channels))
            y = ops.where(ops.equal(within, places), x, ops.cast(0, x.dtype))
            return ops.reshape(y, (-1, 2 * rows, 2 * columns, channels))

        def backward(dy, x):
            dy = ops.reshape(dy, (-1, 2, columns, 2, channels))
            dx = dy[:, 1, :, 1]
            for i, j in ((0, 1), (1, 0), (0, 0)):  # in an image one pixel wide, (1, 0) and (0, 1) have one number
                dx = ops.where(ops.equal(within[:, 0, :, 0], cell[i][j]), dy[:, i, :, j], dx)
            return ops.reshape(dx, (-1, rows, columns, channels))

        y = differentiable(forward, backward)(x)
        return y if self.output_size is None else y[:, : size[0], : size[1]]

    def _is_default_pooling(self) -> bool:
        return (self.pool_size, self.strides, self.padding) == (2, 2, 0)

    def _size(self, rows, columns):
        return self.output_size or (self.enlarged(rows), self.enlarged(columns))

    def enlarged(self, size: int) -> int:
        """The smallest height or width that is pooled to ``size``."""
        return (size - 1) * self.strides - 2 * self.padding + self.pool_size

    def compute_output_shape(self, x_shape, skip_shape=None, argmax_shape=None):
        """``(B, H, W, filters)``."""
        shape = super().compute_output_shape(x_shape, skip_shape, argmax_shape)
        return shape if skip_shape is not None or self.output_size is None else (shape[0], *self.output_size, shape[3])

    def get_config(self):
        """Everything needed to build the layer again."""
        return super().get_config() | {
            "pool_size": self.pool_size,
            "strides": self.strides,
            "padding": self.padding,
            "output_size": self.output_size,
        }


def _origins(rows, columns, width, stride=2, before=0):
    """Flat position of each window's first pixel in an image ``width`` wide: int32 ``(rows, columns)``."""
    row = (ops.arange(rows, dtype="int32") * stride - before)[:, None]
    column = (ops.arange(columns, dtype="int32") * stride - before)[None, :]
    return row * ops.cast(width, "int32") + column


def size_of_cells(size) -> tuple:
    """Height and width of the 2×2 pooling of an image of ``size``."""
    return tuple((n + 1) // 2 for n in size)


def _repeat_last(x, axis, count):
    """Add the last row (axis 1) or column (axis 2) once more, or not: ``count`` 1 or 0, an int or a scalar tensor.

    A window that sees a pixel twice finds the same maximum as one cut short, and the first of equals is the pixel
    itself. Unlike −∞, it has an 8-bit form.
    """
    if isinstance(count, int) and count == 0:
        return x
    first = ops.shape(x)[axis] - count
    return ops.concatenate([x, x[:, first:] if axis == 1 else x[:, :, first:]], axis=axis)


def _fit(x, axis, before, length, n):
    """Add rows (axis 1) or columns (axis 2) of −∞: ``before`` in front, behind as many as ``length`` needs, or cut."""
    if isinstance(n, int) and (before, length) == (0, n):
        return x
    after = length - before - n
    paddings = [[0, 0]] * 4
    paddings[axis] = [before, max(after, 0) if isinstance(after, int) else ops.maximum(after, 0)]
    sizes = [*ops.shape(x)]
    sizes[axis] = length
    x = ops.pad(x, paddings, constant_values=float("-inf"))
    x = x[:, :length] if axis == 1 else x[:, :, :length]
    return ops.reshape(x, (-1, *sizes[1:]))  # where sizes are open, padding forgets the channels


def _scatter(x, argmax, height, width):
    """Write every value at its position, the last one where several have the same: ``(B, height, width, C)``."""
    batch = ops.shape(x)[0]
    rows, columns, channels = ops.shape(x)[1:]
    source, target = rows * columns, height * width  # pixels of a plane

    # Which pixel of its plane is written to each target, counted from 1; less than 1: none.
    number = ops.arange(batch * source * channels, dtype="int32")
    image, pixel, channel = number // (source * channels), number // channels % source, number % channels
    place = (image * target + ops.reshape(argmax, (-1,))) * channels + channel
    writer = ops.segment_max(pixel + 1, place, batch * target * channels)

    number = ops.arange(batch * target * channels, dtype="int32")
    image, channel = number // (target * channels), number % channels
    y = ops.take(ops.reshape(x, (-1,)), (image * source + ops.maximum(writer, 1) - 1) * channels + channel, axis=0)
    return ops.reshape(ops.where(writer > 0, y, ops.zeros_like(y)), (-1, height, width, channels))
