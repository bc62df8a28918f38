"""Polygons of a mask, drawn again by matplotlib; and the option of ``unet predict``."""

import json
import sys

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from PIL import Image

from tests.helpers.commands import run_unet

pytestmark = pytest.mark.backend_free
CLASSES = ("ground", "road", "car")


@pytest.fixture
def regions():
    pytest.importorskip("rasterio", reason="rasterio is not installed: pip install '.[geo]'")
    from unet.inference.polygons import regions

    return regions


def drawn(collection, shape):
    """Class ids at the centres of pixels, -1 where there is no polygon; every pixel may have one only."""
    centres = np.stack(np.meshgrid(np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5), -1).reshape(-1, 2)
    mask = np.full(len(centres), -1)
    for feature in collection["features"]:
        outline, *holes = (Outline(ring).contains_points(centres) for ring in feature["geometry"]["coordinates"])
        inside = outline & ~np.any([np.zeros(len(centres), bool), *holes], axis=0)
        assert (mask[inside] == -1).all()
        assert feature["properties"]["area"] == inside.sum()
        assert feature["properties"]["class"] == CLASSES[feature["properties"]["id"]]
        mask[inside] = feature["properties"]["id"]
    return mask.reshape(shape)


def test_polygons_cover_exactly_the_pixels_of_their_class(regions, rng):
    noise = rng.integers(0, 3, (23, 31)).astype("uint8")
    blocks = np.kron(rng.integers(0, 3, (6, 7)), np.ones((4, 5))).astype("uint8")
    ring = np.zeros((9, 12), np.uint8)
    ring[1:8, 2:11], ring[3:6, 4:9], ring[4, 6] = 1, 0, 2  # a hole, and an island in it
    for mask in (noise, blocks, ring):
        collection = json.loads(json.dumps(regions(mask, CLASSES)))
        np.testing.assert_array_equal(drawn(collection, mask.shape), mask)
    assert [(f["properties"]["class"], f["properties"]["area"]) for f in collection["features"]] == [
        ("road", 48),
        ("ground", 45),
        ("ground", 14),
        ("car", 1),
    ]
    assert [len(f["geometry"]["coordinates"]) for f in collection["features"]] == [2, 2, 2, 1]


def test_without_rasterio_nothing_is_predicted(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rasterio.features", None)
    done = run_unet("predict", "no run", tmp_path, "--polygons")
    assert (done.code, done.err) == (
        2,
        "error: --polygons: needs rasterio, which is not installed: pip install '.[geo]'\n",
    )


def test_predict_writes_polygons(regions, trained_run, tmp_path):
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "photo.png")
    done = run_unet("predict", trained_run.path, tmp_path / "photo.png", "--out", tmp_path / "out", "--polygons")
    assert done.code == 0, done.err
    collection = json.loads((tmp_path / "out" / "photo.geojson").read_text())
    with Image.open(tmp_path / "out" / "photo.png") as mask:
        counts = dict(enumerate(np.bincount(np.asarray(mask).ravel(), minlength=3)))
    areas = dict.fromkeys(range(3), 0)
    for feature in collection["features"]:
        areas[feature["properties"]["id"]] += feature["properties"]["area"]
    assert areas == counts


@pytest.fixture
def aerial(tmp_path):
    """A GeoTIFF in UTM zone 32N with pixels of 0.2 m, far from the origin."""
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed: pip install '.[geo]'")
    transform = rasterio.Affine(0.2, 0.0, 500_000.0, 0.0, -0.2, 5_300_000.0)
    profile = {"driver": "GTiff", "height": 30, "width": 44, "count": 3, "dtype": "uint8", "crs": "EPSG:32632"}
    path = tmp_path / "images" / "aerial.tif"
    path.parent.mkdir()
    with rasterio.open(path, "w", transform=transform, **profile) as file:
        file.write(np.random.default_rng(0).integers(0, 256, (3, 30, 44), "uint8"))
    return path


def test_masks_and_polygons_keep_the_georeference(regions, aerial, trained_run, tmp_path):
    import rasterio
    from rasterio.features import rasterize

    out = tmp_path / "out"
    done = run_unet("predict", trained_run.path, aerial, "--out", out, "--geotiff", "--polygons")
    assert done.code == 0, done.err
    with (
        Image.open(out / "aerial.png") as png,
        rasterio.open(out / "aerial.tif") as tif,
        rasterio.open(aerial) as image,
    ):
        mask = np.asarray(png)
        np.testing.assert_array_equal(tif.read(1), mask)
        assert tif.crs == image.crs
        assert tif.transform == image.transform
        assert tif.colormap(1)[0] == (*png.getpalette()[:3], 255)
        transform = image.transform
    collection = json.loads((out / "aerial.geojson").read_text())
    assert collection["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32632"
    shapes = [(feature["geometry"], feature["properties"]["id"]) for feature in collection["features"]]
    drawn_again = rasterize(shapes, out_shape=mask.shape, transform=transform, fill=9, dtype="uint8")
    np.testing.assert_array_equal(drawn_again, mask)
    for feature in collection["features"]:
        single = rasterize([feature["geometry"]], out_shape=mask.shape, transform=transform)
        assert feature["properties"]["area"] == single.sum()


def test_images_without_georeference_are_refused_before_anything_is_written(regions, aerial, trained_run, tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(aerial.with_name("plain.tif"))
    done = run_unet("predict", trained_run.path, aerial.parent, "--out", tmp_path / "out", "--geotiff")
    assert done.code == 2
    message = " ".join(done.err.split())
    assert message.endswith("plain.tif: has no georeference; expected GeoTIFF files")
    assert "--geotiff" in message
    assert not (tmp_path / "out").exists()
    done = run_unet("predict", trained_run.path, aerial.parent, "--out", aerial.parent, "--geotiff")
    assert done.code == 2
    assert "is one of the images and would be overwritten" in done.err
