"""The U-Net (Ronneberger et al. 2015) with the upsampler as an argument."""

from collections.abc import Sequence
from pathlib import Path

import keras
from keras import layers

from unet import encoders, keras_file, speed, upsamplers
from unet.blocks import (
    ATTENTIONS,
    BLOCKS,
    NORMALIZATIONS,
    StageBlock,
    TwoClassLogits,
    attention_gate,
    seed_of,
    squeeze_and_excitation,
)
from unet.config import Config
from unet.config.schema import HEADS
from unet.encoders.plan import Plan
from unet.errors import InputError
from unet.settings import Mistakes

speed.apply()


def build_unet(
    classes: int,
    *,
    encoder: str = "plain",
    width: int = 64,
    widths: tuple[int, ...] | None = None,
    depth: int | None = None,
    decoder_widths: tuple[int, ...] | None = None,
    decoder_attention: str = "none",
    head: str = "softmax",
    block: str = "plain",
    normalization: str = "batch",
    dropout: float = 0.0,
    activation: str = "relu",
    kernel_initializer: str = "he_normal",
    upsampler: str = "conv_transpose",
    upsampler_options: dict | None = None,
    input_shape: tuple[int | None, int | None, int] = (None, None, 3),
    moments: tuple[Sequence[float], Sequence[float]] | None = None,
    seed: int = 0,
    dtype: str | None = None,
    name: str = "unet",
) -> keras.Model:
    """Build a U-Net that maps pixels to logits, at any height and width.

    Args:
        classes: Number of classes, the output channels.
        encoder: A name in ``unet.encoders.ENCODERS``. Its weights are random: see
            :func:`unet.encoders.weights.assign_pretrained`.
        width: Channels of the first stage; each deeper stage has twice as many. A pretrained encoder has its own.
        widths: Channels of every stage of the plain encoder, ``depth + 1`` numbers ending with the bottleneck;
            overrides ``width``.
        depth: Number of times the resolution is halved; ``None`` for 4 with the plain encoder, otherwise for the whole
            encoder.
        decoder_widths: Channels of every decoder stage, ``depth`` numbers beginning at full resolution; ``None`` for
            those of ``width`` or ``widths`` (with ``max_unpool`` and ``fade``, for those of the encoder).
        decoder_attention: Attention in the decoder: ``"none"``; ``"gate"``, an attention gate on every skip that is
            concatenated (:func:`unet.blocks.attention_gate`), while upsamplers that use the skip get it ungated; or
            ``"scse"``, squeeze and excitation before and after the convolutions of every stage
            (:func:`unet.blocks.squeeze_and_excitation`), as in segmentation_models.pytorch.
        head: ``"softmax"``: a logit for each class; ``"sigmoid"``: one for two classes, that of the second, which
            becomes the logits ``[0, z]`` (:class:`unet.blocks.TwoClassLogits`).
        block: Stages of plain encoder and decoder: ``"plain"`` (two 3×3 convolutions) or ``"residual"`` (the same with
            a shortcut, He et al. 2016).
        normalization: Normalization after each of their convolutions: ``"batch"``, ``"group"`` (8 groups, or fewer if
            the channels do not divide by 8) or ``"none"``.
        dropout: Rate between their two convolutions, from 0 to less than 1 (Zagoruyko and Komodakis 2016).
        activation: Keras name of the activation after each of their convolutions.
        kernel_initializer: Keras name of the initializer of their kernels.
        upsampler: A name in ``unet.upsamplers.UPSAMPLERS``.
        upsampler_options: Options of the upsampler.
        input_shape: Height, width and channels; ``None`` for a dynamic size.
        moments: Mean and standard deviation of each channel, by which pixels are normalized
            (:meth:`unet.encoders.base.Encoder.standardize`); ``None``: as the encoder's authors did, which needs 3
            channels in 0..255.
        seed: Seed of all initial weights. Each layer derives its own from its name, so that networks that differ only
            in their upsampler start with the same weights everywhere else.
        dtype: Dtype policy such as ``"mixed_bfloat16"``; ``None`` for Keras' global one. Logits are float32.
        name: Name of the model.

    Returns:
        Model from pixels ``(B, H, W, 3)`` in 0..255, or those that ``input_shape`` and ``moments`` describe, to float32
        logits ``(B, H, W, classes)``.

    Raises:
        ValueError: An argument is invalid; the message names it.
    """
    if block not in BLOCKS:
        raise ValueError(f"block must be one of {', '.join(BLOCKS)}, received {block!r}")
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization must be one of {', '.join(NORMALIZATIONS)}, received {normalization!r}")
    if decoder_attention not in ATTENTIONS:
        raise ValueError(f"decoder_attention must be one of {', '.join(ATTENTIONS)}, received {decoder_attention!r}")
    if head not in HEADS:
        raise ValueError(f"head must be one of {', '.join(HEADS)}, received {head!r}")
    if head == "sigmoid" and classes != 2:
        raise ValueError(f"head 'sigmoid' needs 2 classes, received {classes}")
    channels = input_shape[-1]
    if (3 if moments is None else len(moments[0])) != channels:
        raise ValueError(f"moments must be given for each of the {channels} channels of input_shape")
    features = encoders.create(encoder)
    if moments is not None:
        features.standardize(*moments)
    layer = upsamplers.layer_class(upsampler)
    plan = Plan.of(encoder, depth, width, widths, decoder_widths, upsampler)

    stage = StageBlock(block, normalization, dropout, activation, kernel_initializer, seed, dtype)

    def pool(x, name):
        if layer.needs_argmax:
            return upsamplers.MaxPoolWithArgmax(dtype=dtype, name=name)(x)
        return layers.MaxPooling2D(2, padding="same", data_format="channels_last", dtype=dtype, name=name)(x), None

    def upsample(x, level, filters, name):
        upsampling = layer(
            filters,
            kernel_initializer=stage.initializer(f"{name}_projection"),
            seed=seed_of(seed, name),
            dtype=dtype,
            name=name,
            **(upsampler_options or {}),
        )
        return upsampling(x, level.features, level.argmax)

    # === Encoder ===
    pixels = keras.Input(input_shape, name="pixels")
    *skips, bottom = features.levels(pixels, plan.depth, plan.encoder, stage, pool)

    # === Decoder ===
    x = bottom.features
    for i, filters in reversed(list(enumerate(plan.decoder))):
        decoder, skip = f"decoder_{i + 1}", skips[i].features
        x = upsample(x, skips[i], filters, f"{decoder}_up")
        if decoder_attention == "gate":
            skip = attention_gate(skip, x, stage, f"{decoder}_gate")
        x = layers.Concatenate(dtype=dtype, name=f"{decoder}_concat")([skip, x])
        if decoder_attention == "scse":
            x = squeeze_and_excitation(x, stage, f"{decoder}_scse_1")
        x = stage(x, filters, decoder)
        if decoder_attention == "scse":
            x = squeeze_and_excitation(x, stage, f"{decoder}_scse_2")
    logits = layers.Conv2D(
        1 if head == "sigmoid" else classes,
        1,
        data_format="channels_last",
        kernel_initializer=stage.initializer("logits"),
        dtype="float32",
        name="logits",
    )(x)
    if head == "sigmoid":
        logits = TwoClassLogits(dtype="float32", name="two_class_logits")(logits)
    return keras.Model(pixels, logits, name=name)


def from_config(config: Config, classes: int, fixed_size: bool = False) -> keras.Model:
    """Build the network that a configuration describes, for any image size or with its fixed one.

    Raises:
        InputError: Its head does not suit the number of classes.
    """
    model = config.model
    try:
        model.check_classes(classes)
    except Mistakes as mistake:  # where the configuration names no classes; else it has checked them
        raise InputError(f"model.{mistake}") from None
    return build_unet(
        classes,
        encoder=model.encoder,
        width=model.width,
        widths=model.widths,
        depth=model.depth,
        decoder_widths=model.decoder_widths,
        decoder_attention=model.decoder.attention,
        head=model.head,
        block=model.block,
        normalization=model.normalization,
        dropout=model.dropout,
        activation=model.activation,
        kernel_initializer=model.kernel_initializer,
        upsampler=model.upsampler.name,
        upsampler_options=model.upsampler.options,
        input_shape=(*(config.data.size if fixed_size else (None, None)), config.data.channels),
        moments=config.data.moments,
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
