"""What encoder and decoder are built from: the convolutions of a stage, attention, and weights that a name decides."""

import math
import zlib
from dataclasses import dataclass

import keras
from keras import layers, ops

BLOCKS = ("plain", "residual")
NORMALIZATIONS = ("batch", "group", "none")
ATTENTIONS = ("none", "gate", "scse")
REDUCTION, LEAST_HIDDEN = 16, 8
"""Channels per hidden channel in :func:`squeeze_and_excitation`, and least number of hidden channels."""
MOMENTUM = 0.9
"""Momentum of the moving statistics of every batch normalization."""


@dataclass(frozen=True)
class StageBlock:
    """Two 3×3 convolutions with normalization and activation, as :func:`unet.model.build_unet` describes them.

    Calling it adds the layers of one stage to a functional model.
    """

    kind: str
    normalization: str
    dropout: float
    activation: str
    kernel_initializer: str
    seed: int
    dtype: str | None

    def __call__(self, x, filters: int, name: str):
        """Apply the stage called ``name``: ``(B, h, w, C)`` to ``(B, h, w, filters)``."""
        y = self.convolution(x, filters, 3, f"{name}_conv_1")
        y = self.activate(y, f"{name}_act_1")
        if self.dropout:
            layer_name = f"{name}_dropout"
            seed = seed_of(self.seed, layer_name)
            y = layers.Dropout(self.dropout, seed=seed, dtype=self.dtype, name=layer_name)(y)
        y = self.convolution(y, filters, 3, f"{name}_conv_2")
        if self.kind == "residual":
            if x.shape[-1] != filters:
                x = self.convolution(x, filters, 1, f"{name}_shortcut")
            y = layers.Add(dtype=self.dtype, name=f"{name}_add")([x, y])
        return self.activate(y, f"{name}_act_2")

    def convolution(self, x, filters: int, kernel_size: int, name: str):
        """Apply a convolution with normalization: ``(B, h, w, C)`` to ``(B, h, w, filters)``."""
        x = layers.Conv2D(
            filters,
            kernel_size,
            padding="same",
            data_format="channels_last",
            use_bias=self.normalization == "none",
            kernel_initializer=self.initializer(name),
            dtype=self.dtype,
            name=name,
        )(x)
        if self.normalization == "batch":
            x = layers.BatchNormalization(momentum=MOMENTUM, dtype=self.dtype, name=f"{name}_norm")(x)
        elif self.normalization == "group":
            x = layers.GroupNormalization(math.gcd(filters, 8), dtype=self.dtype, name=f"{name}_norm")(x)
        return x

    def pointwise(self, x, filters: int, name: str, use_bias: bool = True):
        """Apply a 1×1 convolution without normalization: ``(B, h, w, C)`` to ``(B, h, w, filters)``."""
        return layers.Conv2D(
            filters,
            1,
            data_format="channels_last",
            use_bias=use_bias,
            kernel_initializer=self.initializer(name),
            dtype=self.dtype,
            name=name,
        )(x)

    def activate(self, x, name: str):
        """Apply the activation."""
        return layers.Activation(self.activation, dtype=self.dtype, name=name)(x)

    def initializer(self, layer_name: str) -> keras.initializers.Initializer:
        """Kernel initializer of the layer called ``layer_name``, with its own seed."""
        return seeded(keras.initializers.get(self.kernel_initializer), seed_of(self.seed, layer_name))


