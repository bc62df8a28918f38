"""Where an image is on Earth, as GeoTIFF files say: read with rasterio, and written into masks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unet.data.images import TIFF_ENDINGS, open_tiff
from unet.errors import InputError
from unet.files import replacing


def check_installed(argument: str) -> None:
    """Check that rasterio can be imported.

    Args:
        argument: What needs it, for the message.

    Raises:
        InputError: It is not installed.
    """
    try:
        import rasterio.features  # noqa: F401
    except ImportError:
        raise InputError("needs rasterio, which is not installed: pip install '.[geo]'", argument) from None


@dataclass(frozen=True)
class Georeference:
    """Coordinate reference system of an image, and the coordinates of its pixels."""

    crs: Any
    """``rasterio.crs.CRS``, or ``None`` if the file names none."""
    transform: Any
    """``affine.Affine``: column and row to x and y."""

    @classmethod
    def of(cls, path: Path) -> "Georeference | None":
        """The georeference of a TIFF file; ``None`` if it has none, or is something else."""
        if path.suffix.lower() not in TIFF_ENDINGS:
            return None
        try:
            with open_tiff(path) as file:
                return None if file.transform.is_identity else cls(file.crs, file.transform)
        except OSError:
            return None

    @property
    def name(self) -> str | None:
        """Name of the reference system, such as ``"urn:ogc:def:crs:EPSG::32632"``."""
        if self.crs is None:
            return None
        authority = self.crs.to_authority()
        return f"urn:ogc:def:crs:{authority[0]}::{authority[1]}" if authority else self.crs.to_string()


def write_mask(path: Path, mask: np.ndarray, georeference: Georeference, table: np.ndarray) -> None:
    """Write a mask as a compressed GeoTIFF file with a palette.

    Args:
        path: The file.
        mask: Class ids, uint8 ``(H, W)``.
        georeference: That of the image.
        table: Colours by class id, uint8 ``(256, 3)``.
    """
    import rasterio

    height, width = mask.shape
    with (
        replacing(path) as temporary,
        rasterio.open(
            temporary,
            "w",
            driver="GTiff",
            height=height,
            width=width,
            count=1,
            dtype="uint8",
            compress="deflate",
            crs=georeference.crs,
            transform=georeference.transform,
        ) as file,
    ):
        file.write(mask, 1)
        file.write_colormap(1, {index: (*map(int, colour), 255) for index, colour in enumerate(table)})
