"""Random transformations of image and mask together, inside the compiled training step."""

import math
from typing import Any

import keras
from keras import ops

from unet.config import AugmentationConfig
from unet.resample import crop_positions, linear_weights, nearest_weights, resample


@keras.saving.register_keras_serializable("unet")
class Augmentation(keras.Layer):
    """Random resized crop, flips and quarter turns of image and mask, then colour jitter of the image.

    Crop and flips are one resampling with a matrix per image and axis; the mask is resampled in the same way with
    one-hot rows, so that no new class ids appear. The layer always computes in float32.

    Args:
        flip: Probability of a left-right flip.
        vertical_flip: Probability of an upside-down flip.
        rotate_90: Probability of a quarter turn, left or right; images must be square.
        scale: ``(low, high)`` range of the share of the image's area that a crop covers.
        ratio: ``(low, high)`` range of the change of width/height by the crop, drawn uniformly in its logarithm.
        brightness: The shift is drawn from ±brightness · 255.
        contrast: The factor around the mean is drawn from 1 ± contrast.
        saturation: The factor is drawn between 1 − saturation and 1 + saturation.
        hue: The hue is rotated by up to ±hue of the colour circle.
        seed: Seed of the random numbers.
        **kwargs: Arguments of ``keras.Layer``.

    Call arguments:
        image: ``(B, H, W, 3)``, 0..255.
        mask: ``(B, H, W)``, class ids 0..255.

    Returns:
        image float32 ``(B, H, W, 3)`` in 0..255, and mask int32 ``(B, H, W)``.
    """

    def __init__(
        self,
        flip: float = 0.5,
        vertical_flip: float = 0.0,
        rotate_90: float = 0.0,
        scale: tuple[float, float] = (0.5, 1.0),
        ratio: tuple[float, float] = (0.75, 1.3333),
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**{"name": "augmentation", "dtype": "float32"} | kwargs)
        self.settings: dict[str, Any] = {
            "flip": flip,
            "vertical_flip": vertical_flip,
            "rotate_90": rotate_90,
            "scale": tuple(scale),
            "ratio": tuple(ratio),
            "brightness": brightness,
            "contrast": contrast,
            "saturation": saturation,
            "hue": hue,
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

    @classmethod
    def from_settings(cls, config: AugmentationConfig, seed: int) -> "Augmentation":
        """Build the augmentation that a configuration describes."""
        return cls(**config.model_dump(), seed=seed)

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
        image = resample(image, linear_weights(y, height), linear_weights(x, width))
        mask = ops.cast(mask, "float32")[..., None]
        mask = resample(mask, nearest_weights(y, height), nearest_weights(x, width))[..., 0]

        image = self.colour(ops.clip(image / 255.0, 0.0, 1.0), training=True) * 255.0
        return image, ops.cast(ops.round(mask), "int32")

    def _windows(self, size, height, width):
        """Whether each image is transposed, and start and extent of its window along both axes.

        A negative extent flips. A transposed image that is flipped along one axis is turned by 90°. Nothing is drawn
        for what is switched off, so that seeds mean the same with and without it.
        """

        def uniform(low, high):
            return keras.random.uniform((size,), low, high, dtype="float32", seed=self.random)

        area = uniform(*self.settings["scale"])
        ratio = ops.exp(uniform(*(math.log(r) for r in self.settings["ratio"])))
        height, width = ops.cast(height, "float32"), ops.cast(width, "float32")
        rows = ops.minimum(ops.sqrt(area / ratio), 1.0) * height
        columns = ops.minimum(ops.sqrt(area * ratio), 1.0) * width
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
        return (
            turned,
            (ops.where(upside_down, top + rows, top), ops.where(upside_down, -rows, rows)),
            (ops.where(flip, left + columns, left), ops.where(flip, -columns, columns)),
        )

    def compute_output_spec(self, image, mask):
        return keras.KerasTensor(image.shape, "float32"), keras.KerasTensor(mask.shape, "int32")

    def get_config(self):
        return super().get_config() | self.settings | {"seed": self.seed}
