"""A network of this package as a plain PyTorch program: the yardstick of ``unet benchmark train --against torch``.

The program has the same layers, weights, loss and optimizer, written as PyTorch's documentation recommends: channels
last, automatic mixed precision, a fused or batched optimizer. It does not augment and counts no metrics.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from unet.blocks import TwoClassLogits
from unet.config import Config
from unet.data.sources import IGNORE
from unet.errors import InputError, nearest
from unet.upsamplers import Bilinear, ConvTranspose, Nearest, Upsampler

ACTIVATIONS = {
    "relu": F.relu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "elu": F.elu,
    "selu": F.selu,
    "gelu": F.gelu,
    "silu": F.silu,
    "mish": F.mish,
    "tanh": torch.tanh,
}
UPSAMPLERS = ("nearest", "bilinear", "conv_transpose")
"""Upsamplers for which there is a program; PyTorch has a layer or function for each."""


class Program(nn.Module):
    """A functional Keras model as a PyTorch module with copies of its weights, channels first.

    Args:
        network: A model from :func:`unet.model.build_unet`, built.

    Call arguments:
        pixels: ``(B, 3, H, W)`` in 0..255.

    Returns:
        Logits ``(B, C, H, W)``.

    Raises:
        InputError: The network has a layer that is not translated.
    """

    def __init__(self, network: keras.Model):
        super().__init__()
        self.parts = nn.ModuleDict()
        self.calls: list[tuple[str, list[str]]] = []
        for layer in network.layers:
            if isinstance(layer, keras.layers.InputLayer):
                self.first = layer.name
                continue
            self.parts[layer.name] = _translated(layer)
            inputs = layer.input if isinstance(layer.input, list | tuple) else [layer.input]
            sources = [tensor._keras_history.operation.name for tensor in inputs if tensor is not None]
            self.calls.append((layer.name, sources))

    def forward(self, pixels):
        values = {self.first: pixels}
        for name, sources in self.calls:
            values[name] = self.parts[name](*(values[source] for source in sources))
        return values[self.calls[-1][0]]


class _Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


class _Rescaling(nn.Module):
    """Scale and offset of all channels, or of each."""

    def __init__(self, scale, offset):
        super().__init__()
        for name, value in (("scale", scale), ("offset", offset)):
            self.register_buffer(name, torch.tensor(np.reshape(value, (-1, 1, 1)), dtype=torch.float32))

    def forward(self, x):
        return x * self.scale + self.offset


class _Upsampling(nn.Module):
    """Projection, rule, and crop to the size of the skip connection."""

    def __init__(self, projection: nn.Module, rule: Callable):
        super().__init__()
        self.projection, self.rule = projection, rule

    def forward(self, x, skip):
        height, width = skip.shape[2:]
        return self.rule(self.projection(x))[:, :, :height, :width]


def _translated(layer: keras.Layer) -> nn.Module:
    """The counterpart of a Keras layer."""
    if isinstance(layer, keras.layers.Rescaling):
        return _Rescaling(layer.scale, layer.offset)
    if isinstance(layer, keras.layers.Conv2D) and layer.strides == (1, 1) and layer.dilation_rate == (1, 1):
        return _convolution(layer)
    if isinstance(layer, keras.layers.BatchNormalization):
        norm = nn.BatchNorm2d(layer.gamma.shape[0], layer.epsilon, 1 - layer.momentum)
        statistics = {"running_mean": layer.moving_mean, "running_var": layer.moving_variance}
        return _with(norm, weight=layer.gamma, bias=layer.beta, **statistics)
    if isinstance(layer, keras.layers.GroupNormalization):
        groups = nn.GroupNorm(layer.groups, layer.gamma.shape[0], layer.epsilon)
        return _with(groups, weight=layer.gamma, bias=layer.beta)
    if isinstance(layer, keras.layers.Activation) and layer.activation.__name__ in ACTIVATIONS:
        return _Apply(ACTIVATIONS[layer.activation.__name__])
    if isinstance(layer, keras.layers.MaxPooling2D) and layer.pool_size == (2, 2):
        return nn.MaxPool2d(2, ceil_mode=True)
    if isinstance(layer, keras.layers.Concatenate):
        return _Apply(lambda *maps: torch.cat(maps, dim=1))
    if isinstance(layer, keras.layers.Add):
        return _Apply(lambda a, b: a + b)
    if isinstance(layer, TwoClassLogits):
        return _Apply(lambda z: F.pad(z, (0, 0, 0, 0, 1, 0)))
    if isinstance(layer, keras.layers.Dropout):
        return nn.Dropout(layer.rate)
    if isinstance(layer, Nearest):
        return _Upsampling(_convolution(layer.projection), lambda x: F.interpolate(x, scale_factor=2))
    if isinstance(layer, Bilinear):
        corners = layer.align_corners
        rule = lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=corners)  # noqa: E731
        return _Upsampling(_convolution(layer.projection), rule)
    if isinstance(layer, ConvTranspose) and layer.padding is None and layer.kernel_size >= 2:
        size = layer.kernel_size
        filters = nn.ConvTranspose2d(layer.kernel.shape[3], layer.filters, size, stride=2, padding=(size - 2) // 2)
        return _Upsampling(_with(filters, weight=_channels_first(layer.kernel), bias=layer.bias), lambda x: x)
    if isinstance(layer, Upsampler):
        raise InputError(
            f"--against: there is no PyTorch program for the upsampler of {layer.name}, a {type(layer).__name__} with "
            f"these options; there is one for {', '.join(UPSAMPLERS)}"
        )
    raise InputError(
        f"--against: there is no PyTorch program for the layer {layer.name}, a {type(layer).__name__}; choose "
        "model.encoder=plain and model.decoder.attention=none"
    )


def _convolution(layer: keras.layers.Conv2D) -> nn.Module:
    """A convolution with stride 1; Keras pads one pixel less at the top and left where the kernel is even."""
    height, width, channels, filters = layer.kernel.shape
    part = nn.Conv2d(channels, filters, (height, width), bias=layer.use_bias, padding=(height - 1) // 2)
    _with(part, weight=_channels_first(layer.kernel), **({"bias": layer.bias} if layer.use_bias else {}))
    if layer.padding == "same" and height % 2 == 0:
        return nn.Sequential(_Apply(lambda x: F.pad(x, (0, 1, 0, 1))), part)
    return part


def _channels_first(kernel) -> np.ndarray:
    return np.transpose(keras.ops.convert_to_numpy(kernel), (3, 2, 0, 1))


def _with(part: nn.Module, **values) -> nn.Module:
    """The module with copies of these values in its parameters and buffers."""
    with torch.no_grad():
        for name, value in values.items():
            getattr(part, name).copy_(torch.tensor(np.array(keras.ops.convert_to_numpy(value))))
    return part


def loss(mask, logits, cross_entropy: float, dice: float):
    """Cross-entropy and soft Dice as in :mod:`unet.losses`, of logits ``(B, C, H, W)`` and ids ``(B, H, W)``."""
    logits = logits.float()
    total = cross_entropy * F.cross_entropy(logits, mask, ignore_index=IGNORE)
    if dice:
        valid = (mask != IGNORE)[:, None]
        target = F.one_hot(torch.where(mask == IGNORE, 0, mask), logits.shape[1]).permute(0, 3, 1, 2) * valid
        p = torch.softmax(logits, dim=1) * valid
        hits, sums = (p * target).sum((0, 2, 3)), p.sum((0, 2, 3)) + target.sum((0, 2, 3))
        present = target.sum((0, 2, 3)) > 0
        total = total + dice * ((1 - 2 * hits / sums.clamp(min=1e-7)) * present).sum() / present.sum().clamp(min=1)
    return total


def training_step(network: keras.Model, config: Config, compiled: bool) -> Callable:
    """Training step of the program: takes uint8 images ``(B, H, W, 3)`` and masks ``(B, H, W)``, returns the loss.

    Args:
        network: The network to translate.
        config: Loss, optimizer and precision.
        compiled: Whether to compile network and loss by ``torch.compile``.

    Raises:
        InputError: The configuration has settings that the program does not follow.
    """
    if config.model.upsampler.name not in UPSAMPLERS:
        name = config.model.upsampler.name
        raise InputError(
            f"--against: there is no PyTorch program for {name}{nearest(name, UPSAMPLERS)}; there is one for "
            f"{', '.join(UPSAMPLERS)}"
        )
    if config.model.head == "labels":
        raise InputError("--against: there is no PyTorch program for several labels per pixel")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    program = Program(network).train()
    program.to(device)
    program.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in the stubs
    training = config.training
    groups: list[dict[str, Any]] = [
        {"params": [weight for weight in program.parameters() if weight.ndim > 1]},
        {"params": [weight for weight in program.parameters() if weight.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups,
        lr=training.learning_rate,
        weight_decay=training.weight_decay,
        fused=device == "cuda",
    )
    scaler = torch.amp.GradScaler(device, enabled=training.precision == "mixed_float16")
    dtype = {"mixed_bfloat16": torch.bfloat16, "mixed_float16": torch.float16}.get(training.precision)

    def compute(images, mask):
        with torch.autocast(device, dtype or torch.bfloat16, enabled=dtype is not None):
            logits = program(images)
        return loss(mask, logits, config.loss.cross_entropy, config.loss.dice)

    computed = torch.compile(compute) if compiled else compute

    def step(images: np.ndarray, masks: np.ndarray):
        pixels = torch.from_numpy(images).to(device, non_blocking=True).permute(0, 3, 1, 2).float()
        found = computed(pixels, torch.from_numpy(masks).to(device, non_blocking=True).long())
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(found).backward()
        if training.clip_norm:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(program.parameters(), training.clip_norm)
        scaler.step(optimizer)
        scaler.update()
        return found.detach()

    return step