def attention_gate(skip, up, stage: StageBlock, name: str):
    """Additive attention gate on a skip connection (Oktay et al. 2018, arXiv:1804.03999).

    ``skip · σ(ψ(relu(W_x · skip + W_g · up)))`` with 1×1 convolutions ``W_x``, ``W_g`` (to half the channels of the
    skip) and ``ψ`` (to one factor for each pixel).

    In the paper the coarse map is the gating signal: the skip is reduced to its size, and the factors are interpolated
    back. Here it is the upsampled map, which already has the size of the skip, so that gates work at any size and with
    any upsampler.

    Args:
        skip: Symbolic tensor ``(B, H, W, C_skip)``.
        up: Upsampled decoder map ``(B, H, W, C)``.
        stage: Block whose dtype, initializer and seeds the layers have.
        name: Name of the gate; those of its layers begin with it.

    Returns:
        Gated skip ``(B, H, W, C_skip)``.
    """
    inner = max(1, skip.shape[-1] // 2)
    of_skip = stage.pointwise(skip, inner, f"{name}_skip", use_bias=False)
    of_signal = stage.pointwise(up, inner, f"{name}_signal")
    x = layers.Add(dtype=stage.dtype, name=f"{name}_add")([of_skip, of_signal])
    x = layers.Activation("relu", dtype=stage.dtype, name=f"{name}_relu")(x)
    return _scaled(skip, stage.pointwise(x, 1, f"{name}_psi"), stage, name)


def squeeze_and_excitation(x, stage: StageBlock, name: str):
    """Concurrent spatial and channel squeeze and excitation, scSE (Roy et al. 2018, arXiv:1803.02579).

    ``x · σ(W_2 · relu(W_1 · mean(x))) + x · σ(w · x)``: a factor for each channel, from the mean over all pixels, and a
    factor for each pixel. There is one hidden channel per 16, as in segmentation_models.pytorch, but at least 8: of
    one or two, ReLU often leaves none that is ever positive.

    Args:
        x: Symbolic tensor ``(B, H, W, C)``.
        stage: Block whose dtype, initializer and seeds the layers have.
        name: Name of the result; those of the other layers begin with it.

    Returns:
        Recalibrated map ``(B, H, W, C)``.
    """
    channels = x.shape[-1]
    mean = layers.GlobalAveragePooling2D("channels_last", keepdims=True, dtype=stage.dtype, name=f"{name}_mean")(x)
    hidden = stage.pointwise(mean, max(LEAST_HIDDEN, channels // REDUCTION), f"{name}_hidden")
    hidden = layers.Activation("relu", dtype=stage.dtype, name=f"{name}_relu")(hidden)
    by_channel = _scaled(x, stage.pointwise(hidden, channels, f"{name}_excite"), stage, f"{name}_channel")
    by_pixel = _scaled(x, stage.pointwise(x, 1, f"{name}_squeeze"), stage, f"{name}_pixel")
    return layers.Add(dtype=stage.dtype, name=name)([by_channel, by_pixel])


@keras.saving.register_keras_serializable(package="unet")
class TwoClassLogits(layers.Layer):
    """Logits of two classes from one, that of the second: ``[0, z]``, whose softmax is ``[1 − σ(z), σ(z)]``.

    Takes ``z`` ``(B, H, W, 1)``, returns ``(B, H, W, 2)``. The cross-entropy of the result is the binary cross-entropy
    of ``z``.

    Example:
        >>> TwoClassLogits()(np.array([[[[0.5]]]])).numpy()
        array([[[[0. , 0.5]]]], dtype=float32)
    """

    def call(self, z):
        """A channel of zeros before the logit."""
        return ops.pad(z, ((0, 0), (0, 0), (0, 0), (1, 0)))

    def compute_output_shape(self, input_shape):
        """One channel more."""
        return (*input_shape[:-1], 2)


@keras.saving.register_keras_serializable(package="unet")
class ClassIds(layers.Layer):
    """The id of each pixel's class: the channel with the largest value, of equal ones the first.

    Takes logits ``(B, H, W, C)`` with at most 256 channels, returns uint8 ``(B, H, W)``.

    Example:
        >>> ClassIds()(np.array([[[[0.1, 0.7, 0.2]]]])).numpy()
        array([[[1]]], dtype=uint8)
    """

    def call(self, logits):
        """Argmax over the channels."""
        if keras.backend.backend() == "tensorflow":
            import tensorflow

            # Keras orders -0 before 0, by operations on bits that other runtimes do not know.
            ids = tensorflow.argmax(logits, axis=-1, output_type="int32")
        else:
            ids = ops.argmax(logits, axis=-1)
        return ops.cast(ids, "uint8")

    def compute_output_spec(self, logits):
        """Shape without the channels, and the type of the ids."""
        return keras.KerasTensor(logits.shape[:-1], "uint8")


@keras.saving.register_keras_serializable(package="unet")
class LabelSets(layers.Layer):
    """The set of each pixel's labels, those with a positive logit: bit k, of value 2ᵏ, is channel k.

    Takes logits ``(B, H, W, L)`` with at most 7 channels, returns uint8 ``(B, H, W)``.

    Example:
        >>> LabelSets()(np.array([[[[0.1, -0.7, 0.2]]]])).numpy()
        array([[[5]]], dtype=uint8)
    """

    def call(self, logits):
        """Sum of the values of the bits, as integers, which no converter quantizes."""
        powers = ops.convert_to_tensor([2**index for index in range(logits.shape[-1])], "int32")
        return ops.cast(ops.sum(ops.cast(logits > 0, "int32") * powers, axis=-1), "uint8")

    def compute_output_spec(self, logits):
        """Shape without the channels, and the type of the sets."""
        return keras.KerasTensor(logits.shape[:-1], "uint8")


def _scaled(x, factors, stage: StageBlock, name: str):
    """``x · σ(factors)``."""
    factors = layers.Activation("sigmoid", dtype=stage.dtype, name=f"{name}_sigmoid")(factors)
    return layers.Multiply(dtype=stage.dtype, name=name)([x, factors])


def seeded(initializer: keras.initializers.Initializer, seed: int) -> keras.initializers.Initializer:
    """Copy a random initializer with a seed; others are returned as they are."""
    config = initializer.get_config()
    return type(initializer).from_config(config | {"seed": seed}) if "seed" in config else initializer


def seed_of(seed: int, name: str) -> int:
    """Derive the seed of the part called ``name``: the same on every machine and in any order of construction."""
    return zlib.crc32(f"{seed}/{name}".encode()) & 0x7FFFFFFF
