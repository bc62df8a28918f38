"""Random transformations of image and mask together, inside the compiled training step."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from unet.config import Config
from unet.data.sources import IGNORE
from unet.encoders.base import GREY_DEVIATION
from unet.resample import (
    crop_positions,
    gaussian_weights,
    linear_weights,
    nearest_weights,
    resample,
    resize,
    sample,
)

OFF: dict[str, Any] = {
    "flip": 0.0,
    "vertical_flip": 0.0,
    "rotate_90": 0.0,
    "scale": (1.0, 1.0),
    "ratio": (1.0, 1.0),
    "translation": 0.0,
    "rotation": 0.0,
    "elastic": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "hue": 0.0,
    "gamma": 0.0,
    "grayscale": 0.0,
    "blur": 0.0,
    "noise": 0.0,
}
"""Settings that change nothing."""
COLOURS = ("saturation", "hue", "grayscale")
"""Settings that change nothing unless images have 3 channels of uint8."""
GRID = 4
"""Displacements per axis that an elastic deformation interpolates."""
LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the grey value (ITU-R BT.601)."""


@keras.saving.register_keras_serializable("unet")
class Augmentation(keras.Layer):
    """Random geometry of image and mask together, then random colours of the image.

    Crop, translation and flips are one resampling with a matrix per image and axis; with rotation or elastic
    deformation, every pixel is sampled at a position of its own. The mask takes the nearest pixel, so that no new class
    ids appear. What is beyond the border is black, and ignored in the mask. The layer always computes in float32.

    Args:
        flip: Probability of a left-right flip.
        vertical_flip: Probability of an upside-down flip.
        rotate_90: Probability of a quarter turn, left or right; images must be square.
        scale: ``(low, high)`` range of the area of a crop, as a share of the image's area; above 1 it is the whole
            image with a border.
        ratio: ``(low, high)`` range of the change of width/height by the crop, drawn uniformly in its logarithm.
        translation: The crop is moved by up to ±translation of the image's height and width.
        rotation: The angle is drawn from ±rotation degrees, around the centre of the crop.
        elastic: Smooth random displacement of up to ±elastic of the image's height and width.
        brightness: The shift is drawn from ±brightness · 255.
        contrast: The factor around the mean is drawn from 1 ± contrast.
        saturation: The factor is drawn between 1 − saturation and 1 + saturation.
        hue: The hue is rotated by up to ±hue of the colour circle.
        gamma: The exponent is drawn between 1/(1 + gamma) and 1 + gamma, uniformly in its logarithm.
        grayscale: Probability that the image loses its colours.
        blur: The standard deviation of a Gaussian blur is drawn from 0 to ``blur`` pixels.
        noise: The standard deviation of normally distributed noise is drawn from 0 to noise · 255.
        seed: Seed of the random numbers.
        moments: Mean and standard deviation of each channel, for images that are not 3 channels in 0..255. What is
            beyond the border is then the mean. The value range is that in which the mean standard deviation is the same
            share as of 255 in photographs, values beyond it are kept, a gamma correction is of the range of each image
            (as in nnU-Net, Isensee et al. 2021), and saturation, hue and grayscale have no effect.
        **kwargs: Arguments of ``keras.Layer``.

    Call arguments:
        image: ``(B, H, W, 3)``, 0..255, or ``(B, H, W, C)`` with ``moments``.
        mask: ``(B, H, W)``, class ids 0..255.

    Returns:
        image float32 ``(B, H, W, C)``, for 3 channels in 0..255 within this range, and mask int32 ``(B, H, W)``.
    """

    def __init__(
        self,
        flip: float = 0.5,
        vertical_flip: float = 0.0,
        rotate_90: float = 0.0,
        scale: tuple[float, float] = (0.5, 1.0),
        ratio: tuple[float, float] = (0.75, 1.3333),
        translation: float = 0.0,
        rotation: float = 0.0,
        elastic: float = 0.0,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        gamma: float = 0.0,
        grayscale: float = 0.0,
        blur: float = 0.0,
        noise: float = 0.0,
        seed: int = 0,
        moments: tuple[Sequence[float], Sequence[float]] | None = None,
        **kwargs,
    ):
        super().__init__(**{"name": "augmentation", "dtype": "float32"} | kwargs)
        self.moments = moments and tuple(map(tuple, moments))
        self.settings: dict[str, Any] = {
            "flip": flip,
            "vertical_flip": vertical_flip,
            "rotate_90": rotate_90,
            "scale": tuple(scale),
            "ratio": tuple(ratio),
            "translation": translation,
            "rotation": rotation,
            "elastic": elastic,
            "brightness": brightness,
            "contrast": contrast,
            "saturation": saturation,
            "hue": hue,
            "gamma": gamma,
            "grayscale": grayscale,
            "blur": blur,
            "noise": noise,
        }
        self.seed = seed
        self.random = keras.random.SeedGenerator(seed)
        self.colour = keras.layers.RandomColorJitter(
            value_range=(0, 1),
            brightness_factor=brightness or None,
            contrast_factor=(contrast, contrast) if contrast else None,
            # Keras maps f to the factor f / (1 - f).
            saturation_factor=((1 - saturation) / (2 - saturation), (1 + saturation) / (2 + saturation))
            if saturation
            else None,
            hue_factor=2 * hue or None,
            seed=seed,
            dtype="float32",
        )
        if saturation:
            self.colour.random_saturation.transform_images = _saturated
        self.built = True  # every part is; of one that is not called, Keras would warn

    @classmethod
    def from_settings(cls, config: Config) -> "Augmentation":
        """Build the augmentation that a configuration describes."""
        moments = None if config.data.is_rgb else config.data.moments
        return cls(**config.augmentation.model_dump(), seed=config.seed, moments=moments)

    def call(self, image, mask):
        size, height, width = ops.shape(image)[:3]
        turned, (top, rows), (left, columns) = self._windows(size, height, width)
        if turned is not None:
            if image.shape[1] != image.shape[2]:
                raise ValueError(f"rotate_90: images must be square, received {image.shape[1]}×{image.shape[2]}")
            image = ops.where(turned[:, None, None, None], ops.swapaxes(image, 1, 2), image)
            mask = ops.where(turned[:, None, None], ops.swapaxes(mask, 1, 2), mask)
        y, x = crop_positions(top, rows, height), crop_positions(left, columns, width)

        image = ops.cast(image, "float32")
        mask = ops.cast(mask, "float32")[..., None]
        if self.settings["rotation"] or self.settings["elastic"]:
            y, x = self._warped(y, x, size, height, width)
            image, mask = sample(image, y, x), sample(mask, y, x, "nearest")
        else:
            image = resample(image, linear_weights(y, height), linear_weights(x, width))
            mask = resample(mask, nearest_weights(y, height), nearest_weights(x, width))
            y, x = y[:, :, None], x[:, None, :]
        if any(self.settings[name] for name in ("translation", "rotation", "elastic")) or self.settings["scale"][1] > 1:
            inside = ops.logical_and(_within(y, height), _within(x, width))[..., None]
            beyond = 0.0 if self.moments is None else ops.convert_to_tensor(self.moments[0], "float32")
            image, mask = ops.where(inside, image, beyond), ops.where(inside, mask, float(IGNORE))
        if self.settings["blur"]:
            deviation = self._uniform(size, 0.0, self.settings["blur"])
            image = resample(image, gaussian_weights(deviation, height), gaussian_weights(deviation, width))
        image = self._coloured(image, size) if self.moments is None else self._shaded(image, size, *self.moments)
        return image, ops.cast(ops.round(mask[..., 0]), "int32")

    def _uniform(self, size, low, high):
        return keras.random.uniform((size,), low, high, dtype="float32", seed=self.random)

    def _windows(self, size, height, width):
        """Whether each image is transposed, and start and extent of its window along both axes.

        A negative extent flips. A transposed image that is flipped along one axis is turned by 90°. Nothing is drawn
        for what is switched off, so that seeds mean the same with and without it.
        """

        def uniform(low, high):
            return self._uniform(size, low, high)

        area = uniform(*self.settings["scale"])
        ratio = ops.exp(uniform(*(math.log(r) for r in self.settings["ratio"])))
        height, width = ops.cast(height, "float32"), ops.cast(width, "float32")
        # A crop ends at the border, but the whole image has room around it.
        longest = 1.0 if self.settings["scale"][1] <= 1 else ops.where(area > 1.0, float("inf"), 1.0)
        rows = ops.minimum(ops.sqrt(area / ratio), longest) * height
        columns = ops.minimum(ops.sqrt(area * ratio), longest) * width
        top = uniform(0.0, 1.0) * (height - rows)
        left = uniform(0.0, 1.0) * (width - columns)
        flip = uniform(0.0, 1.0) < self.settings["flip"]
        upside_down, turned = ops.zeros_like(flip), None
        if self.settings["vertical_flip"]:
            upside_down = uniform(0.0, 1.0) < self.settings["vertical_flip"]
        if self.settings["rotate_90"]:
            turned = uniform(0.0, 1.0) < self.settings["rotate_90"]
            right = uniform(0.0, 1.0) < 0.5
            flip = ops.logical_xor(flip, ops.logical_and(turned, right))
            upside_down = ops.logical_xor(upside_down, ops.logical_and(turned, ops.logical_not(right)))
        if self.settings["translation"]:
            largest = self.settings["translation"]
            top = top + uniform(-largest, largest) * height
            left = left + uniform(-largest, largest) * width
        return (
            turned,
            (ops.where(upside_down, top + rows, top), ops.where(upside_down, -rows, rows)),
            (ops.where(flip, left + columns, left), ops.where(flip, -columns, columns)),
        )

    def _warped(self, y, x, size, height, width):
        """Rotate and deform the positions ``(B, H)`` and ``(B, W)`` of a crop; returns ``(B, H, W)`` for each axis."""
        angle = ops.zeros((size, 1, 1))
        if self.settings["rotation"]:
            largest = math.radians(self.settings["rotation"])
            angle = self._uniform(size, -largest, largest)[:, None, None]
        down, right = (ops.arange(n, dtype="float32") - (ops.cast(n, "float32") - 1.0) / 2.0 for n in (height, width))
        down, right = down[:, None], right[None, :]
        turned = ops.cos(angle) * down - ops.sin(angle) * right, ops.sin(angle) * down + ops.cos(angle) * right
        field = ops.zeros((size, 1, 1, 2))
        if self.settings["elastic"]:
            shape = (size, GRID, GRID, 2)
            field = keras.random.uniform(shape, -1.0, 1.0, dtype="float32", seed=self.random)
            field = ops.clip(resize(field, height, width, "cubic"), -1.0, 1.0) * self.settings["elastic"]
        warped = []
        for axis, (positions, offset, n) in enumerate(((y, turned[0], height), (x, turned[1], width))):
            first, last = positions[:, :1, None], positions[:, -1:, None]
            step = (last - first) / max(n - 1, 1) if isinstance(n, int) else (last - first) / ops.maximum(n - 1, 1)
            warped.append((first + last) / 2.0 + step * offset + field[..., axis] * ops.cast(n, "float32"))
        return warped

    def _coloured(self, image, size):
        """Colours and noise of an image in 0..255."""
        settings = self.settings
        image = self.colour(ops.clip(image / 255.0, 0.0, 1.0), training=True)
        if settings["gamma"]:
            largest = math.log1p(settings["gamma"])
            exponent = ops.exp(self._uniform(size, -largest, largest))[:, None, None, None]
            image = ops.power(ops.maximum(image, 1e-6), exponent)
        if settings["grayscale"]:
            grey = ops.sum(image * ops.convert_to_tensor(LUMINANCE, "float32"), axis=-1, keepdims=True)
            chosen = self._uniform(size, 0.0, 1.0) < settings["grayscale"]
            image = ops.where(chosen[:, None, None, None], grey, image)
        if settings["noise"]:
            deviation = self._uniform(size, 0.0, settings["noise"])[:, None, None, None]
            image = image + deviation * keras.random.normal(ops.shape(image), dtype="float32", seed=self.random)
            image = ops.clip(image, 0.0, 1.0)
        return image * 255.0

    def _shaded(self, image, size, mean, deviation):
        """Contrast, brightness, gamma and noise of an image with any channels and range."""
        settings = self.settings

        def drawn(low, high):
            return self._uniform(size, low, high)[:, None, None, None]

        unit = ops.convert_to_tensor([one * 255 / GREY_DEVIATION for one in deviation], "float32")
        mean = ops.convert_to_tensor(mean, "float32")
        image = (image - mean) / unit
        if settings["contrast"]:
            middle = ops.mean(image, axis=(1, 2), keepdims=True)
            image = middle + (image - middle) * drawn(1.0 - settings["contrast"], 1.0 + settings["contrast"])
        if settings["brightness"]:
            image = image + drawn(-settings["brightness"], settings["brightness"])
        if settings["gamma"]:
            largest = math.log1p(settings["gamma"])
            low, high = (reduce(image, axis=(1, 2), keepdims=True) for reduce in (ops.min, ops.max))
            extent = ops.maximum(high - low, 1e-6)
            share = ops.clip((image - low) / extent, 0.0, 1.0)
            image = low + extent * ops.power(share, ops.exp(drawn(-largest, largest)))
        if settings["noise"]:
            normal = keras.random.normal(ops.shape(image), dtype="float32", seed=self.random)
            image = image + drawn(0.0, settings["noise"]) * normal
        return image * unit + mean

    def compute_output_spec(self, image, mask):
        return keras.KerasTensor(image.shape, "float32"), keras.KerasTensor(mask.shape, "int32")

    def get_config(self):
        return super().get_config() | self.settings | {"seed": self.seed, "moments": self.moments}


def _saturated(images, transformation):
    """``RandomSaturation.transform_images`` in RGB: several times faster than by HSV and back, as Keras does.

    Args:
        images: ``(B, H, W, 3)`` in 0..1.
        transformation: The factors ``(B,)``, which a colour's largest saturation, 1 in HSV, limits.
    """
    factor = transformation["factor"][:, None, None, None]
    red, green, blue = (images[..., channel : channel + 1] for channel in range(3))
    value = ops.maximum(ops.maximum(red, green), blue)
    extent = value - ops.minimum(ops.minimum(red, green), blue)
    return value - (value - images) * ops.minimum(factor, value / ops.maximum(extent, 1e-9))


def _within(positions, n):
    """Whether positions are on one of ``n`` pixels."""
    return ops.logical_and(positions >= -0.5, positions <= ops.cast(n, "float32") - 0.5)
