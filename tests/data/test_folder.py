"""Your own images and masks: layouts, conversions, and every fault told at once."""

import errno
import json
import os
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.helpers.images import save
from unet import config, data
from unet.data import cache
from unet.data.images import read_image
from unet.errors import InputError, RunError

pytestmark = pytest.mark.backend_free
SIZE = (12, 16)


def photo(seed=0, size=SIZE):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype("uint8")


def mask(seed=0, size=SIZE, ids=(0, 1)):
    return np.random.default_rng(seed).choice(ids, size).astype("uint8")


@pytest.fixture
def folder(tmp_path):
    """Ten good pairs, images/im_K.jpg and masks/im_K.png."""
    root = tmp_path / "mine"
    for k in range(10):
        save(photo(k), root / "images" / f"im_{k}.jpg")
        save(mask(k), root / "masks" / f"im_{k}.png")
    return root


@pytest.fixture
def load(tmp_path):
    """Configuration of a folder source, with overrides."""

    def load(root, *overrides):
        path = tmp_path / "mine.yaml"
        path.write_text("data: {source: folder, size: [12, 16], folder: {classes: [ground, thing]}}\n")
        cached = f"data.cache_dir={tmp_path / 'cache'}"
        return config.load(path, [f"data.data_dir={root}", cached, *overrides]).data

    return load


def samples(settings):
    return {s.name: s for s in data.make_source(settings).samples() if isinstance(s, data.Sample)}


# === What is read ===


def test_pairs_are_matched_by_name_and_split_the_same_way_everywhere(folder, load):
    dataset = data.prepare(load(folder))
    names = {split: getattr(dataset, split).names for split in ("train", "validation", "test")}
    assert sorted(name for group in names.values() for name in group) == [f"im_{k}" for k in range(10)]
    assert [len(v) for v in names.values()] == [
        7,
        1,
        2,
    ]  # a fifth of 10 for test, a tenth of the other 8 for validation
    assert names["test"] == ["im_3", "im_9"]  # the hash of the names decides, on every machine
    assert dataset.classes == ("ground", "thing")
    for split, found in names.items():
        for i, name in enumerate(found):
            np.testing.assert_array_equal(getattr(dataset, split).masks[i], mask(int(name[3:])))


def test_split_files_decide(folder, load):
    (folder / "train.txt").write_text("im_0\nim_1.jpg\n# a comment\n\nim_2\n")
    (folder / "val.txt").write_text("im_3\n")
    (folder / "test.txt").write_text("im_4\nim_5\n")
    splits = "data.folder={train: train.txt, validation: val.txt, test: test.txt, classes: [ground, thing]}"
    dataset = data.prepare(load(folder, splits))
    assert dataset.train.names == ["im_0", "im_1", "im_2"]
    assert dataset.validation.names == ["im_3"]
    assert dataset.test.names == ["im_4", "im_5"]


def test_subfolders_and_other_folder_names(tmp_path, load):
    for k in range(4):
        save(photo(k), tmp_path / "d" / "photos" / "day" / f"{k}.png")
        save(mask(k), tmp_path / "d" / "labels" / "day" / f"{k}.png")
    found = samples(load(tmp_path / "d", "data.folder.images=photos", "data.folder.masks=labels"))
    assert sorted(found) == ["day/0", "day/1", "day/2", "day/3"]


@pytest.mark.parametrize(
    ("classes", "ignore", "pixels"),
    [
        ("[a, b]", "[11, 255]", [[0, 11, 1, 255]]),
        ("[a, b]", "[11]", [[0, 11, 1, 11]]),
        ("{a: 0, b: 7}", "[11, 12, 13]", [[0, 11, 7, 13]]),  # grey values, as the classes have no colours
        (
            "{a: [0, 0, 0], b: [9, 9, 9]}",
            "[[11, 12, 13], [5, 5, 5]]",
            [[[0, 0, 0], [11, 12, 13], [9, 9, 9], [5, 5, 5]]],
        ),
        ("{a: [0, 0, 0], b: [9, 9, 9]}", "[11, 12, 13]", [[[0, 0, 0], [11, 12, 13], [9, 9, 9], [11, 12, 13]]]),
    ],
)
def test_several_values_or_colours_are_ignored(tmp_path, load, classes, ignore, pixels):
    save(photo(0, (1, 4)), tmp_path / "images" / "a.png")
    save(np.array(pixels, "uint8"), tmp_path / "masks" / "a.png")
    settings = load(tmp_path, f"data.folder.classes={classes}", f"data.folder.ignore={ignore}")
    np.testing.assert_array_equal(samples(settings)["a"].mask, [[0, 255, 1, 255]])


