"""Reading image files as arrays, and resizing images, masks and logits."""

import contextlib
import math
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from unet.files import open_file

ARRAY_ENDING = ".npy"
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ARRAY_ENDING)
TIFF_ENDINGS = (".tif", ".tiff")
POSTSCRIPT = (b"%!PS", b"\xc5\xd0\xd3\xc6")
"""First bytes of an EPS file, which Pillow would let Ghostscript execute."""
ROWS = 256
"""Rows of a large image that are converted at a time. At once it would take several times the image's memory."""
VALUES = 2**20
"""Logits that are enlarged at a time, 4 MB."""
DARKEST, BRIGHTEST = 2, 98
"""Percentiles of an image's values that a picture of it shows as black and white."""


class WrongPixels(OSError):
    """An image has other channels, or pixels of another type, than expected."""


@dataclass(frozen=True)
class PixelFormat:
    """Channels and type of the pixels of all images of a data set."""

    channels: int = 3
    """3 for red, green and blue, 1 for grey."""
    dtype: str = "uint8"
    """``"uint8"``, ``"uint16"`` or ``"float32"``."""

    @property
    def is_rgb(self) -> bool:
        """Whether these are ordinary pictures: three channels of 8 bits."""
        return self == PixelFormat()

    def __str__(self):
        return f"{self.channels} channel{'s' * (self.channels > 1)} of {self.dtype}"

    def read(self, path: str | Path) -> np.ndarray:
        """Read an image file as an array ``(H, W, channels)`` of this type.

        If :attr:`is_rgb`, any image that Pillow reads is converted as in :func:`read_image`. Otherwise the values are
        those of the file: a NumPy array ``(H, W)`` or ``(H, W, C)`` in a ``.npy`` file; the bands of a TIFF file, read
        by rasterio; or any other image with 8 bits, or grey with 16 bits, read by Pillow.

        Raises:
            WrongPixels: It has other channels or another type.
            OSError: It cannot be read.
        """
        suffix = Path(path).suffix.lower()
        if suffix == ARRAY_ENDING:
            return self.converted(_read_array(path))
        if self.is_rgb:
            try:
                return read_image(path)
            except OSError:
                if suffix in TIFF_ENDINGS:
                    _refuse_other_bands(path)
                raise
        if suffix in TIFF_ENDINGS and self.channels > 1:
            return self.converted(_read_bands(path))
        image = load_image(path)
        if self.dtype == "uint16" and image.mode in ("RGB", "RGBA") and len(image.getbands()) == self.channels:
            raise WrongPixels("only 8 bits of colour images are read; save 16 bits as .tif or .npy")
        with _broken_image_as_os_error():
            return self.converted(_stored_pixels(image))

    def converted(self, array: np.ndarray) -> np.ndarray:
        """Return an array ``(H, W)`` or ``(H, W, C)`` as ``(H, W, channels)`` of this type.

        8-bit colours become grey, and numbers of any type become float32; nothing else is converted.

        Raises:
            WrongPixels: It has other channels or another type, or values that are not finite.
        """
        shape = array.shape
        if array.ndim == 2:
            array = array[..., None]
        if array.ndim != 3 or 0 in shape:
            raise WrongPixels(f"holds an array of shape {shape}; expected (height, width, {self.channels})")
        if array.shape[2] in (3, 4) and self.channels == 1 and self.dtype == array.dtype == "uint8":
            array = np.asarray(Image.fromarray(array).convert("L"))[..., None]
        if array.shape[2] != self.channels:
            count = f"{array.shape[2]} channel{'s' * (array.shape[2] > 1)}"
            raise WrongPixels(f"has {count}; expected {self.channels} (data.channels)")
        if array.dtype != self.dtype and (self.dtype != "float32" or array.dtype.kind not in "iuf"):
            raise WrongPixels(f"has pixels of type {array.dtype}; expected {self.dtype} (data.dtype)")
        with np.errstate(over="ignore"):
            array = array.astype(self.dtype, copy=False)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise WrongPixels("holds NaN or infinite values; replace them by a number")
        return array


RGB = PixelFormat()
"""Ordinary pictures: three channels of 8 bits."""


def _read_array(path: str | Path) -> np.ndarray:
    """The array in a .npy file."""
    with open_file(path) as file:
        try:
            return np.load(file, allow_pickle=False)
        except ValueError as error:
            raise OSError(f"is not a NumPy array of numbers ({error})") from None


def _read_bands(path: str | Path) -> np.ndarray:
    """All bands of a TIFF file, ``(H, W, C)``."""
    with open_tiff(path) as file:
        return np.moveaxis(file.read(), 0, -1)


def _refuse_other_bands(path: str | Path) -> None:
    """Raise WrongPixels for a TIFF file that Pillow cannot read because of its channels or their type."""
    try:
        with open_tiff(path) as file:
            held = PixelFormat(file.count, file.dtypes[0])
    except OSError:
        return
    if held.dtype != RGB.dtype or held.channels > 4:
        raise WrongPixels(f"has {held}; expected {RGB} (data.channels, data.dtype)")


