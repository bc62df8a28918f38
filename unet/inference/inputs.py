"""The kinds of images that a predictor accepts, as arrays."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unet.data.images import RGB, PixelFormat, WrongPixels, to_rgb
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


def as_pixels(image: Any, pixels: PixelFormat = RGB) -> np.ndarray:
    """Convert an image to ``(H, W, channels)`` with the type of pixels that a network takes.

    Args:
        image: A path, a PIL image, or an array ``(H, W)`` or ``(H, W, C)``; uint8 colours may have a fourth channel for
            transparency.
        pixels: What the network takes.

    Raises:
        InputError: It is something else, or a file that cannot be read.
    """
    if isinstance(image, str | os.PathLike):
        try:
            return pixels.read(Path(image))
        except WrongPixels as error:
            raise InputError(f"{image}: {error}") from None
        except FileNotFoundError:
            raise InputError(f"{image}: there is no such file") from None
        except OSError as error:
            raise InputError(f"{image}: cannot be read as an image ({error.strerror or error})") from error
    if not pixels.is_rgb:
        return _converted(image, pixels)
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


def _converted(image: Any, pixels: PixelFormat) -> np.ndarray:
    """An array or PIL image for a network that does not take ordinary pictures."""
    if isinstance(image, Image.Image):
        image = np.asarray(image)
    if not hasattr(image, "__array__"):
        expected = f"expected a path or an array (H, W, {pixels.channels}) of {pixels.dtype}"
        raise InputError(f"{expected}, received {type(image).__name__}")
    try:
        return pixels.converted(np.asarray(image))
    except WrongPixels as error:
        raise InputError(f"the image {error}") from None