def test_what_is_allowed_names_every_ignored_value(tmp_path, load):
    save(photo(0, (1, 4)), tmp_path / "images" / "a.png")
    save(np.array([[0, 1, 30, 30]], "uint8"), tmp_path / "masks" / "a.png")
    settings = load(tmp_path, "data.folder.classes=[a, b]", "data.folder.ignore=[1, 11, 12]")  # 1 is a class
    (problem,) = data.make_source(settings).samples()
    assert "allowed: 0 (a), 1 (b), 11 (ignored), 12 (ignored)" in problem.message


def test_one_ignored_value_in_a_list_leaves_the_cache_valid(tmp_path, load):
    save(photo(0, (1, 4)), tmp_path / "images" / "a.png")
    save(np.array([[0, 1, 11, 11]], "uint8"), tmp_path / "masks" / "a.png")
    keys = [
        data.make_source(load(tmp_path, "data.folder.classes=[a, b]", f"data.folder.ignore={ignore}")).key()["ignore"]
        for ignore in ("11", "[11]", "[11, 12]", "null")
    ]
    assert keys == [11, 11, (11, 12), None]


def test_masks_by_colour_by_grey_value_and_ignored(tmp_path, load):
    ids = np.array([[0, 1, 255, 1]], "uint8")
    colours = {0: (0, 0, 0), 1: (128, 64, 0), 255: (255, 255, 255)}
    painted = np.array([[colours[i] for i in row] for row in ids.tolist()], "uint8")
    greys = np.array([[10, 20, 99, 20]], "uint8")
    for k, pixels in enumerate((ids, painted, greys)):
        save(photo(k, (1, 4)), tmp_path / str(k) / "images" / "a.png")
        save(pixels, tmp_path / str(k) / "masks" / "a.png")
    settings = [
        load(tmp_path / "0"),
        load(
            tmp_path / "1",
            "data.folder.classes={a: [0, 0, 0], b: [128, 64, 0]}",
            "data.folder.ignore=[255, 255, 255]",
        ),
        load(tmp_path / "2", "data.folder.classes={a: 10, b: 20}", "data.folder.ignore=99"),
    ]
    for setting in settings:
        np.testing.assert_array_equal(samples(setting)["a"].mask, ids)


def test_palette_and_one_bit_masks_are_ids(folder, load):
    palette = Image.fromarray(mask(0)).convert("P")
    palette.putdata(mask(0).ravel().tolist())
    palette.save(folder / "masks" / "im_0.png")
    Image.fromarray(mask(1).astype(bool)).save(folder / "masks" / "im_1.png")
    found = samples(load(folder))
    np.testing.assert_array_equal(found["im_0"].mask, mask(0))
    np.testing.assert_array_equal(found["im_1"].mask, mask(1))


def test_a_binary_mask_of_0_and_255_can_be_two_classes(folder, load):
    for k in range(10):
        save(mask(k) * 255, folder / "masks" / f"im_{k}.png")
    found = samples(load(folder, "data.folder.classes={ground: 0, thing: 255}"))
    np.testing.assert_array_equal(found["im_3"].mask, mask(3))


def test_every_kind_of_image_becomes_upright_rgb(tmp_path):
    rgb = photo(0)
    grey = rgb[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype("uint16") * 257).save(tmp_path / "grey16.png")
    Image.fromarray(rgb).quantize(256).save(tmp_path / "palette.png")
    alpha = np.full(SIZE, 255, "uint8")
    alpha[:4] = 0
    Image.fromarray(np.dstack([rgb, alpha])).save(tmp_path / "alpha.png")
    exif = Image.Exif()
    exif[274] = 6  # the camera was turned: rotate by 90° clockwise to see it upright
    Image.fromarray(rgb).save(tmp_path / "turned.png", exif=exif)
    for name in ("grey", "grey16"):
        np.testing.assert_array_equal(read_image(tmp_path / f"{name}.png"), np.dstack([grey] * 3))
    np.testing.assert_allclose(read_image(tmp_path / "palette.png").astype(int), rgb, atol=90)
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png"), np.where(alpha[..., None] > 0, rgb, 0))
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png"), np.rot90(rgb, -1))


UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).swapaxes(0, 1),
    8: lambda stored: np.rot90(stored),
}
"""What each value of the EXIF tag Orientation asks for (EXIF 2.32, 4.6.4 A)."""


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_images_of_every_orientation_become_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    rgb = photo(0)
    grey = rgb[..., 0]
    big_endian = Image.frombytes("I;16B", SIZE[::-1], (grey.astype(">u2") * 257).tobytes())
    images = {
        "rgb.png": Image.fromarray(rgb),
        "rgb.tif": Image.fromarray(rgb),
        "grey.tif": Image.fromarray(grey),
        "grey16.tif": Image.fromarray(grey.astype("uint16") * 257),
        "big_endian.tif": big_endian,
    }
    for name, image in images.items():
        image.save(tmp_path / name, exif=exif)
        stored = rgb if name.startswith("rgb") else np.dstack([grey] * 3)
        np.testing.assert_array_equal(read_image(tmp_path / name), UPRIGHT[orientation](stored), err_msg=name)


def png16(path, pixels, colour_type):
    """Write uint16 ``(H, W, C)``, which Pillow cannot, by the PNG specification."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def test_depths_palettes_and_transparency_are_right(tmp_path):
    rgb, ids = photo(0), mask(0, ids=range(8))
    grey, colours = rgb[..., 0], photo(1, (1, 8))[0]
    alpha = np.resize(np.array([0, 128, 255], "uint8"), SIZE)
    deep = np.random.default_rng(2).integers(0, 65536, (*SIZE, 3))
    expected = {}

    def over_black(pixels, opacity):
        return np.round(pixels * (opacity[..., None] / 255))

    png16(tmp_path / "rgb16.png", deep, 2)
    expected["rgb16.png"] = deep / 257
    png16(tmp_path / "rgba16.png", np.dstack([rgb, alpha]).astype("uint16") * 257, 6)
    expected["rgba16.png"] = over_black(rgb, alpha)
    png16(tmp_path / "la16.png", np.dstack([grey, alpha]).astype("uint16") * 257, 4)
    Image.fromarray(np.dstack([grey, alpha])).save(tmp_path / "la.png")
    expected["la16.png"] = expected["la.png"] = over_black(np.dstack([grey] * 3), alpha)
    Image.fromarray(np.dstack([rgb, alpha])).save(tmp_path / "rgba.tif")
    expected["rgba.tif"] = over_black(rgb, alpha)
    palette = Image.fromarray(ids)
    palette.putpalette(colours.tobytes())
    palette.save(tmp_path / "palette.png")
    expected["palette.png"] = colours[ids]
    palette.save(tmp_path / "one_clear_colour.png", transparency=3)
    expected["one_clear_colour.png"] = np.where(ids[..., None] == 3, 0, colours[ids])
    opacities = np.array([0, 255, 128, 255, 0, 255, 255, 255], "uint8")
    palette.save(tmp_path / "clear_colours.png", transparency=opacities.tobytes())
    expected["clear_colours.png"] = over_black(colours[ids], opacities[ids])
    Image.fromarray(ids > 3).save(tmp_path / "bits.png")
    Image.fromarray(ids > 3).save(tmp_path / "bits.tif")
    expected["bits.png"] = expected["bits.tif"] = np.dstack([ids > 3] * 3) * 255
    tifffile.imwrite(tmp_path / "white_is_zero.tif", 65535 - grey.astype("uint16") * 257, photometric="miniswhite")
    expected["white_is_zero.tif"] = np.dstack([grey] * 3)
    plain = np.full((*SIZE, 3), (200, 100, 50), "uint8")
    Image.fromarray(plain).convert("CMYK").save(tmp_path / "cmyk.jpg")
    expected["cmyk.jpg"] = plain
    for name, pixels in expected.items():
        found = read_image(tmp_path / name)
        assert found.dtype == np.uint8
        np.testing.assert_allclose(found, pixels, atol=2 if name == "cmyk.jpg" else 1, err_msg=name)


def test_the_official_pets_archive_is_recognized(tmp_path, load):
    for k in range(6):
        save(photo(k), tmp_path / "pets" / "images" / f"Cat_{k}.jpg")
        save(mask(k, ids=(1, 2, 3)), tmp_path / "pets" / "annotations" / "trimaps" / f"Cat_{k}.png")
    lists = {"trainval": "".join(f"Cat_{k} 1 1 1\n" for k in range(4)), "test": "# comment\nCat_4 1 1 1\nCat_5 1 1 1\n"}
    for name, text in lists.items():
        (tmp_path / "pets" / "annotations" / f"{name}.txt").write_text(text)
    dataset = data.prepare(load(tmp_path / "pets", "data.folder.classes=null", "data.validation=0.25"))
    assert dataset.classes == ("pet", "background", "border")
    assert dataset.test.names == ["Cat_4", "Cat_5"]
    assert (len(dataset.train), len(dataset.validation)) == (3, 1)
    np.testing.assert_array_equal(dataset.test.masks[0], mask(4, ids=(1, 2, 3)) - 1)


# === What is told ===


def fault(folder, kind):
    """Break one thing; return overrides and the parts the message must hold."""
    image, label = folder / "images" / "im_3.jpg", folder / "masks" / "im_3.png"
    if kind == "truncated JPEG":
        image.write_bytes(image.read_bytes()[:300])
        return [], [str(image), "cannot be read as an image", "Truncated"]
    if kind == "truncated mask":
        label.write_bytes(label.read_bytes()[:60])
        return [], [str(label), "cannot be read as an image"]
    if kind == "text named jpg":
        image.write_text("not an image")
        return [], [str(image), "cannot be read as an image", "cannot identify"]
    if kind == "empty image file":
        image.write_bytes(b"")
        return [], [str(image), "cannot be read as an image"]
    if kind == "broken link":
        image.unlink()
        image.symlink_to(folder / "nowhere.jpg")
        return [], [str(image), "No such file"]
    if kind == "missing mask":
        label.unlink()
        return [], [str(image), "has no mask masks/im_3.png"]
    if kind == "16-bit mask":
        Image.fromarray(mask(3).astype("uint16") * 300).save(label)
        return [], [str(label), "16-bit", "expected 8-bit class ids"]
    if kind == "RGB mask":
        save(np.dstack([mask(3)] * 3), label)
        return [], [str(label), "colour image (RGB)", "data.folder.classes="]
    if kind == "RGBA mask":
        save(np.dstack([mask(3)] * 4), label)
        return [], [str(label), "colour image (RGBA)"]
    if kind == "float mask":
        Image.fromarray(mask(3).astype("float32")).save(label.with_suffix(".tif"))
        label.unlink()
        return [], ["im_3.tif", "32-bit", "expected 8-bit class ids"]
    if kind == "mask of another size":
        save(mask(3, (16, 12)), label)
        return [], [str(label), "12×16", "16×12", "same size"]
    if kind == "id out of range":
        save(mask(3, ids=(0, 1, 7)), label)
        return [], [str(label), "holds the value 7", "allowed: 0 (ground), 1 (thing), 255 (ignored)"]
    if kind == "only 0 and 255":
        save(mask(3, ids=(0, 255)), label)
        return [], [str(label), "only 0 and 255", "{ground: 0, thing: 255}"]
    if kind == "unknown colour":
        for k in range(10):
            save(np.dstack([mask(k)] * 3) * 255, folder / "masks" / f"im_{k}.png")
        colours = "data.folder.classes={a: [0, 0, 0], b: [1, 2, 3]}"
        return [colours], ["holds [255, 255, 255] (no class)", "[1, 2, 3] (b)"]
    if kind == "empty folder":
        for path in (folder / "images").iterdir():
            path.unlink()
        return [], [str(folder / "images"), "holds no image", "expected images/NAME.jpg"]
    if kind == "no images folder":
        (folder / "images").rename(folder / "imags")
        return [], ["there is no such folder", "did you mean imags?", "data.folder.images"]
    if kind == "no folder":
        return [f"data.data_dir={folder}_gone"], ["data.data_dir", "there is no folder"]
    if kind == "missing split file":
        (folder / "training.txt").write_text("im_0\n")
        splits = "data.folder={train: train.txt, test: test.txt, classes: [a, b]}"
        return [splits], ["train.txt", "there is no such split file", "did you mean training.txt?"]
    if kind == "unknown name in a split file":
        (folder / "a.txt").write_text("im_0\nim_33\n")
        (folder / "b.txt").write_text("im_1\n")
        splits = "data.folder={train: a.txt, test: b.txt, classes: [a, b]}"
        return [splits], ["a.txt", "line 2", "im_33", "did you mean im_3?"]
    if kind == "name in two splits":
        (folder / "a.txt").write_text("im_0\nim_1\n")
        (folder / "b.txt").write_text("im_1\n")
        splits = "data.folder={train: a.txt, test: b.txt, classes: [a, b]}"
        return [splits], ["im_1 is in the lists of both train and test"]
    if kind == "split file is an image":
        splits = "data.folder={train: images/im_0.jpg, test: images/im_1.jpg, classes: [a, b]}"
        return [splits], ["im_0.jpg", "is not a text file"]
    if kind == "no class names":
        return ["data.folder.classes=null"], ["data.folder.classes: missing", "the first masks hold the values 0, 1"]
    if kind == "two images of one name":
        save(photo(3), folder / "images" / "im_3.png")
        return [], ["im_3.png", "has the same name as im_3.jpg"]
    if kind == "list of the archive missing":
        (folder / "annotations" / "trimaps").mkdir(parents=True)
        return ["data.folder.classes=null"], ["annotations/trainval.txt", "missing"]
    raise AssertionError(kind)


FAULTS = [
    *("truncated JPEG", "truncated mask", "text named jpg", "empty image file", "broken link", "missing mask"),
    *("16-bit mask", "RGB mask", "RGBA mask", "float mask", "mask of another size", "id out of range"),
    *("only 0 and 255", "unknown colour", "empty folder", "no images folder", "no folder", "missing split file"),
    *("unknown name in a split file", "name in two splits", "split file is an image", "no class names"),
    *("two images of one name", "list of the archive missing"),
]


@pytest.mark.parametrize("kind", FAULTS)
def test_a_broken_folder_is_told_in_one_message_and_nothing_is_prepared(folder, load, kind, tmp_path):
    overrides, expected = fault(folder, kind)
    with pytest.raises(InputError) as caught:
        data.prepare(load(folder, *overrides))
    for part in expected:
        assert part in str(caught.value), str(caught.value)
    assert not [path for path in (tmp_path / "cache").glob("*") if path.is_dir()]


def test_all_faults_are_told_at_once(folder, load):
    (folder / "images" / "im_1.jpg").write_bytes(b"x")
    (folder / "masks" / "im_2.png").unlink()
    save(mask(5, ids=(0, 9)), folder / "masks" / "im_5.png")
    (folder / "images" / "notes.txt").write_text("hello")
    save(np.full(SIZE, 255, "uint8"), folder / "masks" / "im_7.png")
    save(np.zeros(SIZE, "uint8"), folder / "masks" / "extra.png")
    problems = cache.inspect(data.make_source(load(folder)))
    found = {(problem.kind, problem.fatal) for problem in problems}
    assert found == {
        ("unreadable image", True),
        ("missing mask", True),
        ("bad mask", True),
        ("not an image", False),
        ("empty mask", False),
        ("missing image", False),
    }
    with pytest.raises(InputError, match="3 errors"):
        data.prepare(load(folder))


def test_near_identical_images_across_train_and_test_are_told(folder, load):
    test = "im_3"
    brighter = np.clip(photo(3).astype(int) + 6, 0, 255).astype("uint8")
    save(brighter, folder / "images" / "im_8.jpg")
    assert test in data.prepare(load(folder)).test.names
    problems = [p for p in cache.inspect(data.make_source(load(folder))) if p.kind == "near-identical"]
    assert len(problems) == 1
    assert "im_8 (validation): is nearly identical to im_3 (test)" in str(problems[0])


def test_equal_images_are_told_once_each(folder, load):
    """Not once per pair: ten thousand frames of a still video have sixteen million."""
    for path in (folder / "images").iterdir():
        save(photo(0), path)
    source = data.make_source(load(folder))
    problems = [p for p in cache.inspect(source) if p.kind == "near-identical"]
    splits = [sample.split for sample in source.samples()]
    assert len(problems) == len(splits) - splits.count("test")
    assert splits.count("test") > 1
    assert f" and {splits.count('test') - 1} more (test): " in str(problems[0])


# === The cache ===


def test_the_cache_is_used_until_a_file_changes(folder, load, monkeypatch):
    settings = load(folder)
    first = data.prepare(settings)
    reads = []
    original = cache._scan
    monkeypatch.setattr(cache, "_scan", lambda *args: reads.append(1) or original(*args))
    again = data.prepare(settings)
    assert not reads
    np.testing.assert_array_equal(first.train.images, again.train.images)
    name = again.train.names[0]
    save(255 - photo(99), folder / "images" / f"{name}.jpg")
    changed = data.prepare(settings)
    assert reads
    assert (changed.train.images[0] != again.train.images[0]).any()


def test_images_are_resized_smoothly_and_masks_to_the_nearest_pixel(folder, load):
    dataset = data.prepare(load(folder, "data.size=[6, 8]"))
    assert dataset.train.images.shape[1:] == (6, 8, 3)
    assert set(np.unique(dataset.train.masks)) <= {0, 1}
    name = dataset.train.names[0]
    jpeg = read_image(folder / "images" / f"{name}.jpg").astype(float)
    # Halving with antialiasing: a triangle of half width 2 around each target centre.
    weights = np.maximum(0, 1 - np.abs((np.arange(6)[:, None] * 2 + 0.5) - np.arange(12)) / 2)
    rows = weights / weights.sum(1, keepdims=True)
    weights = np.maximum(0, 1 - np.abs((np.arange(8)[:, None] * 2 + 0.5) - np.arange(16)) / 2)
    columns = weights / weights.sum(1, keepdims=True)
    expected = np.einsum("ih,hwc,jw->ijc", rows, jpeg, columns)
    np.testing.assert_allclose(dataset.train.images[0].astype(float), expected, atol=1.5)


def test_an_unwritable_cache_is_told(folder, load, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        InputError, match=r"data\.cache_dir: .*file: cannot be written: .*; set data\.cache_dir elsewhere"
    ):
        data.prepare(load(folder, f"data.cache_dir={tmp_path / 'file'}"))


def test_another_user_can_read_the_cache(folder, load, tmp_path):
    before = os.umask(0o022)
    try:
        data.prepare(load(folder))
    finally:
        os.umask(before)
    entry = next((tmp_path / "cache").iterdir())
    assert entry.stat().st_mode & 0o777 == 0o755
    assert {path.stat().st_mode & 0o777 for path in entry.iterdir()} == {0o644}


@pytest.mark.parametrize(("number", "passes"), [(errno.ENOTEMPTY, True), (errno.ENOSPC, False)])
def test_a_cache_entry_that_exists_already_is_used_and_other_errors_are_raised(
    folder, load, monkeypatch, number, passes
):
    original = os.rename

    def rename(source, target):
        original(source, target)  # as if another process had just done the same
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "rename", rename)
    if passes:
        assert len(data.prepare(load(folder)).train)
    else:
        with pytest.raises(RunError, match="No space left"):
            data.prepare(load(folder))


def test_digests_of_a_cache_of_an_earlier_version_are_computed(folder, load, tmp_path):
    stored = data.prepare(load(folder)).train.digests
    index = next((tmp_path / "cache").glob("*/index.json"))
    index.write_text(
        json.dumps({key: value for key, value in json.loads(index.read_text()).items() if key != "digests"})
    )
    old = data.prepare(load(folder)).train
    assert old.known_digests is None
    assert old.digests == stored
    assert len(set(stored)) == len(stored)
