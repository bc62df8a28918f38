"""Upsamplers that predict a kernel for every output pixel and apply it to the input: CARAFE, SAPA, FADE."""

import keras
from keras import ops

from unet.gradients import differentiable
from unet.upsamplers.base import Upsampler
from unet.upsamplers.interpolation import nearest
from unet.upsamplers.settings import CarafeOptions, FadeOptions, SapaOptions
from unet.upsamplers.sub_pixel import pixel_shuffle, pixel_unshuffle


class Reassembly(Upsampler):
    """Base class: ``y[2h+i, 2w+j] = Σ_Δ m[h, w, i, j, Δ] · x[h + Δ_h, w + Δ_w]``, with m a softmax over k_up² taps.

    The image is padded with zeros, and the kernels are not renormalized at its border.
    """

    def reassembly_multiply_adds(self, x_shape) -> int:
        """Multiply-adds of k_up² taps per output value."""
        h, w, c = x_shape
        return 4 * h * w * self.k_up**2 * c


@keras.saving.register_keras_serializable("unet")
class Carafe(Reassembly):
    """Content-aware reassembly of features: kernels predicted from the feature map (CARAFE, Wang et al. 2019).

    ``m = softmax_Δ(conv3×3(conv1×1(x)))``: one kernel per output pixel and group of channels.

    Args:
        filters: See :class:`~unet.upsamplers.base.Upsampler`.
        k_up: Side of the predicted kernels in input pixels, odd.
        groups: Groups of neighbouring channels with separate kernels; must divide the channels.
        compressed: Output channels of the 1×1 convolution.
        k_encoder: Side of the convolution that predicts the kernels, odd.
        **kwargs: See :class:`~unet.upsamplers.base.Upsampler`.

    Example:
        >>> layer = Carafe(filters=8, groups=2)
        >>> tuple(layer(ops.ones((1, 3, 4, 16))).shape)
        (1, 6, 8, 8)
    """

    def __init__(
        self, filters=None, k_up: int = 5, groups: int = 1, compressed: int = 64, k_encoder: int = 3, **kwargs
    ):
        options = CarafeOptions.checked(k_up=k_up, groups=groups, compressed=compressed, k_encoder=k_encoder)
        super().__init__(filters, options=options, **kwargs)

    def build_rule(self, channels, skip_channels):
        glorot = keras.initializers.GlorotUniform(seed=self.rule_seed(0))
        normal = keras.initializers.RandomNormal(stddev=0.001, seed=self.rule_seed(1))
        self.compressor = self.convolution(self.compressed, 1, "compressor", glorot)
        self.encoder = self.convolution(4 * self.groups * self.k_up**2, self.k_encoder, "encoder", normal)
        self.compressor.build((None, None, None, channels))
        self.encoder.build((None, None, None, self.compressed))

    def upsample(self, x, skip=None, argmax=None):
        height, width = ops.shape(x)[1:3]
        kernels = self.encoder(self.compressor(x))
        return reassemble(softmax(ops.reshape(kernels, (-1, height, width, self.groups * 4, self.k_up**2)), x), x)

    def rule_multiply_adds(self, x_shape) -> int:
        """Multiply-adds of predicting the kernels and applying them."""
        h, w, c = x_shape
        encoder = self.k_encoder**2 * self.compressed * 4 * self.groups * self.k_up**2
        return h * w * (c * self.compressed + encoder) + self.reassembly_multiply_adds(x_shape)


