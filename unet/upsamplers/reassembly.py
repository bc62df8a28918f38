"""Upsamplers that predict a kernel for every output pixel and apply it to the input: CARAFE, SAPA, FADE."""

import math

import keras
from keras import ops

from unet.upsamplers.base import Upsampler
from unet.upsamplers.interpolation import nearest
from unet.upsamplers.neighbourhood import correlate, reassemble
from unet.upsamplers.settings import CarafeOptions, FadeOptions, SapaOptions
from unet.upsamplers.sub_pixel import pixel_unshuffle
from unet.upsamplers.sums import accurate


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
        kernels = in_one(self.compressor, self.encoder, x)
        return reassemble(ops.reshape(kernels, (-1, height, width, self.groups * 4, self.k_up**2)), x)

    def rule_multiply_adds(self, x_shape) -> int:
        """Multiply-adds of predicting the kernels and applying them."""
        h, w, c = x_shape
        return h * w * in_one_multiply_adds(c, self.compressor, self.encoder) + self.reassembly_multiply_adds(x_shape)


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
        queries, keys = self.query_norm(skip), self.key_norm(x)
        if not self.folded:
            queries, keys = fill(self.query(queries), height, width), self.key(keys)
            return reassemble(correlate(queries, keys, self.k_up), x)
        # ⟨W_q·q + b_q, e⟩ = ⟨q, W_qᵀ·e⟩ + ⟨b_q, e⟩ with e = W_k·k + b_k: no embedding at high resolution.
        query = ops.concatenate([self.query.kernel, self.query.bias[None]], axis=0)
        kernel, bias = ops.matmul(self.key.kernel, ops.transpose(query)), ops.matmul(query, self.key.bias)
        keys = ops.matmul(keys, ops.cast(kernel, keys.dtype)) + ops.cast(bias, keys.dtype)
        similarity = correlate(fill(queries, height, width), keys[..., :-1], self.k_up)
        return reassemble(accurate(similarity) + accurate(neighbours(keys[..., -1:], self.k_up)), x)

    def rule_multiply_adds(self, x_shape) -> int:
        """Multiply-adds of embedding both maps, comparing them, and applying the kernels."""
        h, w, c = x_shape
        skip_channels = self.query.kernel.shape[0]
        compared = skip_channels if self.folded else self.embedding
        embedding = h * w * (c * (compared + 1) if self.folded else self.embedding * (4 * skip_channels + c))
        return embedding + 4 * h * w * self.k_up**2 * compared + self.reassembly_multiply_adds(x_shape)

    @property
    def folded(self) -> bool:
        """Whether both embeddings are folded into one matrix, which takes less work if the skip has fewer channels."""
        return self.query.kernel.shape[0] <= self.embedding


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
        fine = pixel_unshuffle(fill(in_one(self.skip_compressor, self.encoder, skip), height, width))
        fine = ops.reshape(fine, (-1, height, width, 4, self.k_up**2))
        coarse = ops.expand_dims(in_one(self.compressor, self.encoder, x), 3)  # shared by the four pixels of a cell
        gate = ops.sigmoid(self.gate(x))
        y = reassemble(accurate(fine) + accurate(coarse), x, share=ops.expand_dims(1.0 - gate, 3))
        return y + nearest(gate) * fill(skip, height, width)

    def rule_multiply_adds(self, x_shape) -> int:
        """Multiply-adds of predicting the kernels from both maps, the gate, and applying the kernels."""
        h, w, c = x_shape
        prediction = in_one_multiply_adds(c, self.compressor, self.encoder)  # per pixel of either map
        return h * w * (5 * prediction + c) + self.reassembly_multiply_adds(x_shape)


def in_one(first, second, x):
    """``second(first(x))`` for a 1×1 convolution and a larger one: as one convolution if x has no more channels.

    The values in between are not stored then, and there is less to multiply. Zeros are around the map in between, not
    around x, so the first one's bias is convolved, too.
    """
    if x.shape[-1] > first.filters:
        return second(first(x))

    def convolve(x, kernel):
        return ops.conv(x, ops.cast(kernel, x.dtype), padding="same", data_format="channels_last")

    y = convolve(x, ops.matmul(first.kernel, second.kernel)) + ops.cast(second.bias, x.dtype)
    if first.use_bias:
        y = y + convolve(ops.ones_like(x[:1, :, :, :1]), ops.matmul(first.bias[None], second.kernel))
    return y


def in_one_multiply_adds(channels, first, second) -> int:
    """Multiply-adds of :func:`in_one` per pixel of a map, without those that do not depend on its values."""
    weights = math.prod(second.kernel.shape)
    if channels > first.filters:
        return channels * first.filters + weights
    return weights // first.filters * channels


def neighbours(x, size):
    """The k² pixels around each, with zeros around the image: ``(B, h, w, 1)`` to ``(B, h, w, 1, k²)``."""
    height, width = ops.shape(x)[1:3]
    half = size // 2
    x = ops.pad(x, [[0, 0], [half, half], [half, half], [0, 0]])
    shifted = [x[:, i : i + height, j : j + width] for i in range(size) for j in range(size)]
    return ops.expand_dims(ops.concatenate(shifted, axis=-1), 3)


def fill(x, height, width):
    """Pad a map with zeros at the bottom and right to ``2·height × 2·width``; the final crop removes them."""
    rows, columns = 2 * height - ops.shape(x)[1], 2 * width - ops.shape(x)[2]
    if isinstance(rows, int) and isinstance(columns, int) and rows == columns == 0:
        return x
    return ops.pad(x, [[0, 0], [0, rows], [0, columns], [0, 0]])
