"""Base class of the encoders: feature maps at strides 1, 2, 4, …, and pretrained weights by layer name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from unet.blocks import MOMENTUM, StageBlock, seed_of, seeded

GREY_MEAN, GREY_DEVIATION = 114.5, 57.6
"""Mean and standard deviation of pixels 0..255 in ImageNet, averaged over red, green and blue."""
IMAGENET = "imagenet"
"""Value of ``weights`` for the weights that an encoder's authors published."""
Pool = Callable[[Any, str], tuple[Any, Any]]
"""Halves a feature map by 2×2 max-pooling: ``(x, layer name)`` to the pooled map and the argmax, or ``None``."""


@dataclass(frozen=True)
class Level:
    """Feature map of one stage."""

    features: Any
    """Symbolic tensor ``(B, ceil(H/s), ceil(W/s), C)`` at stride s."""
    argmax: Any = None
    """Positions of the maxima of its pooling, where it is pooled by ``MaxPoolWithArgmax``."""


class Encoder:
    """Feature maps of an image at strides 1, 2, 4, … of sizes ``ceil(H/s)``, so that any image size works.

    Layers are called ``encoder_1_…``, ``encoder_2_…`` by stage. If the source network begins at stride 2, the first
    stage is a stem of our own, a 3×3 convolution called ``stem``, which has no pretrained weights.
    """

    scale: float | tuple[float, ...] = 1 / 127.5
    """Pixels 0..255 are normalized to scale · pixel + offset; one number, or three for red, green and blue."""
    offset: float | tuple[float, ...] = -1.0
    """See ``scale``."""
    accurate: bool = False
    """Whether pixels are normalized in float32 whatever the dtype policy."""

    def standardize(self, mean: Sequence[float], deviation: Sequence[float]) -> None:
        """Normalize images that are not 3 channels of 8 bits, or not like those that the encoder was trained on.

        Each channel is brought to the mean and standard deviation of grey values in ImageNet, and then normalized like
        the channels red, green, blue, red, …, a single channel by the mean of the three.

        Args:
            mean: Mean of the pixels of each channel.
            deviation: Their standard deviation.
        """
        scale, offset = (_of_channels(values, len(mean)) for values in (self.scale, self.offset))
        factor = GREY_DEVIATION / np.asarray(deviation, float)
        self.offset = tuple((scale * (GREY_MEAN - factor * np.asarray(mean, float)) + offset).tolist())
        self.scale = tuple((scale * factor).tolist())
        self.accurate = True  # bfloat16 would reduce pixels to 8 bits

    def levels(self, pixels, depth: int, widths: tuple[int, ...], stage: StageBlock, pool: Pool) -> list[Level]:
        """Add the encoder's layers to a functional model.

        Args:
            pixels: Symbolic tensor ``(B, H, W, C)``; 3 channels in 0..255 unless :meth:`standardize` was called.
            depth: Number of times the resolution is halved.
            widths: Channels of every stage, as far as the configuration decides them; a pretrained encoder uses the
                first for its stem.
            stage: Block whose dtype and seeds the layers have, and which the stem is made of.
            pool: Pooling of encoders that pool.

        Returns:
            ``depth + 1`` levels, beginning at stride 1.
        """
        raise NotImplementedError

    def weights(self, source: str | Path) -> dict[str, list[np.ndarray]]:
        """Pretrained weights of every layer by its name, read from ``"imagenet"`` or a file.

        Raises:
            InputError: They cannot be had; the message says what to do.
        """
        raise NotImplementedError

    def normalized(self, pixels, stage: StageBlock):
        """Apply the source network's normalization."""
        dtype = "float32" if self.accurate else stage.dtype
        return layers.Rescaling(self.scale, offset=self.offset, dtype=dtype, name="normalize")(pixels)


def _of_channels(values: float | tuple[float, ...], channels: int) -> np.ndarray:
    """Values for red, green and blue as values for any number of channels."""
    rgb = np.broadcast_to(np.asarray(values, float), 3)
    return rgb.mean(keepdims=True) if channels == 1 else np.resize(rgb, channels)


def stem(x, stage: StageBlock, filters: int):
    """First stage of an encoder that begins at stride 2."""
    return stage.activate(stage.convolution(x, filters, 3, "stem_conv"), "stem_act")


def adapted(layer: keras.Layer, name: str, stage: StageBlock, **changes) -> keras.Layer:
    """Copy a layer of a source network under another name, with the dtype, seed and momentum of this network."""
    config = layer.get_config() | {"name": name, "dtype": stage.dtype} | changes
    for key in ("kernel_initializer", "depthwise_initializer"):
        if key in config:
            config[key] = seeded(getattr(layer, key), seed_of(stage.seed, name))
    if "seed" in config:
        config["seed"] = seed_of(stage.seed, name)
    if "momentum" in config:
        config["momentum"] = MOMENTUM
    return type(layer).from_config(config)
