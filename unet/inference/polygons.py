"""Regions of a mask, traced along the edges of pixels by rasterio, and their polygons in GeoJSON."""

from typing import Any, NamedTuple

import numpy as np

from unet.data.heads import CLASSES, Head
from unet.inference.georeference import Georeference


class Region(NamedTuple):
    """Pixels of one class that are connected by their edges. Pixels that touch only at a corner are not."""

    category: int
    """Class id, or number of the label."""
    area: int
    """Number of pixels."""
    rings: list[list[tuple[float, float]]]
    """The outline, and then the outline of each hole: ``(x, y)`` of every corner, the first again at the end."""


def trace(mask: np.ndarray, count: int, head: Head = CLASSES, transform: Any = None) -> list[Region]:
    """Connected regions of every class, largest first.

    Args:
        mask: Class ids, or sets of labels, uint8 ``(H, W)``.
        count: Number of classes.
        head: What the values of the mask mean. The regions of a label are those where it is set.
        transform: ``affine.Affine`` from column and row to x and y; by default, corners are in pixels from the top left
            of the image, on the edges of pixels.
    """
    from rasterio.features import shapes
    from rasterio.transform import IDENTITY

    transform = IDENTITY if transform is None else transform
    options = {"connectivity": 4, "transform": transform}
    whole = np.ascontiguousarray(mask)
    if head.labels:  # regions of one may overlap those of another
        masks = [head.of(whole, index) for index in range(count)]
        found = [(one, i) for i, own in enumerate(masks) for one, _ in shapes(own.astype(np.uint8), own, **options)]
    else:
        found = [(one, int(value)) for one, value in shapes(whole, **options)]
    traced = []
    for geometry, index in found:
        rings = geometry["coordinates"]
        outline, *holes = map(_area, rings)
        traced.append(Region(index, round((outline - sum(holes)) / abs(transform.determinant)), rings))
    return sorted(traced, key=lambda region: -region.area)


def regions(
    mask: np.ndarray, classes: tuple[str, ...], head: Head = CLASSES, georeference: Georeference | None = None
) -> dict[str, Any]:
    """Connected regions of every class, as a GeoJSON FeatureCollection.

    Args:
        mask: Class ids, or sets of labels, uint8 ``(H, W)``.
        classes: Class names in the order of their ids.
        head: What the values of the mask mean.
        georeference: That of the image, if it has one.

    Returns:
        A polygon with its holes for each region of :func:`trace`. Corners are ``[x, y]`` in pixels, or in the
        coordinates of ``georeference``, whose reference system is then named as ``crs``. ``properties`` are ``class``,
        ``id`` and ``area``, the number of pixels.
    """
    transform = None if georeference is None else georeference.transform
    features = [
        {
            "type": "Feature",
            "properties": {"class": classes[region.category], "id": region.category, "area": region.area},
            "geometry": {"type": "Polygon", "coordinates": region.rings},
        }
        for region in trace(mask, len(classes), head, transform)
    ]
    collection: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    if georeference is not None and georeference.name:
        collection["crs"] = {"type": "name", "properties": {"name": georeference.name}}
    return collection


def _area(ring: list[tuple[float, float]]) -> float:
    """Area of a closed ring by the shoelace formula."""
    x, y = (np.array(ring) - ring[0]).T  # coordinates on Earth are large compared with a pixel
    return abs(float(x[:-1] @ y[1:] - x[1:] @ y[:-1])) / 2
