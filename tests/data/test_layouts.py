"""Where images and masks may be: the layouts of common data sets, with names, lists and links as they have them."""

import os

import numpy as np
import pytest
from PIL import Image

from tests.helpers.commands import run_unet
from unet import config, data
from unet.data.sources import SPLITS
from unet.errors import InputError
from unet.files import files_below

pytestmark = pytest.mark.backend_free
SIZE = (8, 12)


def pair(image, mask, seed=0):
    """Write an image, and a mask whose ids depend on ``seed``."""
    rng = np.random.default_rng(seed)
    for path, pixels in ((image, rng.integers(0, 256, (*SIZE, 3))), (mask, rng.integers(0, 2, SIZE))):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype("uint8")).save(path)


def ids(seed):
    rng = np.random.default_rng(seed)
    rng.integers(0, 256, (*SIZE, 3))
    return rng.integers(0, 2, SIZE)


@pytest.fixture
def load(tmp_path):
    """Load a configuration next to the folder ``d`` whose section data.folder has these lines."""

    def load(*lines, text="data: {source: folder, data_dir: d, size: [8, 12], folder: {%s}}"):
        path = tmp_path / "mine.yaml"
        path.write_text(text % ", ".join(["classes: [ground, thing]", *lines]) + "\n")
        return config.load(path, [f"data.cache_dir={tmp_path / 'cache'}"]).data

    return load


def names(dataset):
    return {split: getattr(dataset, split).names for split in SPLITS}


@pytest.fixture
def camvid(tmp_path):
    """Folders as in CamVid: train and trainannot, val and valannot, test and testannot, with frames of equal names."""
    for number, split in enumerate(("train", "val", "test")):
        for k in range(2):
            pair(tmp_path / "d" / split / f"{k}.png", tmp_path / "d" / f"{split}annot" / f"{k}.png", 10 * number + k)
    return tmp_path / "d"


def together(dataset):
    return sorted(name for listed in names(dataset).values() for name in listed)


FOLDERS = [
    "train: {images: train, masks: trainannot}",
    "validation: {images: val, masks: valannot}",
    "test: {images: test, masks: testannot}",
]


def test_each_split_can_have_its_own_pair_of_folders(camvid, load):
    dataset = data.prepare(load(*FOLDERS))
    assert names(dataset) == {
        "train": ["train/0", "train/1"],
        "validation": ["val/0", "val/1"],
        "test": ["test/0", "test/1"],
    }
    np.testing.assert_array_equal(dataset.validation.masks[1], ids(11))


def test_validation_is_drawn_from_the_training_folder(camvid, load):
    settings = load(FOLDERS[0], FOLDERS[2]).model_copy(update={"validation": 0.5})
    assert [len(part) for part in names(data.prepare(settings)).values()] == [1, 1, 2]


@pytest.mark.parametrize("lead", ["", "/", "./", "/SegNet/CamVid/"])
@pytest.mark.parametrize("between", [" ", "\t", ", "])
def test_lists_can_have_the_paths_of_image_and_mask(camvid, load, lead, between):
    """``/SegNet/CamVid/train/0001TP.png /SegNet/CamVid/trainannot/0001TP.png`` in SegNet's train.txt."""
    for split in ("train", "val", "test"):
        lines = [f"{lead}{split}/{k}.png{between}{lead}{split}annot/{k}.png\n" for k in range(2)]
        (camvid / f"{split}.txt").write_text("".join(lines))
    dataset = data.prepare(load("train: train.txt", "validation: val.txt", "test: test.txt"))
    assert names(dataset)["test"] == ["test/0", "test/1"]
    np.testing.assert_array_equal(dataset.test.masks[0], ids(20))


def test_lists_and_folders_can_be_mixed(camvid, load):
    (camvid / "train.txt").write_text("train/1.png trainannot/1.png\n")
    dataset = data.prepare(load("train: train.txt", *FOLDERS[1:]))
    assert names(dataset)["train"] == ["train/1"]
    assert len(dataset.test) == 2


