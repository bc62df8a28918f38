"""The U-Net (Ronneberger et al. 2015) with the upsampler as an argument."""

import math
import zlib
from pathlib import Path

import keras
from keras import layers

from unet import upsamplers
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
    """Build a U-Net that takes pixels and gives logits, at any height and width.

    Args:
        classes: Number of output channels.
        width: Channels of the first stage; each deeper stage doubles them.
        widths: Channels of every stage instead, the bottleneck last: ``depth + 1`` numbers.
        depth: Number of times the resolution is halved.
        block: ``"plain"`` (two 3×3 convolutions) or ``"residual"`` (the same with a shortcut, He et al. 2016).
        normalization: After each convolution: ``"batch"``, ``"group"`` (8 groups, fewer where the channels do not
            divide) or ``"none"``.
        dropout: Rate between the two convolutions of each block, 0 to <1 (Zagoruyko and Komodakis 2016).
        activation: Keras name of the activation after each convolution.
        kernel_initializer: Keras name of the initialiser of every kernel.
        upsampler: A name in ``unet.upsamplers.UPSAMPLERS``.
        upsampler_options: Arguments for the upsampler's constructor.
        input_shape: Height, width, channels; ``None`` leaves a size open.
        seed: Decides every initial weight, layer by layer, from the layer's name: two networks that differ only in
            their upsampler start with the same weights everywhere else.
        dtype: Dtype policy such as ``"mixed_bfloat16"``; ``None`` takes Keras' global one. Logits are float32.
        name: Name of the model.

    Returns:
        Model from pixels ``(B, H, W, 3)`` in 0..255 to float32 logits ``(B, H, W, classes)``.

    Raises:
        ValueError: An argument is outside the values above; the message names it.
    """
    if block not in BLOCKS:
        raise ValueError(f"block must be one of {', '.join(BLOCKS)}, received {block!r}")
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization must be one of {', '.join(NORMALIZATIONS)}, received {normalization!r}")

    widths = doubled_widths(width, depth) if widths is None else tuple(widths)
    if len(widths) != depth + 1:
        raise ValueError(f"widths must be {depth + 1} numbers at depth {depth}, received {widths}")

    # === Layers ===
    def initializer(layer_name):
        instance = keras.initializers.get(kernel_initializer)
        if "seed" in (config := instance.get_config()):
            instance = type(instance).from_config(config | {"seed": seed_of(seed, layer_name)})
        return instance

    def convolution(x, filters, kernel, name, normalize=True):
        x = layers.Conv2D(
            filters,
            kernel,
            padding="same",
            use_bias=not normalize or normalization == "none",
            kernel_initializer=initializer(name),
            dtype=dtype,
            name=name,
        )(x)
        if normalize and normalization == "batch":
            x = layers.BatchNormalization(momentum=0.9, dtype=dtype, name=f"{name}_norm")(x)
        elif normalize and normalization == "group":
            x = layers.GroupNormalization(math.gcd(filters, 8), dtype=dtype, name=f"{name}_norm")(x)
        return x

    def activate(x, name):
        return layers.Activation(activation, dtype=dtype, name=name)(x)

    def stage(x, filters, name):
        y = activate(convolution(x, filters, 3, f"{name}_conv_1"), f"{name}_act_1")
        if dropout:
            layer_name = f"{name}_dropout"
            y = layers.Dropout(dropout, seed=seed_of(seed, layer_name), dtype=dtype, name=layer_name)(y)
        y = convolution(y, filters, 3, f"{name}_conv_2")
        if block == "residual":
            if x.shape[-1] != filters:
                x = convolution(x, filters, 1, f"{name}_shortcut")
            y = layers.Add(dtype=dtype, name=f"{name}_add")([x, y])
        return activate(y, f"{name}_act_2")

    def pool(x, name):
        if upsamplers.layer_class(upsampler).needs_argmax:
            return upsamplers.MaxPoolWithArgmax(dtype=dtype, name=name)(x)
        return layers.MaxPooling2D(2, padding="same", dtype=dtype, name=name)(x), None

    def enlarge(x, skip, argmax, filters, name):
        options = {
            "kernel_initializer": initializer(f"{name}_projection"),
            "seed": seed_of(seed, name),
            "dtype": dtype,
            "name": name,
        }
        layer = upsamplers.build(upsampler, filters, **options, **(upsampler_options or {}))
        return layer(x, skip, argmax)

    # === Forward ===
    pixels = keras.Input(input_shape, name="pixels")
    x = layers.Rescaling(1 / 127.5, offset=-1.0, dtype=dtype, name="normalize")(pixels)
    skips = []
    for i in range(depth):
        x = stage(x, widths[i], f"encoder_{i + 1}")
        pooled, argmax = pool(x, f"encoder_{i + 1}_pool")
        skips.append((x, argmax))
        x = pooled
    x = stage(x, widths[-1], "bottleneck")
    for i in reversed(range(depth)):
        skip, argmax = skips[i]
        x = enlarge(x, skip, argmax, widths[i], f"decoder_{i + 1}_up")
        x = layers.Concatenate(dtype=dtype, name=f"decoder_{i + 1}_concat")([skip, x])
        x = stage(x, widths[i], f"decoder_{i + 1}")
    logits = layers.Conv2D(classes, 1, kernel_initializer=initializer("logits"), dtype="float32", name="logits")(x)
    return keras.Model(pixels, logits, name=name)


def from_config(config: Config, classes: int, fixed_size: bool = False) -> keras.Model:
    """The network that a configuration describes, with its initial weights; for its image size only, or any."""
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
    """Load a network from a ``.keras`` file, for inference."""
    upsamplers.register()
    return keras.saving.load_model(path, compile=False)


def seed_of(seed: int, name: str) -> int:
    """Seed of the part called ``name``: the same on every machine and for every order of construction."""
    return zlib.crc32(f"{seed}/{name}".encode()) & 0x7FFFFFFF
