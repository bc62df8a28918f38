"""The U-Net (Ronneberger et al. 2015) with the upsampler as an argument."""

import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import keras
from keras import layers

from unet import keras_file, upsamplers
from unet.config import Config
from unet.config.schema import doubled_widths

BLOCKS = ("plain", "residual")
NORMALIZATIONS = ("batch", "group", "none")


def build_unet(
    classes: int,
    *,
    width: int = 64,
    widths: tuple[int, ...] | None = None,
    depth: int = 4,
    block: str = "plain",
    normalization: str = "batch",
    dropout: float = 0.0,
    activation: str = "relu",
    kernel_initializer: str = "he_normal",
    upsampler: str = "conv_transpose",
    upsampler_options: dict | None = None,
    input_shape: tuple[int | None, int | None, int] = (None, None, 3),
    seed: int = 0,
    dtype: str | None = None,
    name: str = "unet",
) -> keras.Model:
    """Build a U-Net that maps pixels to logits, at any height and width.

    Args:
        classes: Number of classes, the output channels.
        width: Channels of the first stage; each deeper stage has twice as many.
        widths: Channels of every stage, ``depth + 1`` numbers ending with the bottleneck; overrides ``width``.
        depth: Number of times the resolution is halved.
        block: ``"plain"`` (two 3×3 convolutions) or ``"residual"`` (the same with a shortcut, He et al. 2016).
        normalization: Normalization after each convolution: ``"batch"``, ``"group"`` (8 groups, or fewer if the
            channels do not divide by 8) or ``"none"``.
        dropout: Rate between the two convolutions of each stage, from 0 to less than 1 (Zagoruyko and Komodakis 2016).
        activation: Keras name of the activation after each convolution.
        kernel_initializer: Keras name of the initializer of every kernel.
        upsampler: A name in ``unet.upsamplers.UPSAMPLERS``.
        upsampler_options: Options of the upsampler.
        input_shape: Height, width and channels; ``None`` for a dynamic size.
        seed: Seed of all initial weights. Each layer derives its own from its name, so that networks that differ only
            in their upsampler start with the same weights everywhere else.
        dtype: Dtype policy such as ``"mixed_bfloat16"``; ``None`` for Keras' global one. Logits are float32.
        name: Name of the model.

    Returns:
        Model from pixels ``(B, H, W, 3)`` in 0..255 to float32 logits ``(B, H, W, classes)``.

    Raises:
        ValueError: An argument is invalid; the message names it.
    """
    if block not in BLOCKS:
        raise ValueError(f"block must be one of {', '.join(BLOCKS)}, received {block!r}")
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization must be one of {', '.join(NORMALIZATIONS)}, received {normalization!r}")

    widths = doubled_widths(width, depth) if widths is None else tuple(widths)
    if len(widths) != depth + 1:
        raise ValueError(f"widths must be {depth + 1} numbers at depth {depth}, received {widths}")

    stage = StageBlock(block, normalization, dropout, activation, kernel_initializer, seed, dtype)
    pooling_returns_argmax = upsamplers.layer_class(upsampler).needs_argmax

    def pool(x, name):
        if pooling_returns_argmax:
            return upsamplers.MaxPoolWithArgmax(dtype=dtype, name=name)(x)
        return layers.MaxPooling2D(2, padding="same", data_format="channels_last", dtype=dtype, name=name)(x), None

    def upsample(x, skip, argmax, filters, name):
        layer = upsamplers.build(
            upsampler,
            filters,
            kernel_initializer=stage.initializer(f"{name}_projection"),
            seed=seed_of(seed, name),
            dtype=dtype,
            name=name,
            **(upsampler_options or {}),
        )
        return layer(x, skip, argmax)

    # === Encoder ===
    pixels = keras.Input(input_shape, name="pixels")
    x = layers.Rescaling(1 / 127.5, offset=-1.0, dtype=dtype, name="normalize")(pixels)
    skips = []
    for i in range(depth):
        x = stage(x, widths[i], f"encoder_{i + 1}")
        pooled, argmax = pool(x, f"encoder_{i + 1}_pool")
        skips.append((x, argmax))
        x = pooled
    x = stage(x, widths[-1], "bottleneck")

    # === Decoder ===
    for i in reversed(range(depth)):
        skip, argmax = skips[i]
        x = upsample(x, skip, argmax, widths[i], f"decoder_{i + 1}_up")
        x = layers.Concatenate(dtype=dtype, name=f"decoder_{i + 1}_concat")([skip, x])
        x = stage(x, widths[i], f"decoder_{i + 1}")
    logits = layers.Conv2D(
        classes,
        1,
        data_format="channels_last",
        kernel_initializer=stage.initializer("logits"),
        dtype="float32",
        name="logits",
    )(x)
    return keras.Model(pixels, logits, name=name)


@dataclass(frozen=True)
class StageBlock:
    """Two 3×3 convolutions with normalization and activation, as :func:`build_unet` describes them.

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
        y = self._convolution(x, filters, 3, f"{name}_conv_1")
        y = self._activate(y, f"{name}_act_1")
        if self.dropout:
            layer_name = f"{name}_dropout"
            seed = seed_of(self.seed, layer_name)
            y = layers.Dropout(self.dropout, seed=seed, dtype=self.dtype, name=layer_name)(y)
        y = self._convolution(y, filters, 3, f"{name}_conv_2")
        if self.kind == "residual":
            if x.shape[-1] != filters:
                x = self._convolution(x, filters, 1, f"{name}_shortcut")
            y = layers.Add(dtype=self.dtype, name=f"{name}_add")([x, y])
        return self._activate(y, f"{name}_act_2")

    def initializer(self, layer_name: str) -> keras.initializers.Initializer:
        """Kernel initializer of the layer called ``layer_name``, with its own seed."""
        initializer = keras.initializers.get(self.kernel_initializer)
        if "seed" in (config := initializer.get_config()):
            initializer = type(initializer).from_config(config | {"seed": seed_of(self.seed, layer_name)})
        return initializer

    def _convolution(self, x, filters, kernel_size, name):
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
            x = layers.BatchNormalization(momentum=0.9, dtype=self.dtype, name=f"{name}_norm")(x)
        elif self.normalization == "group":
            x = layers.GroupNormalization(math.gcd(filters, 8), dtype=self.dtype, name=f"{name}_norm")(x)
        return x

    def _activate(self, x, name):
        return layers.Activation(self.activation, dtype=self.dtype, name=name)(x)


def from_config(config: Config, classes: int, fixed_size: bool = False) -> keras.Model:
    """Build the network that a configuration describes, for any image size or with its fixed one."""
    model = config.model
    return build_unet(
        classes,
        width=model.width,
        widths=model.widths,
        depth=model.depth,
        block=model.block,
        normalization=model.normalization,
        dropout=model.dropout,
        activation=model.activation,
        kernel_initializer=model.kernel_initializer,
        upsampler=model.upsampler.name,
        upsampler_options=model.upsampler.options,
        input_shape=(*config.data.size, 3) if fixed_size else (None, None, 3),
        seed=config.seed,
        dtype=config.training.precision,
    )


def load_saved(path: str | Path) -> keras.Model:
    """Load a network from a ``.keras`` file, for inference.

    Raises:
        InputError: The file is damaged, or contains anything but a network of this package.
    """
    upsamplers.register()
    return keras_file.load(Path(path))


def seed_of(seed: int, name: str) -> int:
    """Derive the seed of the part called ``name``: the same on every machine and in any order of construction."""
    return zlib.crc32(f"{seed}/{name}".encode()) & 0x7FFFFFFF
