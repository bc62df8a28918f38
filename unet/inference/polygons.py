"""Regions of a mask as polygons in GeoJSON, traced along the edges of pixels by rasterio."""

from typing import Any

import numpy as np

from unet.errors import InputError


def check_installed() -> None:
    """Check that regions can be traced.

    Raises:
        InputError: rasterio is not installed.
    """
    try:
        import rasterio.features  # noqa: F401
    except ImportError:
        raise InputError("needs rasterio, which is not installed: pip install '.[geo]'", "polygons") from None


def regions(mask: np.ndarray, classes: tuple[str, ...]) -> dict[str, Any]:
    """Connected regions of every class, as a GeoJSON FeatureCollection.

    Args:
        mask: Class ids, uint8 ``(H, W)``.
        classes: Class names in the order of their ids.

    Returns:
        A polygon with its holes for each region, largest first. Its corners are ``[x, y]`` in pixels from the top left
        of the image, on the edges of pixels, so that its area is the number of its pixels; pixels that touch only at a
        corner are in different regions. ``properties`` are ``class``, ``id`` and ``area`` in pixels.
    """
    from rasterio.features import shapes

    features = []
    for geometry, value in shapes(np.ascontiguousarray(mask), connectivity=4):
        index = int(value)
        outline, *holes = map(_area, geometry["coordinates"])
        properties = {"class": classes[index], "id": index, "area": round(outline - sum(holes))}
        features.append({"type": "Feature", "properties": properties, "geometry": geometry})
    features.sort(key=lambda feature: -feature["properties"]["area"])
    return {"type": "FeatureCollection", "features": features}


def _area(ring: list[tuple[float, float]]) -> float:
    """Area of a closed ring by the shoelace formula."""
    x, y = np.array(ring).T
    return abs(float(x[:-1] @ y[1:] - x[1:] @ y[:-1])) / 2
