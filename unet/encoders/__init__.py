"""The encoders and the registry that YAML names them by.

Adding one takes a class (:class:`~unet.encoders.base.Encoder`) and a line in ``ENCODERS``. Importing this package does
not import Keras; an encoder is imported when it is first used.
"""

import importlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unet.encoders.base import Encoder


@dataclass(frozen=True)
class Entry:
    """What the registry knows about an encoder without importing Keras."""

    encoder: str
    """Module in this package and class, as ``"vgg:VGG16"``."""
    description: str
    """What it is, in one sentence."""
    channels: tuple[int, ...] = ()
    """Channels of the feature map at each stride that it halves to; empty if the configuration decides them."""
    pools: bool = False
    """Whether it halves by max-pooling, whose positions ``max_unpool`` needs; others use strided convolutions."""
    licence: str = "see keras.applications"
    """Licence of its ImageNet weights, as far as it is known."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments of the class."""

    @property
    def pretrained(self) -> bool:
        """Whether there are ImageNet weights for it."""
        return bool(self.channels)

    def levels(self, depth: int, stem: int) -> tuple[int, ...]:
        """Channels of the feature maps at strides 1, 2, 4, … 2^depth; ``stem`` is the width of a stem of our own."""
        own = self.channels if self.pools else (stem, *self.channels)
        return own[: depth + 1]

    @property
    def depth(self) -> int:
        """Number of times a pretrained encoder halves the resolution."""
        return len(self.channels) - self.pools


ENCODERS: dict[str, Entry] = {
    "plain": Entry("plain:Plain", "Convolutions and max-pooling, trained from scratch (U-Net).", pools=True),
    "efficientnet_lite0": Entry(
        "efficientnet_lite:EfficientNetLite",
        "EfficientNet-B0 without squeeze-and-excitation and with ReLU6, made for int8.",
        (16, 24, 40, 112, 320),
        licence="Apache-2.0",
        arguments={"variant": 0},
    ),
    "efficientnet_lite1": Entry(
        "efficientnet_lite:EfficientNetLite",
        "The same, deeper.",
        (16, 24, 40, 112, 320),
        licence="Apache-2.0",
        arguments={"variant": 1},
    ),
    "efficientnet_lite2": Entry(
        "efficientnet_lite:EfficientNetLite",
        "The same, deeper and wider.",
        (16, 24, 48, 120, 352),
        licence="Apache-2.0",
        arguments={"variant": 2},
    ),
    "mobilenet_v2": Entry(
        "applications:MobileNetV2", "Inverted residuals with linear bottlenecks.", (16, 24, 32, 96, 320)
    ),
    "efficientnet_v2_b0": Entry(
        "applications:EfficientNetV2B0",
        "Fused inverted residuals and squeeze-and-excitation.",
        (16, 32, 48, 112, 192),
    ),
    "resnet50": Entry("applications:ResNet50", "Residual bottlenecks; the usual baseline.", (64, 256, 512, 1024, 2048)),
    "vgg16": Entry(
        "vgg:VGG16",
        "The encoder of SegNet, with max-pooling, which max_unpool needs.",
        (64, 128, 256, 512, 512, 512),
        pools=True,
    ),
}


def create(name: str) -> "Encoder":
    """Create the encoder called ``name``.

    Raises:
        ValueError: The name is not registered; the message lists the names that are.
    """
    if name not in ENCODERS:
        raise ValueError(f"unknown encoder {name!r}; choose from {', '.join(ENCODERS)}")
    entry = ENCODERS[name]
    module, encoder = entry.encoder.split(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), encoder)(**entry.arguments)


__all__ = ["ENCODERS", "Entry", "create"]
