"""The kinds of images that a predictor accepts, as uint8 arrays."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unet.data.images import read_image, to_rgb
from unet.errors import InputError


def as_images(images: Any) -> tuple[Iterable, bool]:
    """Return the images as an iterable, and whether a single one was given."""
    if isinstance(images, str | os.PathLike | Image.Image):
        return [images], True
    if hasattr(images, "__array__"):
        array = np.asarray(images)
        return (array, False) if array.ndim == 4 else ([array], True)
    if isinstance(images, Iterable):
        return images, False
    return [images], True


def as_pixels(image: Any) -> np.ndarray:
    """Convert an image to uint8 ``(H, W, 3)``.

    Args:
        image: A path, a PIL image, or a uint8 array ``(H, W)``, ``(H, W, 3)`` or ``(H, W, 4)``.

    Raises:
        InputError: It is something else, or a file that cannot be read.
    """
    if isinstance(image, str | os.PathLike):
        try:
            return read_image(Path(image))
        except FileNotFoundError:
            raise InputError(f"{image}: there is no such file") from None
        except OSError as error:
            raise InputError(f"{image}: cannot be read as an image ({error.strerror or error})") from error
    if isinstance(image, Image.Image):
        try:
            return to_rgb(image)
        except OSError as error:
            raise InputError(f"the image cannot be used ({error.strerror or error})") from error
    expected = "expected a path, a PIL image or a uint8 array (H, W), (H, W, 3) or (H, W, 4)"
    if not hasattr(image, "__array__"):
        raise InputError(f"{expected}, received {type(image).__name__}")
    array = np.asarray(image)
    if array.dtype != np.uint8:
        hint = "; if the values are 0 to 1: np.uint8(np.round(image * 255))" if array.dtype.kind == "f" else ""
        raise InputError(f"{expected} of values 0 to 255, received {array.dtype}{hint}")
    if 0 in array.shape or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise InputError(f"{expected}, received shape {array.shape}")
    return array if array.ndim == 3 and array.shape[2] == 3 else to_rgb(Image.fromarray(array))