@keras.saving.register_keras_serializable("unet")
class Sapa(Reassembly):
    """Similarity-aware point affiliation: kernels from the similarity of skip and map (SAPA-B, Lu et al. 2022).

    ``m = softmax_Δ(⟨W_q·LN(skip)[2h+i, 2w+j], W_k·LN(x)[h + Δ_h, w + Δ_w]⟩)``, with zero keys outside the image.

    Args:
        filters: See :class:`~unet.upsamplers.base.Upsampler`; the call needs ``skip``.
        k_up: Side of the predicted kernels in input pixels, odd.
        embedding: Length of the vectors that are compared.
        **kwargs: See :class:`~unet.upsamplers.base.Upsampler`.

    Example:
        >>> layer = Sapa(filters=8, embedding=32)
        >>> tuple(layer(ops.ones((1, 3, 4, 16)), ops.ones((1, 5, 8, 8))).shape)
        (1, 5, 8, 8)
    """

    needs_skip = True

    def __init__(self, filters=None, k_up: int = 5, embedding: int = 64, **kwargs):
        super().__init__(filters, options=SapaOptions.checked(k_up=k_up, embedding=embedding), **kwargs)

    def build_rule(self, channels, skip_channels):

        def embedding(name, size, seed):
            initializer = keras.initializers.TruncatedNormal(stddev=0.02, seed=self.rule_seed(seed))
            norm = keras.layers.LayerNormalization(epsilon=1e-5, dtype=self.dtype_policy, name=f"{name}_norm")
            dense = keras.layers.Dense(
                self.embedding, kernel_initializer=initializer, dtype=self.dtype_policy, name=name
            )
            norm.build((None, None, None, size))
            dense.build((None, None, None, size))
            return norm, dense

        self.query_norm, self.query = embedding("query", skip_channels, 0)
        self.key_norm, self.key = embedding("key", channels, 1)

    def upsample(self, x, skip=None, argmax=None):
        height, width = ops.shape(x)[1:3]
        queries = pixel_unshuffle(fill(self.query(self.query_norm(skip)), height, width))
        queries = ops.reshape(queries, (-1, height, width, 4, self.embedding))
        similarity = correlate(queries, self.key(self.key_norm(x)), self.k_up)
        return reassemble(softmax(similarity, x), x)

    def rule_multiply_adds(self, x_shape) -> int:
        """Multiply-adds of embedding both maps, comparing them, and applying the kernels."""
        h, w, c = x_shape
        embedding = h * w * self.embedding * (4 * self.query.kernel.shape[0] + c)
        return embedding + 4 * h * w * self.k_up**2 * self.embedding + self.reassembly_multiply_adds(x_shape)


@keras.saving.register_keras_serializable("unet")
class Fade(Reassembly):
    """Kernels from both the skip and the feature map, and a gate between them (FADE, Lu et al. 2022).

    ``m = softmax_Δ(E(W_s·skip) + nearest(E(W_x·x)))`` with one 3×3 convolution E for both maps (the semi-shift
    convolution); ``y = g·skip + (1 − g)·reassembled`` with the gate ``g = nearest(σ(conv1×1(x)))``.

    Args:
        filters: See :class:`~unet.upsamplers.base.Upsampler`; the call needs ``skip``, with ``filters`` channels.
        k_up: Side of the predicted kernels in input pixels, odd.
        compressed: Output channels of W_s and W_x.
        **kwargs: See :class:`~unet.upsamplers.base.Upsampler`.

    Example:
        >>> layer = Fade(filters=8)
        >>> tuple(layer(ops.ones((1, 3, 4, 16)), ops.ones((1, 5, 8, 8))).shape)
        (1, 5, 8, 8)
    """

    needs_skip = True

    def __init__(self, filters=None, k_up: int = 5, compressed: int = 64, **kwargs):
        super().__init__(filters, options=FadeOptions.checked(k_up=k_up, compressed=compressed), **kwargs)

    def build_rule(self, channels, skip_channels):
        if skip_channels != channels:
            raise ValueError(
                f"Fade mixes the skip with the upsampled map: both must have the same number of channels, received "
                f"{skip_channels} and {channels}"
            )

        def convolution(filters, size, name, inputs, seed, **kwargs):
            glorot = keras.initializers.GlorotUniform(seed=self.rule_seed(seed))
            layer = self.convolution(filters, size, name, glorot, **kwargs)
            layer.build((None, None, None, inputs))
            return layer

        self.skip_compressor = convolution(self.compressed, 1, "skip_compressor", skip_channels, 0)
        self.compressor = convolution(self.compressed, 1, "compressor", channels, 1, use_bias=False)
        self.encoder = convolution(self.k_up**2, 3, "encoder", self.compressed, 2)
        self.gate = convolution(1, 1, "gate", channels, 3)

    def upsample(self, x, skip=None, argmax=None):
        height, width = ops.shape(x)[1:3]
        fine = pixel_unshuffle(fill(self.encoder(self.skip_compressor(skip)), height, width))
        fine = ops.reshape(fine, (-1, height, width, 4, self.k_up**2))
        coarse = ops.expand_dims(self.encoder(self.compressor(x)), 3)  # shared by the four pixels of a cell
        y = reassemble(softmax(_accurate(fine) + _accurate(coarse), x), x)
        gate = nearest(ops.sigmoid(self.gate(x)))
        return y + gate * (fill(skip, height, width) - y)

    def rule_multiply_adds(self, x_shape) -> int:
        """Multiply-adds of predicting the kernels from both maps, the gate, and applying the kernels."""
        h, w, c = x_shape
        prediction = c * self.compressed + 9 * self.compressed * self.k_up**2  # per pixel of either map
        return h * w * (5 * prediction + c) + self.reassembly_multiply_adds(x_shape)


