"""Reading image files as RGB arrays, and resizing images, masks and logits."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def read_image(path: Path) -> np.ndarray:
    """Read any image file as uint8 ``(H, W, 3)``, converted by :func:`to_rgb`.

    Raises:
        OSError: The file is not an image, or is truncated.
    """
    try:
        with Image.open(path) as file:
            file.filename = ""  # or Pillow maps the file into memory, which scrambles TIFFs turned by 90° (as of 12.3)
            return to_rgb(file)
    except (ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise OSError(str(error)) from error


def to_rgb(image: Image.Image) -> np.ndarray:
    """Convert an image to uint8 ``(H, W, 3)``, upright.

    EXIF orientation is applied; grey, palette and 16-bit images are converted; transparency is composited over black.

    Raises:
        OSError: The image is truncated, or its pixels have no defined range (32-bit integers, floats).
    """
    white_is_zero = getattr(image, "tag_v2", {}).get(262) == 0
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        grey = np.asarray(image, dtype=np.uint32)
        grey = 65535 - grey if white_is_zero else grey  # Pillow inverts 8-bit images only
        return np.repeat((grey // 257).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise OSError(f"{image.mode}-mode pixels have no defined range; save as 8 or 16 bits")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return np.asarray(image.convert("RGB"))


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize uint8 ``(H, W, 3)`` to ``size`` (height, width), bilinearly, with antialiasing when shrinking."""
    if image.shape[:2] == tuple(size):
        return image
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize uint8 ``(H, W)`` to ``size`` (height, width), to the nearest pixel, so that no new class ids appear."""
    if mask.shape == tuple(size):
        return mask
    return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))


def resize_logits(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize logits ``(h, w, C)`` bilinearly to ``size`` (height, width)."""
    if logits.shape[:2] == tuple(size):
        return logits
    resized = np.empty((*size, logits.shape[-1]), np.float32)
    for index in range(logits.shape[-1]):
        resized[..., index] = _resized_channel(logits, index, size)
    return resized


def resized_argmax(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Compute ``resize_logits(logits, size).argmax(-1)`` as uint8, one channel at a time to save memory."""
    best = _resized_channel(logits, 0, size)
    mask = np.zeros(size, np.uint8)
    for index in range(1, logits.shape[-1]):
        channel = _resized_channel(logits, index, size)
        mask[channel > best] = index
        best = np.maximum(best, channel)
    return mask


def _resized_channel(logits: np.ndarray, index: int, size: tuple[int, int]) -> np.ndarray:
    channel = Image.fromarray(np.ascontiguousarray(logits[..., index]))
    return np.asarray(channel.resize(size[::-1], Image.Resampling.BILINEAR))
