"""Upsamplers that predict where to sample: DySample."""

from typing import Any

import keras
from keras import ops

from unet.backend import in_turn
from unet.gradients import differentiable, fused
from unet.upsamplers.base import Upsampler
from unet.upsamplers.settings import DySampleOptions
from unet.upsamplers.strips import edges, joined
from unet.upsamplers.sub_pixel import pixel_shuffle, pixel_unshuffle


@keras.saving.register_keras_serializable("unet")
class DySample(Upsampler):
    """Bilinear samples of the feature map at predicted offsets (DySample, Liu et al. 2023).

    ``y[2h+i, 2w+j] = bilinear(x, h + (i − ½)/2 + O_y, w + (j − ½)/2 + O_x)``, clamped to the image, with offsets O for
    each group of channels. The untrained layer is close to bilinear upsampling.

    Args:
        filters: See :class:`~unet.upsamplers.base.Upsampler`.
        style: ``"lp"`` predicts offsets at low resolution (linear, then pixel shuffle); ``"pl"`` predicts them at high
            resolution from the shuffled map (pixel shuffle, then linear), with fewer weights.
        dynamic_scope: ``False``: ``O = 0.25·conv1×1(x)``; ``True``: ``O = 0.5·σ(scope(x))·conv1×1(x)``, the "+"
            variant.
        groups: Groups of neighbouring channels with separate offsets; must divide the channels.
        **kwargs: See :class:`~unet.upsamplers.base.Upsampler`.

    Example:
        >>> layer = DySample(filters=8, style="pl")
        >>> tuple(layer(ops.ones((1, 3, 4, 16))).shape)
        (1, 6, 8, 8)
    """

    def __init__(self, filters=None, style: str = "lp", dynamic_scope: bool = False, groups: int = 4, **kwargs):
        options = DySampleOptions.checked(style=style, dynamic_scope=dynamic_scope, groups=groups)
        super().__init__(filters, options=options, **kwargs)

    def build_rule(self, channels, skip_channels):
        normal = keras.initializers.RandomNormal(stddev=0.001, seed=self.rule_seed(0))
        inputs, outputs = (channels, 8 * self.groups) if self.style == "lp" else (channels // 4, 2 * self.groups)
        self.offset = self.convolution(outputs, 1, "offset", normal)
        self.offset.build((None, None, None, inputs))
        if self.dynamic_scope:
            self.scope = self.convolution(outputs, 1, "scope", "zeros", use_bias=False)
            self.scope.build((None, None, None, inputs))

    def upsample(self, x, skip=None, argmax=None):
        height, width, channels = ops.shape(x)[1:]
        source = x
        if self.style == "pl":  # channel 4c + 2i + j becomes channel c at (i, j)
            source = ops.reshape(x, (-1, height, width, channels // 4, 4))
            source = pixel_shuffle(ops.reshape(ops.transpose(source, (0, 1, 2, 4, 3)), (-1, height, width, channels)))
        offsets = self.offset(source) * (0.5 * ops.sigmoid(self.scope(source)) if self.dynamic_scope else 0.25)
        if self.style == "lp":
            axes = [
                ops.transpose(ops.reshape(part, (-1, height, width, self.groups, 4)), (0, 1, 2, 4, 3))
                for part in ops.split(offsets, 2, axis=-1)
            ]
        else:
            offsets = ops.reshape(pixel_unshuffle(offsets), (-1, height, 4 * width, 2 * self.groups))
            axes = [ops.reshape(part, (-1, height, width, 4, self.groups)) for part in ops.split(offsets, 2, axis=-1)]
        # Half precision cannot distinguish the positions of distant pixels.
        dtype = "float64" if self.compute_dtype == "float64" else "float32"
        right, down = (ops.cast(part, dtype) for part in axes)  # (B, h, w, 4, groups)
        row = ops.arange(height, dtype=dtype)[:, None] + ops.cast([-0.25, -0.25, 0.25, 0.25], dtype)
        column = ops.arange(width, dtype=dtype)[:, None] + ops.cast([-0.25, 0.25, -0.25, 0.25], dtype)
        return sample(x, down + row[:, None, :, None], right + column[:, :, None])

    def rule_multiply_adds(self, x_shape) -> int:
        """Multiply-adds of the prediction of the offsets, and of four taps per output value."""
        h, w, c = x_shape
        predictions = 2 if self.dynamic_scope else 1
        return h * w * (predictions * 8 * self.groups * (c if self.style == "lp" else c // 4) + 4 * 4 * c)


def sample(x, rows, columns):
    """Sample bilinearly, positions clamped to the image: ``torch.nn.functional.grid_sample`` with border padding.

    Args:
        x: ``(B, h, w, C)``.
        rows: ``(B, h, w, 4, groups)``, float32 or float64: vertical positions in x, in pixels, for the four pixels of
            each cell.
        columns: Horizontal positions, likewise.

    Returns:
        ``(B, 2h, 2w, C)``. The backward pass samples again instead of storing the four neighbours of every sample, and
        both passes hold one neighbour at a time; where XLA compiles it for TensorFlow, those of one strip of rows.
    """
    height, width, channels = ops.shape(x)[1:]
    groups = rows.shape[-1]
    depth = channels // groups

    def corners(rows, columns):
        """Index of the four pixels around each sample, their weights along both axes, and the signs of the slopes."""
        rows = ops.clip(rows, 0.0, ops.cast(height, rows.dtype) - 1.0)
        columns = ops.clip(columns, 0.0, ops.cast(width, rows.dtype) - 1.0)
        top, left = ops.floor(rows), ops.floor(columns)
        image = ops.reshape(ops.arange(ops.shape(rows)[0], dtype="int32"), (-1, 1, 1, 1, 1))
        for below in (0, 1):
            weight_y = rows - top if below else 1.0 - (rows - top)
            y = ops.clip(ops.cast(top, "int32") + below, 0, height - 1)  # also bounds what NaN becomes as an int
            for beside in (0, 1):
                weight_x = columns - left if beside else 1.0 - (columns - left)
                x = ops.clip(ops.cast(left, "int32") + beside, 0, width - 1)
                index = ((image * height + y) * width + x) * groups + ops.arange(groups, dtype="int32")
                yield ops.reshape(index, (-1,)), weight_y, weight_x, 2 * below - 1, 2 * beside - 1

    def take(x, index, shape):
        return ops.reshape(ops.take(ops.reshape(x, (-1, depth)), index, axis=0), (-1, *shape, depth))

    def forward(x, rows, columns):
        total: Any = 0
        done: list = []
        shape = (height, width, 4, groups)
        for index, weight_y, weight_x, _, _ in corners(rows, columns):
            (index,) = in_turn(done, index)
            total = total + take(x, index, shape) * ops.expand_dims(ops.cast(weight_y * weight_x, x.dtype), -1)
            done = [total]
        return pixel_shuffle(ops.reshape(total, (-1, height, width, 4 * channels)))

    def slopes_of(dx, x, dy, rows, columns):
        """Gradients of rows and columns, and that of x added to ``dx``: 0, or a tensor to which XLA adds in place."""
        in_place = ops.is_tensor(dx)
        shape = ops.shape(rows)[1:]
        dy = ops.reshape(pixel_unshuffle(dy), (-1, *shape, depth))
        drows, dcolumns = 0, 0
        done: list = []
        for index, weight_y, weight_x, sign_y, sign_x in corners(rows, columns):
            index, weight_x = in_turn(done, index, weight_x)
            share = ops.cast(dy, rows.dtype) * ops.expand_dims(weight_y * weight_x, -1)
            share = ops.reshape(share, (-1, depth))
            if in_place:
                dx = ops.scatter_update(dx, ops.expand_dims(index, -1), share, reduction="add")
            else:
                dx = dx + ops.segment_sum(share, index, ops.shape(x)[0] * height * width * groups)
            slope = ops.sum(ops.cast(dy * take(x, index, shape), rows.dtype), axis=-1)
            drows, dcolumns = drows + sign_y * weight_x * slope, dcolumns + sign_x * weight_y * slope
            done = [dx, drows]
        inside_y = ops.logical_and(rows > 0, rows < ops.cast(height, rows.dtype) - 1.0)
        inside_x = ops.logical_and(columns > 0, columns < ops.cast(width, rows.dtype) - 1.0)
        return dx, drows * ops.cast(inside_y, rows.dtype), dcolumns * ops.cast(inside_x, rows.dtype)

    compiled = fused(slopes_of)

    def backward(dy, x, rows, columns):
        dx, strips, found = 0, [(0, height)], []
        if compiled is not slopes_of:
            dx, strips = ops.zeros((ops.shape(x)[0] * height * width * groups, depth), rows.dtype), edges(height)
        for start, stop in strips:
            parts = dy[:, 2 * start : 2 * stop], rows[:, start:stop], columns[:, start:stop]
            dx, *slopes = compiled(dx, x, *parts)
            found.append(slopes)
        return (ops.cast(ops.reshape(dx, ops.shape(x)), x.dtype), *map(joined, zip(*found)))

    return differentiable(fused(forward), backward)(x, rows, columns)