def fill(x, height, width):
    """Pad a map with zeros at the bottom and right to ``2·height × 2·width``; the final crop removes them."""
    rows, columns = 2 * height - ops.shape(x)[1], 2 * width - ops.shape(x)[2]
    if isinstance(rows, int) and isinstance(columns, int) and rows == columns == 0:
        return x
    return ops.pad(x, [[0, 0], [0, rows], [0, columns], [0, 0]])


def softmax(logits, x):
    """Softmax over the taps in the dtype of ``x``, computed in float32 if that is a half-precision one."""
    return ops.cast(ops.softmax(_accurate(logits)), x.dtype)


def _accurate(x):
    """Half precision as float32: the sum of two float16 logits may overflow, and bfloat16 has 8 significant bits."""
    return ops.cast(x, "float32") if keras.backend.standardize_dtype(x.dtype) in ("float16", "bfloat16") else x


# === The three sums over neighbourhoods; each is the gradient of the two others ===
#
# All are parts of the trilinear form Σ m[h, w, g, s, Δ] · x[(h, w) + Δ, g·] · y[h, w, g, s, ·], with g the group of
# channels and s the pixel in the 2×2 cell. They process the neighbourhood row by row, so that only k shifted copies of
# x exist at a time; automatic differentiation would store all k². The helpers take sizes from the map x because tf2onnx
# misreads the sizes of a tensor that has just been reshaped.


def reassemble(kernels, x):
    """``y[2h+i, 2w+j, c] = Σ_Δ kernels[h, w, 4·group(c) + 2i + j, Δ] · x[(h, w) + Δ, c]``, with zeros around the image.

    Args:
        kernels: ``(B, h, w, groups·4, k²)``, Δ in row-major order.
        x: ``(B, h, w, C)``; channel c belongs to group ``c // (C/groups)``.

    Returns:
        ``(B, 2h, 2w, C)``.
    """
    groups, taps = kernels.shape[-2] // 4, kernels.shape[-1]

    def forward(kernels, x):
        return _from_cells(_reassemble(_grouped(kernels, groups, x), x), x)

    def backward(dy, kernels, x):
        dy = _to_cells(dy, groups)
        dm = _correlate(dy, x, round(taps**0.5))
        return _ungrouped(dm, x), _scatter(_grouped(kernels, groups, x), dy, x)

    return differentiable(forward, backward)(kernels, x)


def correlate(queries, keys, size: int):
    """``m[h, w, s, Δ] = ⟨queries[h, w, s], keys[(h, w) + Δ]⟩``, with zeros around the image.

    Args:
        queries: ``(B, h, w, 4, C)``.
        keys: ``(B, h, w, C)``.
        size: Side k of the neighbourhood in pixels, odd.

    Returns:
        ``(B, h, w, 4, k²)``.
    """

    def forward(queries, keys):
        return _ungrouped(_correlate(_grouped(queries, 1, keys), keys, size), keys)

    def backward(dm, queries, keys):
        dm = _grouped(dm, 1, keys)
        return _ungrouped(_reassemble(dm, keys), keys), _scatter(dm, _grouped(queries, 1, keys), keys)

    return differentiable(forward, backward)(queries, keys)


