"""COCO annotations of predicted masks, read by pycocotools; and the option of ``unet predict``."""

import errno
import json
from pathlib import PurePath

import numpy as np
import pytest
from PIL import Image

from tests.helpers.commands import run_unet
from unet.data.heads import CLASSES, LABELS
from unet.errors import RunError

pytest.importorskip("rasterio", reason="rasterio is not installed: pip install '.[geo]'")
coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed: pip install '.[coco]'")
pytestmark = pytest.mark.backend_free

NAMES = ("ground", "road", "car")
COLOURS = ("#102030", "#FF0000", "#00FF00")


def write(path, masks, head=CLASSES, names=NAMES):
    from unet.inference.coco import writing_coco

    with writing_coco(path, names, COLOURS, head) as writer:
        for number, mask in enumerate(masks):
            writer.add(PurePath("photos") / f"{number}.jpg", mask)


def read(path):
    """File name and annotations (category, pixels) of each image; areas and boxes are compared with the pixels."""
    file = coco.COCO(str(path))
    images = []
    for image in file.loadImgs(sorted(file.getImgIds())):
        found = []
        for annotation in file.loadAnns(file.getAnnIds(imgIds=[image["id"]])):
            pixels = file.annToMask(annotation).astype(bool)
            assert pixels.shape == (image["height"], image["width"])
            rows, columns = np.nonzero(pixels)
            assert annotation["area"] == len(rows)
            assert annotation["bbox"] == [min(columns), min(rows), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert annotation["iscrowd"] == 0
            found.append((annotation["category_id"], pixels))
        images.append((image["file_name"], found))
    return images


def masks(rng, values):
    """Noise, blocks, single rows and columns; holes with islands; a hole from the top to the bottom of a region."""
    yield from (rng.integers(0, values, size).astype("uint8") for size in ((23, 31), (1, 9), (9, 1), (1, 1)))
    yield np.kron(rng.integers(0, values, (6, 7)), np.ones((4, 5))).astype("uint8")
    ring = np.zeros((9, 12), np.uint8)
    ring[1:8, 2:11], ring[3:6, 4:9], ring[4, 6] = 1, 0, 2
    yield ring
    full = np.ones((7, 9), np.uint8)
    full[3, 4] = 0  # runs continue from the bottom of a column to the top of the next
    yield full


def test_classes_are_read_back_exactly(rng, tmp_path):
    expected = list(masks(rng, 3))
    write(tmp_path / "coco.json", expected)
    images = read(tmp_path / "coco.json")
    assert [name for name, _ in images] == [f"photos/{number}.jpg" for number in range(len(expected))]
    for (_, annotations), mask in zip(images, expected, strict=True):
        drawn = np.full(mask.shape, 9)
        for category, pixels in annotations:
            assert (drawn[pixels] == 9).all()  # regions do not overlap
            drawn[pixels] = category
        np.testing.assert_array_equal(drawn, mask)
        areas = [pixels.sum() for _, pixels in annotations]
        assert areas == sorted(areas, reverse=True)
    content = json.loads((tmp_path / "coco.json").read_text())
    assert content["categories"][0] == {"id": 0, "name": "ground", "color": [16, 32, 48]}
    assert [one["id"] for one in content["annotations"]] == [*range(1, len(content["annotations"]) + 1)]


def test_labels_that_overlap_are_read_back_exactly(rng, tmp_path):
    expected = list(masks(rng, 8))
    write(tmp_path / "coco.json", expected, LABELS)
    for (_, annotations), mask in zip(read(tmp_path / "coco.json"), expected, strict=True):
        sets = np.zeros(mask.shape, int)
        for category, pixels in annotations:
            assert not (sets[pixels] >> category & 1).any()
            sets[pixels] += 1 << category
        np.testing.assert_array_equal(sets, mask)


def test_only_regions_with_holes_are_run_lengths(tmp_path):
    mask = np.ones((4, 5), np.uint8)
    mask[1:3, 2] = 2
    write(tmp_path / "coco.json", [mask])
    around, inner = json.loads((tmp_path / "coco.json").read_text())["annotations"]
    assert around["segmentation"] == {"size": [4, 5], "counts": [0, 9, 2, 9]}
    (corners,) = inner["segmentation"]
    assert sorted(zip(corners[::2], corners[1::2])) == [(2, 1), (2, 3), (3, 1), (3, 3)]


def test_a_file_that_cannot_be_finished_leaves_the_earlier_one(tmp_path, monkeypatch):
    path = tmp_path / "coco.json"
    path.write_text("earlier")

    def full(mask, *rest):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("unet.inference.coco.trace", full)
    with pytest.raises(RunError, match=r"coco\.json: cannot be written: No space left on device; free some space"):
        write(path, [np.zeros((3, 3), np.uint8)])
    assert [file.name for file in tmp_path.iterdir()] == ["coco.json"]
    assert path.read_text() == "earlier"


def test_predict_writes_one_file_of_all_images(trained_run, rng, tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "out"
    for name, size in (("a.png", (40, 60)), ("below/b.c.jpg", (33, 21))):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3)).astype("uint8")).save(photos / name)
    (photos / "broken.png").write_bytes(b"no image")
    done = run_unet("predict", trained_run.path, photos, "--out", out, "--coco", "--no-overlay")
    assert done.code == 1
    assert "1 of 3 images could not be read or written" in done.err
    images = read(out / "coco.json")
    assert [name for name, _ in images] == ["a.png", "below/b.c.jpg"]
    for name, annotations in images:
        with Image.open(out / name.replace(".jpg", ".png")) as file:
            mask = np.asarray(file)
        drawn = np.full(mask.shape, 9)
        for category, pixels in annotations:
            drawn[pixels] = category
        np.testing.assert_array_equal(drawn, mask)
    categories = json.loads((out / "coco.json").read_text())["categories"]
    assert [category["name"] for category in categories] == list(trained_run.info.classes)


def test_predicted_annotations_can_be_trained_on(rng, tmp_path):
    from unet.data.coco import CocoFile

    mask = rng.integers(0, 3, (23, 31)).astype("uint8")
    write(tmp_path / "coco.json", [mask])
    np.testing.assert_array_equal(CocoFile(tmp_path / "coco.json").mask(1, NAMES), mask)
