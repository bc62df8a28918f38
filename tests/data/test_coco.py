"""Masks from COCO annotations, compared with pixels written by hand; and every fault as one message."""

import json

import numpy as np
import pytest
from PIL import Image

from unet import config, data
from unet.errors import InputError

pytestmark = pytest.mark.backend_free
coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed: pip install '.[coco]'")
HEIGHT, WIDTH = 12, 16


def rectangle(left, top, right, bottom):
    """Corners of a polygon that covers the columns left..right-1 and the rows top..bottom-1."""
    return [left, top, right, top, right, bottom, left, bottom]


def run_lengths(region):
    """Uncompressed run lengths of a region, down its columns and beginning with pixels outside."""
    counts, current = [0], 0
    for pixel in region.T.reshape(-1):
        if pixel != current:
            counts.append(0)
            current = pixel
        counts[-1] += 1
    return counts


def compressed(region):
    """Run lengths in COCO's compression."""
    encoded = coco.encode(np.asfortranarray(region.astype("uint8")))
    return {"counts": encoded["counts"].decode(), "size": [HEIGHT, WIDTH]}


@pytest.fixture
def load(tmp_path):
    """Settings of two images whose annotations are in one file; the second has none."""

    def load(annotations, *overrides, **changes):
        for name in ("a", "b"):
            path = tmp_path / "mine" / "photos" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(path)
        images = [
            {"id": number, "file_name": f"/export/{name}.png", "height": HEIGHT, "width": WIDTH}
            for number, name in ((7, "a"), (9, "b"))
        ]
        categories = [{"id": 30, "name": "car"}, {"id": 4, "name": "person"}, {"id": 5, "name": "tree"}]
        annotations = [{"image_id": 7, "iscrowd": 0, **annotation} for annotation in annotations]
        content = {"images": images, "categories": categories, "annotations": annotations} | changes
        (tmp_path / "mine" / "labels.json").write_text(json.dumps(content))
        path = tmp_path / "mine.yaml"
        path.write_text(
            "data: {source: folder, size: [12, 16], data_dir: mine, cache_dir: cache, folder: {images: photos, masks: "
            "labels.json, test_fraction: 0, classes: [background, person, car]}}\n"
        )
        return config.load(path, overrides).data

    return load


def masks(settings):
    return {sample.name: sample.mask for sample in data.make_source(settings).samples()}


def test_the_smallest_is_on_top_and_crowds_are_ignored(load):
    person = np.zeros((HEIGHT, WIDTH), bool)
    person[4:6, 5:9] = True
    person[5, 5] = False  # so that its columns differ
    crowd = np.zeros((HEIGHT, WIDTH), bool)
    crowd[:5, :7] = True
    small = np.zeros((HEIGHT, WIDTH), bool)
    small[10:12, 14:] = True
    found = masks(
        load(
            [
                {"category_id": 4, "segmentation": compressed(person)},
                {"category_id": 30, "segmentation": [rectangle(2, 3, 12, 9), rectangle(13, 0, 16, 2)]},
                {
                    "category_id": 4,
                    "iscrowd": 1,
                    "segmentation": {"counts": run_lengths(crowd), "size": [HEIGHT, WIDTH]},
                },
                {"category_id": 4, "segmentation": {"counts": run_lengths(small), "size": [HEIGHT, WIDTH]}},
                {"category_id": 5, "segmentation": [rectangle(0, 10, 16, 12)]},  # no class
                {"category_id": 30, "segmentation": [[1, 1, 3, 3]]},  # no area
            ]
        )
    )
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[crowd] = 255
    expected[3:9, 2:12] = expected[:2, 13:] = 2
    expected[person] = expected[small] = 1
    np.testing.assert_array_equal(found["a"], expected)
    np.testing.assert_array_equal(found["b"], 0)


def test_pixels_without_annotation_are_ignored_if_all_classes_are_categories(load):
    annotations = [{"category_id": 30, "segmentation": [rectangle(0, 0, 8, 12)]}]
    found = masks(load(annotations, "data.folder.classes=[person,car]"))
    np.testing.assert_array_equal(found["a"], np.repeat([[1] * 8 + [255] * 8], HEIGHT, axis=0))


def test_changed_annotations_are_prepared_again(load):
    for value in (2, 1):
        annotations = [{"category_id": {2: 30, 1: 4}[value], "segmentation": [rectangle(0, 0, 16, 12)]}] * value
        dataset = data.prepare(load(annotations, "data.validation=0"))
        assert dataset.train.read(slice(2))[1][dataset.train.names.index("a")].tolist() == [[value] * WIDTH] * HEIGHT


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (
            {"counts": [5], "size": [HEIGHT, WIDTH]},
            "labels.json, image /export/a.png: has an annotation of another size",
        ),
        ({"counts": "x", "size": [HEIGHT, WIDTH]}, "has an annotation that cannot be decoded"),
        ({"counts": "1", "size": [HEIGHT, WIDTH]}, "has an annotation of another size than its image"),
        ({"counts": [100], "size": [10, 10]}, "has an annotation of another size than its image"),
    ],
)
def test_bad_annotations_are_reported(load, segmentation, message):
    with pytest.raises(InputError, match=message):
        data.prepare(load([{"category_id": 4, "segmentation": segmentation}]))


@pytest.mark.parametrize(
    ("overrides", "changes", "message"),
    [
        (
            ["data.folder.classes=[background,persn,car,bus]"],
            {},
            r"not categories of .*persn.*person.*bus.* \(categories",
        ),
        (["data.folder.classes=null"], {}, r"data.folder.classes='\[background, car, person\]' \(categories: car"),
        (["data.folder.masks=label.json"], {}, "no such file of COCO annotations.*labels.json"),
        (
            [],
            {"images": [{"id": 1, "file_name": "c.png", "height": 4, "width": 4}]},
            "there is no image c.png in photos",
        ),
        ([], {"annotations": [{"segmentation": [[1e300] * 6]}]}, "not a file of COCO instance annotations .*1e\\+300"),
        ([], {"images": {}}, "not a file of COCO instance annotations .*images: should be a valid array"),
    ],
)
def test_a_file_that_does_not_fit_is_reported(load, overrides, changes, message):
    annotations = changes.pop("annotations", [])
    with pytest.raises(InputError, match=message):
        data.prepare(load(annotations, *overrides, **changes))