def _reassemble(kernels, x):
    """Sum m·x over Δ: ``(B, h, w, groups, 4, C/groups)``."""
    rows = ops.split(kernels, round(kernels.shape[-1] ** 0.5), axis=-1)
    return sum(_product(row, near, x) for row, near in zip(rows, _neighbours(x, len(rows), kernels.shape[-3])))


def _correlate(cells, x, size):
    """Sum y·x over the channels of a group: ``(B, h, w, groups, 4, k²)``."""
    neighbours = _neighbours(x, size, cells.shape[-3])
    return ops.concatenate([_product(cells, ops.swapaxes(near, -1, -2), x) for near in neighbours], axis=-1)


def _scatter(kernels, cells, x):
    """Sum m·y over output pixels into the input pixel that each tap reads: ``(B, h, w, C)``."""
    size = round(kernels.shape[-1] ** 0.5)
    height, width = ops.shape(x)[1:3]
    half, total = size // 2, 0
    for i, row in enumerate(ops.split(kernels, size, axis=-1)):
        near = _product(ops.swapaxes(row, -1, -2), cells, x)  # (B, h, w, groups, k, C/groups)
        for j in range(size):
            part = ops.reshape(near[..., j, :], (-1, height, width, cells.shape[-3] * cells.shape[-1]))
            total = total + _shift(part, i - half, j - half)
    return total


def _product(a, b, x):
    """``ops.matmul`` of ``(B, h, w, groups, i, j)`` and ``(B, h, w, groups, j, k)``; LiteRT's has at most five axes."""
    height, width = ops.shape(x)[1:3]
    groups, rows, inner = a.shape[-3:]
    columns = b.shape[-1]
    y = ops.matmul(ops.reshape(a, (-1, rows, inner)), ops.reshape(b, (-1, inner, columns)))
    return ops.reshape(y, (-1, height, width, groups, rows, columns))


def _neighbours(x, size, groups):
    """Yield k shifted copies of x for each row of the neighbourhood: ``(B, h, w, groups, k, C/groups)``."""
    height, width = ops.shape(x)[1:3]
    half = size // 2
    padded = ops.pad(x, [[0, 0], [half, half], [half, half], [0, 0]])
    for i in range(size):
        shifted = [padded[:, i : i + height, j : j + width] for j in range(size)]
        shifted = [ops.reshape(part, (-1, height, width, groups, x.shape[-1] // groups)) for part in shifted]
        yield ops.stack(shifted, axis=4)


def _shift(x, down, right):
    """Shift the image by pixels, with zeros entering at the border."""
    height, width = ops.shape(x)[1:3]
    x = ops.pad(x, [[0, 0], [max(down, 0), max(-down, 0)], [max(right, 0), max(-right, 0)], [0, 0]])
    top, left = max(-down, 0), max(-right, 0)
    return x[:, top : top + height, left : left + width]


def _grouped(cells, groups, x):
    """``(B, h, w, groups·4, n)`` to ``(B, h, w, groups, 4, n)``."""
    return ops.reshape(cells, (-1, *ops.shape(x)[1:3], groups, 4, cells.shape[-1]))


def _ungrouped(cells, x):
    """``(B, h, w, groups, 4, n)`` to ``(B, h, w, groups·4, n)``."""
    groups, _, n = cells.shape[-3:]
    return ops.reshape(cells, (-1, *ops.shape(x)[1:3], 4 * groups, n))


def _from_cells(cells, x):
    """``(B, h, w, groups, 4, C/groups)`` to ``(B, 2h, 2w, C)``."""
    groups, _, depth = cells.shape[-3:]
    if groups > 1:
        cells = ops.swapaxes(cells, -2, -3)
    return pixel_shuffle(ops.reshape(cells, (-1, *ops.shape(x)[1:3], 4 * groups * depth)))


def _to_cells(y, groups):
    """Undo :func:`_from_cells`."""
    height, width, channels = ops.shape(y)[1:]
    cells = ops.reshape(pixel_unshuffle(y), (-1, height // 2, width // 2, 4, groups, channels // groups))
    return ops.swapaxes(cells, -2, -3)
