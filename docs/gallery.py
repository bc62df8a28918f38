#!/usr/bin/env python
"""Draw the pictures of the upsampler gallery, ``docs/upsamplers/NAME.png``, from the layers themselves.

Each picture shows what an untrained layer does to one bright pixel and to a photograph. It shows the rule alone where
the rule can be applied alone; ``conv_transpose``, ``resize_conv``, ``pixel_shuffle`` and ``bilinear_additive`` have
random weights, and those of ``sapa`` are set by hand so that its kernels compare brightness.
"""

import sys
from pathlib import Path

import keras
import numpy as np
from keras import ops
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from skimage import data

from unet import upsamplers

FOLDER = Path(__file__).parent / "upsamplers"
LEARNED = ("conv_transpose", "resize_conv", "pixel_shuffle", "bilinear_additive")
PANEL, GAP, TOP, BOTTOM = 196, 26, 24, 24
"""Pixels of the picture: side of a panel, space between panels, room above and below them."""
SHARPNESS = 40
"""Factor on the similarities that ``sapa`` compares."""


def photograph() -> np.ndarray:
    """A cat, grey, ``(98, 98)``, 0 to 1."""
    grey = halved(data.chelsea()[20:216, 150:346].mean(-1))
    return (grey - grey.min()) / np.ptp(grey)


def halved(image: np.ndarray) -> np.ndarray:
    """Mean of every 2×2 block."""
    height, width = image.shape
    return image.reshape(height // 2, 2, width // 2, 2).mean((1, 3))


def enlarged(name: str, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The low-resolution map that the upsampler called ``name`` receives for ``image``, and its result.

    Args:
        name: A name in ``unet.upsamplers.UPSAMPLERS``.
        image: ``(H, W)`` with even sides; it is halved, and serves as the skip of guided upsamplers.
    """
    skip = image.astype("float32")[None, :, :, None]
    x = halved(image).astype("float32")[None, :, :, None]
    argmax = None
    options = {"groups": 1} if name == "dysample" else {}
    filters = 1 if name in LEARNED and name != "resize_conv" else None
    layer = upsamplers.build(
        name, filters, seed=0, kernel_initializer=keras.initializers.GlorotUniform(seed=3), **options
    )
    if layer.needs_argmax:
        x, argmax = upsamplers.MaxPoolWithArgmax()(skip)
    if name == "sapa":
        return number(x), sapa(x, skip)
    return number(x), number(layer(x, skip, argmax))


def sapa(x: np.ndarray, skip: np.ndarray) -> np.ndarray:
    """SAPA whose embeddings pass brightness on, so that pixels of similar brightness get weight."""

    def described(values):
        v = 2 * values - 1
        return np.concatenate([v, -v, np.ones_like(v), -np.ones_like(v)], axis=-1)

    layer = upsamplers.build("sapa", embedding=4)
    x, skip = described(x), described(skip)
    layer(x, skip)
    for part in (layer.query, layer.key):
        part.kernel.assign(np.sqrt(SHARPNESS) * np.eye(4, dtype="float32"))
    return (number(layer(x, skip)) + 1) / 2


def number(feature_map) -> np.ndarray:
    """The first channel of the first image."""
    return ops.convert_to_numpy(feature_map)[0, :, :, 0]


def draw(name: str) -> Image.Image:
    """The picture of the upsampler called ``name``."""
    bright = np.zeros((14, 14))
    bright[6:8, 6:8] = 1
    if name == "max_unpool":
        bright[6:8, 6:8] = [[0, 0], [1, 0]]  # a single maximum, away from the top left corner
    width = 4 * PANEL + 3 * GAP + 12
    height = PANEL + TOP + BOTTOM
    figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    panels = [*enlarged(name, bright), *enlarged(name, photograph())]
    for index, values in enumerate(panels):
        left = 6 + index * (PANEL + GAP)
        axes = figure.add_axes((left / width, BOTTOM / height, PANEL / width, PANEL / height))
        if index < 2:
            largest = float(np.abs(values).max())
            axes.imshow(values, "PuOr", vmin=-largest, vmax=largest, interpolation="nearest", aspect="auto")
        else:
            low, high = (values.min(), values.max()) if index == 3 and name in LEARNED else (0, 1)
            axes.imshow(values, "gray", vmin=low, vmax=high, interpolation="nearest", aspect="auto")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color("#B0B0B0")
        side = values.shape[0]
        what = ("one pixel", "its result", "photograph", "its result")[index]
        axes.set_title(f"{what}, {side}×{side}", fontsize=9, pad=4)
        axes.set_xlabel(f"{values.min():.2f} to {values.max():.2f}".replace("-", "−"), fontsize=8, labelpad=4)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    return picture.quantize(256, dither=Image.Dither.NONE)


def main() -> None:
    """Draw every upsampler, or those named on the command line."""
    FOLDER.mkdir(exist_ok=True)
    for name in sys.argv[1:] or upsamplers.UPSAMPLERS:
        draw(name).save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