def test_lists_as_in_pascal_voc(tmp_path, load):
    """Names without endings, and only some of the photographs have a mask."""
    root = tmp_path / "d"
    for k in range(6):
        pair(root / "JPEGImages" / f"{k}.jpg", root / "SegmentationClass" / f"{k}.png", k)
    for k in (4, 5):
        (root / "SegmentationClass" / f"{k}.png").unlink()
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("0\n2\n")
    (lists / "val.txt").write_text("1\n/JPEGImages/3.jpg\n")
    settings = [
        "images: JPEGImages",
        "masks: SegmentationClass",
        "train: ImageSets/Segmentation/train.txt",
        "test: ImageSets/Segmentation/val.txt",
    ]
    dataset = data.prepare(load(*settings))
    assert names(dataset) == {"train": ["0", "2"], "validation": [], "test": ["1", "3"]}
    assert not [problem for problem in dataset.problems if problem.kind != "near-identical"]
    (lists / "train.txt").write_text("0\n2\n4\n")
    with pytest.raises(InputError, match=r"train\.txt, line 3: 4 has no mask SegmentationClass/4\.png"):
        data.prepare(load(*settings))


@pytest.mark.parametrize("masks", ["masks", "images"])
def test_masks_can_have_a_suffix(tmp_path, load, masks):
    """NAME_mask.png, in another folder or next to the images."""
    for k in range(4):
        pair(tmp_path / "d" / "images" / f"{k}.png", tmp_path / "d" / masks / f"{k}_mask.png", k)
    dataset = data.prepare(load("mask_suffix: _mask", f"masks: {masks}"))
    assert together(dataset) == ["0", "1", "2", "3"]
    (tmp_path / "d" / masks / "2_mask.png").rename(tmp_path / "d" / masks / "two_mask.png")
    with pytest.raises(InputError, match=rf"2\.png: has no mask {masks}/2_mask\.png"):
        data.prepare(load("mask_suffix: _mask", f"masks: {masks}"))


def test_suffixes_as_in_cityscapes(tmp_path, load):
    for split in ("train", "val"):
        for k in range(2):
            place = tmp_path / "d" / "gtFine" / split / "aachen"
            image = tmp_path / "d" / "leftImg8bit" / split / "aachen" / f"{k}_leftImg8bit.png"
            pair(image, place / f"{k}_gtFine_labelTrainIds.png", k)
            pair(place / f"{k}_gtFine_color.png", place / f"{k}_gtFine_instanceIds.png")
    dataset = data.prepare(
        load(
            "image_suffix: _leftImg8bit",
            "mask_suffix: _gtFine_labelTrainIds",
            "train: {images: leftImg8bit/train, masks: gtFine/train}",
            "test: {images: leftImg8bit/val, masks: gtFine/val}",
        )
    )
    assert names(dataset)["test"] == ["leftImg8bit/val/aachen/0", "leftImg8bit/val/aachen/1"]
    np.testing.assert_array_equal(dataset.test.masks[1], ids(1))


def test_another_layout_is_prepared_again(tmp_path, load):
    for k in range(4):
        pair(tmp_path / "d" / "images" / f"{k}.png", tmp_path / "d" / "one" / f"{k}.png", k)
        pair(tmp_path / "d" / "images" / f"{k}.png", tmp_path / "d" / "two" / f"{k}.png", k)
        Image.fromarray(1 - ids(k).astype("uint8")).save(tmp_path / "d" / "two" / f"{k}.png")
        for folder in ("one", "two"):
            path = tmp_path / "d" / folder / f"{k}.png"
            with open(path, "ab") as file:
                file.write(bytes(1000 - path.stat().st_size))
            os.utime(path, (0, 0))
    first, second = (data.prepare(load(f"masks: {folder}")).train for folder in ("one", "two"))
    np.testing.assert_array_equal(first.masks, 1 - second.masks)


# === Links ===


def test_linked_folders_are_followed(tmp_path, load):
    for k in range(4):
        pair(tmp_path / "store" / "photos" / f"{k}.png", tmp_path / "store" / "labels" / f"{k}.png", k)
    (tmp_path / "d" / "images").mkdir(parents=True)
    (tmp_path / "d" / "images" / "day").symlink_to(tmp_path / "store" / "photos")
    (tmp_path / "d" / "masks").mkdir()
    (tmp_path / "d" / "masks" / "day").symlink_to(tmp_path / "store" / "labels")
    found = together(data.prepare(load()))
    assert found == [f"day/{k}" for k in range(4)]
    (tmp_path / "linked").symlink_to(tmp_path / "d")
    linked = load(text="data: {source: folder, data_dir: linked, size: [8, 12], folder: {%s}}")
    assert together(data.prepare(linked)) == found


