"""Reading image files as RGB arrays, and resizing images, masks and logits."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from unet.files import open_file

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
POSTSCRIPT = (b"%!PS", b"\xc5\xd0\xd3\xc6")
"""First bytes of an EPS file, which Pillow would let Ghostscript execute."""


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file as uint8 ``(H, W, 3)``, converted by :func:`to_rgb`; for an animation, its first frame.

    Raises:
        OSError: The file cannot be opened, is not an image, is truncated, or has more than 179 million pixels.
    """
    return to_rgb(load_image(path))


def load_image(path: str | Path) -> Image.Image:
    """Read an image file with its pixels as they are stored.

    Raises:
        OSError: As in :func:`read_image`.
    """
    with open_file(path) as file, _broken_image_as_os_error():
        if file.read(4) in POSTSCRIPT:
            raise OSError("PostScript is not read")
        file.seek(0)
        image = Image.open(file)  # given a path, Pillow 12.3 scrambles TIFFs that are turned by 90°
        image.load()
    return image


@contextlib.contextmanager
def _broken_image_as_os_error() -> Iterator[None]:
    try:
        yield
    except UnidentifiedImageError:
        raise OSError("cannot identify the format of an image") from None
    except OSError:
        raise
    except Exception as error:  # Pillow's decoders raise errors of any type for content that they do not expect
        raise OSError(str(error) or type(error).__name__) from error


@_broken_image_as_os_error()
def to_rgb(image: Image.Image) -> np.ndarray:
    """Convert an image to uint8 ``(H, W, 3)``, upright.

    EXIF orientation is applied; grey, palette and 16-bit images are converted; transparency is composited over black.

    Raises:
        OSError: The image is broken, or its pixels have no defined range (32-bit integers, floats).
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


def scaled(size: tuple[int, ...], scale: float) -> tuple[int, int]:
    """Height and width, the first two numbers of ``size``, times ``scale``: rounded, at least one pixel."""
    height, width = (max(1, round(side * scale)) for side in size[:2])
    return height, width


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
        resized[..., index] = np.asarray(_resized_channel(logits, index, size))
    return resized


def resized_argmax(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Compute ``resize_logits(logits, size).argmax(-1)`` as uint8, one channel at a time to save memory."""
    if logits.shape[:2] == tuple(size):
        return logits.argmax(-1).astype(np.uint8)
    best = np.full(size, -np.inf, np.float32)
    mask = np.zeros(size, np.uint8)
    for index in range(logits.shape[-1]):
        channel = _resized_channel(logits, index, size)
        for top in range(0, size[0], 256):  # converting an image to an array takes several times its memory
            rows = slice(top, min(top + 256, size[0]))
            values = np.asarray(channel.crop((0, rows.start, size[1], rows.stop)))
            np.copyto(mask[rows], index, where=values > best[rows])
            np.maximum(best[rows], values, out=best[rows])
        del channel  # before the next one is enlarged
    return mask


def _resized_channel(logits: np.ndarray, index: int, size: tuple[int, int]) -> Image.Image:
    channel = Image.fromarray(np.ascontiguousarray(logits[..., index]))
    return channel.resize(size[::-1], Image.Resampling.BILINEAR)