@contextlib.contextmanager
def open_tiff(path: str | Path) -> Iterator[Any]:
    """Open a TIFF file, and no other format, as a dataset of rasterio.

    Raises:
        OSError: It cannot be opened or, within the context, read; or rasterio is not installed.
    """
    try:
        import rasterio
    except ImportError:
        raise OSError("reading its bands needs rasterio, which is not installed: pip install '.[geo]'") from None
    open_file(path).close()  # a missing file is reported as such
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        try:
            with rasterio.open(path, driver="GTiff") as file:
                yield file
        except rasterio.errors.RasterioError as error:
            raise OSError(str(error)) from None


def _stored_pixels(image: Image.Image) -> np.ndarray:
    """Pixels of an image, upright, with its own channels and type; colours of a palette become RGB."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("P", "PA", "1"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return np.asarray(image)


def preview(image: np.ndarray) -> np.ndarray:
    """Make a picture, uint8 ``(H, W, 3)``, of an image with any channels and type of pixels.

    The first three channels are red, green and blue; of fewer than three, the first is grey. Values that are not 8 bits
    are stretched from the 2nd to the 98th percentile of the shown channels.
    """
    shown = image[..., :3] if image.shape[-1] >= 3 else np.repeat(image[..., :1], 3, axis=-1)
    if shown.dtype == np.uint8:
        return shown
    low, high = np.percentile(shown, (DARKEST, BRIGHTEST))
    return (np.clip((shown.astype(np.float32) - low) / max(high - low, 1e-9), 0, 1) * 255).astype(np.uint8)


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
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)  # copies upright images, too
    if image.mode.startswith("I;16"):
        grey = np.asarray(image, dtype=np.uint32)
        grey = 65535 - grey if white_is_zero else grey  # Pillow inverts 8-bit images only
        return np.repeat((grey // 257).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise OSError(f"{image.mode}-mode pixels have no defined range; save as 8 or 16 bits")
    transparent = "A" in image.getbands() or "transparency" in image.info
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, ROWS):
        band = image.crop((0, top, image.width, min(top + ROWS, image.height)))
        if transparent:
            band = band.convert("RGBA")
            band = Image.alpha_composite(Image.new("RGBA", band.size, (0, 0, 0, 255)), band)
        pixels[top : top + ROWS] = np.asarray(band.convert("RGB"))
    return pixels


def scaled(size: tuple[int, ...], scale: float) -> tuple[int, int]:
    """Height and width, the first two numbers of ``size``, times ``scale``: rounded, at least one pixel."""
    height, width = (max(1, round(side * scale)) for side in size[:2])
    return height, width


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize ``(H, W, C)`` to ``size`` (height, width), bilinearly, with antialiasing when shrinking.

    Values of whole numbers are rounded.
    """
    if image.shape[:2] == tuple(size):
        return image
    if image.dtype == np.uint8 and image.shape[2] == 3:
        return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    resized = np.empty((*size, image.shape[2]), image.dtype)
    for index in range(image.shape[2]):
        channel = image[..., index].astype(np.float32)
        values = _resized(channel, size, (0, 0, *channel.shape[::-1]))
        resized[..., index] = values if image.dtype.kind == "f" else np.rint(values)
    return resized


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
    for rows, band in placed(resized_bands([logits], len(logits), size)):
        resized[rows] = band
    return resized


def placed(bands: Iterable[np.ndarray]) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield each of the bands ``(rows, W, C)`` that make up an image, from top to bottom, after the rows that it is."""
    top = 0
    for band in bands:
        yield slice(top, top + len(band)), band
        top += len(band)


def resized_bands(bands: Iterable[np.ndarray], height: int, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Resize logits that are not all in memory, like :func:`resize_logits`.

    Args:
        bands: float32 ``(rows, w, C)``, from top to bottom.
        height: Number of rows of all bands together.
        size: Height and width of the result.

    Yields:
        float32 ``(rows, W, C)``, from top to bottom, of other numbers of rows.
    """
    factor = height / size[0]
    reach = max(1.0, factor)  # of the interpolation, in rows of the bands
    first = top = 0  # row of the bands at which ``kept`` begins; row of the result that is next
    kept = None

    def lowest(row: int) -> int:
        return max(int((row + 0.5) * factor - reach), first)

    for band in bands:
        kept = band if kept is None else np.concatenate([kept, band])
        known = first + len(kept)
        ready = size[0] if known == height else int((known - reach) / factor - 0.5)
        rows = max(1, VALUES // (size[1] * kept.shape[-1]))
        while top < ready:
            bottom = min(top + rows, ready)
            low = lowest(top)
            seen = kept[low - first : min(math.ceil((bottom - 0.5) * factor + reach), known) - first]
            box = (0, top * factor - low, seen.shape[1], min(bottom * factor - low, len(seen)))
            channels = np.moveaxis(seen, -1, 0)
            yield np.stack([_resized(channel, (bottom - top, size[1]), box) for channel in channels], -1)
            top = bottom
        kept, first = kept[lowest(top) - first :], lowest(top)


def _resized(channel: np.ndarray, size: tuple[int, int], box: tuple[float, float, float, float]) -> np.ndarray:
    """Resize a box (left, top, right, bottom) of float32 ``(h, w)`` to ``size``."""
    image = Image.fromarray(np.ascontiguousarray(channel))
    return np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR, box))