def test_links_in_circles_end(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").touch()
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a" / "b")
    found = [path.relative_to(tmp_path / "a").as_posix() for path in files_below(tmp_path / "a")]
    assert found == ["again/file", "b/file"]


# === Messages ===

MISTAKES = {
    "train: {mask: m, images: a, masks: b}": ["data.folder.train.mask: unknown key; did you mean masks? (known here:"],
    "train: [train, trainannot]": ["data.folder.train: must be the name of a text file, or a mapping {images:"],
    "train: {images: train}, test: a.txt": ["data.folder.train.masks: is missing"],
    "train: {images: train, masks: trainannot}": ["give both train and test, or neither"],
    "validation: {images: val, masks: valannot}": ["validation requires train and test"],
    "mask_suffix: 3": ["data.folder.mask_suffix: must be text"],
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_wrong_layout_gets_one_message(load, text):
    with pytest.raises(InputError) as caught:
        load(text)
    message = str(caught.value)
    assert "mine.yaml:1: data.folder" in message
    assert all(part in message for part in MISTAKES[text]), message
    assert len(message.splitlines()) == 1, message


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["train: {images: train, masks: trainanot}", FOLDERS[2]], ["no such folder; did you mean trainannot?"]),
        (["train: train.txt", "test: test.txt"], ["train.txt, line 2: there is no file train/9.png in data.data_dir"]),
        ([FOLDERS[0], "test: {images: train, masks: trainannot}"], ["train/0 is in the folder of both train and test"]),
        (["mask_suffix: _mask", "images: train", "masks: train"], ["has no mask train/0_mask.png"]),
        (["image_suffix: _x", "images: train", "masks: trainannot"], ["holds no image", "expected train/NAME_x.jpg"]),
    ],
)
def test_what_is_missing_is_named(camvid, load, lines, expected):
    (camvid / "train.txt").write_text("train/0.png trainannot/0.png\ntrain/9.png trainannot/9.png\n")
    (camvid / "test.txt").write_text("test/0.png testannot/0.png\n")
    with pytest.raises(InputError) as caught:
        data.prepare(load(*lines))
    for part in expected:
        assert part in str(caught.value), str(caught.value)


# === Paths in a YAML file ===


def test_paths_are_relative_to_the_yaml_file(tmp_path, camvid, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "configs" / "mine.yaml"
    folder = f"{{classes: [ground, thing], {', '.join(FOLDERS)}}}"
    path.write_text(
        f"init_from: old.keras\nmodel: {{encoder: vgg16, weights: vgg.pth}}\n"
        f"data: {{source: folder, data_dir: ../d, cache_dir: ../cache, size: [8, 12], folder: {folder}}}\n"
    )
    child = tmp_path / "elsewhere" / "child.yaml"
    child.write_text("base: ../configs/mine.yaml\n")
    for start in (path, child):
        loaded = config.load(start)
        assert os.path.samefile(loaded.data.data_dir, camvid)
        assert os.path.normpath(loaded.init_from) == str(tmp_path / "configs" / "old.keras")
        assert os.path.normpath(loaded.model.weights_file) == str(tmp_path / "configs" / "vgg.pth")
    assert config.load(path, ["data.data_dir=d"]).data.data_dir.as_posix() == "d"  # the command line is somewhere else
    result = run_unet("check-data", "../configs/mine.yaml", cwd=tmp_path / "elsewhere")
    assert result.code == 0, result.err


def test_a_path_of_an_earlier_version_is_found_in_the_working_directory(tmp_path, monkeypatch, caplog):
    (tmp_path / "configs").mkdir()
    (tmp_path / "d").mkdir()
    (tmp_path / "configs" / "mine.yaml").write_text("data: {source: folder, data_dir: d}\n")
    monkeypatch.chdir(tmp_path)
    with caplog.at_level("WARNING", logger="unet"):
        assert config.load("configs/mine.yaml").data.data_dir.as_posix() == "d"
    assert "configs/mine.yaml:1: data.data_dir: d was found in the working directory" in caplog.text
