"""Images at their own size: how they are stored, and the windows that training reads from them."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers import ROOT
from tests.helpers.images import save
from unet import config, data
from unet.data.batches import Batches
from unet.data.images import resize_image, resize_mask
from unet.data.sources import IGNORE, native_samples
from unet.data.windows import Windows, nth_pixel
from unet.errors import InputError, RunError

pytestmark = pytest.mark.backend_free

SIZES = {"a": (40, 60), "b": (9, 70), "c": (12, 7), "d": (33, 33)}
"""Height and width of the images of a folder: larger and smaller than a window of 16×20, along one axis and both."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of noise; their masks are of class 0 but for three pixels of class 1 in image ``a``."""
    root = tmp_path_factory.mktemp("sizes")
    for index, (name, size) in enumerate((SIZES | {"test": (8, 8)}).items()):
        rng = np.random.default_rng(index)
        mask = np.zeros(size, np.uint8)
        if name == "a":
            mask[[3, 30, 39], [50, 11, 59]] = 1
        for kind, pixels in (("images", rng.integers(1, 256, (*size, 3), "uint8")), ("masks", mask)):
            save(pixels, root / kind / f"{name}.png")
    (root / "all.txt").write_text("\n".join(SIZES))
    (root / "test.txt").write_text("test")
    return root


@pytest.fixture
def load(folder, tmp_path):
    """Settings of that folder."""

    def loaded(*overrides):
        path = tmp_path / "s.yaml"
        path.write_text(
            f"data: {{source: folder, data_dir: {folder}, cache_dir: {tmp_path / 'cache'}, size: [16, 20], "
            "sampling: crop, validation: 0, folder: {classes: [ground, rare], train: all.txt, test: test.txt}}\n"
        )
        return config.load(path, overrides).data

    return loaded


@pytest.fixture
def crops(load):
    return data.prepare(load()).train


def test_every_image_is_stored_as_it_is(load, crops):
    samples = list(native_samples(data.make_source(load()), "train"))
    assert crops.names == [sample.name for sample in samples] == list(SIZES)
    for row, sample in enumerate(samples):
        image, mask = crops.whole(row)
        np.testing.assert_array_equal(image, sample.image)
        np.testing.assert_array_equal(mask, sample.mask)
    assert crops.pixels[:2].tolist() == [sum(h * w for h, w in SIZES.values()) - 3, 3]


def test_a_scale_resizes_every_image_by_the_same_factor(load):
    settings = load("data.scale=0.5")
    halves = data.prepare(settings).train
    for row, sample in enumerate(native_samples(data.make_source(settings), "train")):
        size = tuple(round(side / 2) for side in sample.mask.shape)
        image, mask = halves.whole(row)
        np.testing.assert_array_equal(image, resize_image(sample.image, size))
        np.testing.assert_array_equal(mask, resize_mask(sample.mask, size))


def test_windows_are_slices_of_the_image_and_cover_all_of_it(crops):
    """A window of noise occurs at one place only; where the image is smaller, all of it is in the window."""
    found = {name: set() for name in SIZES}
    for epoch in range(60):
        images, masks = crops.draw(np.arange(4), (5, epoch))
        for row, (name, (height, width)) in enumerate(SIZES.items()):
            image, mask = crops.whole(row)
            rows, columns = np.nonzero(masks[row] != IGNORE)
            top, left = rows.min(), columns.min()
            shape = rows.max() + 1 - top, columns.max() + 1 - left
            assert shape == (min(height, 16), min(width, 20))
            inside = np.s_[top : top + shape[0], left : left + shape[1]]
            outside = np.ones((16, 20), bool)
            outside[inside] = False
            assert (images[row][outside] == 0).all()
            assert (masks[row][outside] == IGNORE).all()
            corner = np.argwhere((image == images[row][top, left]).all(-1))
            (y, x) = next(
                (y, x)
                for y, x in corner
                if np.array_equal(image[y : y + shape[0], x : x + shape[1]], images[row][inside])
            )
            np.testing.assert_array_equal(masks[row][inside], mask[y : y + shape[0], x : x + shape[1]])
            found[name].add((y - top, x - left))
    starts = {name: np.array(sorted(places)) for name, places in found.items()}
    limits = {"a": [(0, 24), (0, 40)], "b": [(-7, 0), (0, 50)], "c": [(-4, 0), (-13, 0)], "d": [(0, 17), (0, 13)]}
    for name, bounds in limits.items():
        for axis, (low, high) in enumerate(bounds):
            places = starts[name][:, axis]
            assert low <= places.min() <= low + 4
            assert high - 4 <= places.max() <= high


def test_windows_depend_on_seed_epoch_and_number_only(crops):
    def of(samples, epoch):
        return crops.draw(np.array(samples), epoch)[0]

    np.testing.assert_array_equal(of([3, 0], (1, 2)), of([0, 3], (1, 2))[::-1])
    for other in ((1, 3), (2, 2)):
        assert (of([0], (1, 2)) != of([0], other)).any()
    np.testing.assert_array_equal(crops.read([0, 3])[0], crops.read([0, 3])[0])


def test_an_epoch_has_the_configured_number_of_windows_of_every_image(load):
    crops = data.prepare(load("data.windows=3")).train
    assert (len(crops), crops.samples) == (4, 12)
    batches = Batches(crops, 4, shuffle_seed=0)
    assert len(batches) == 3
    stacked = np.concatenate([batches[index]["image"] for index in range(3)])
    assert len(np.unique(stacked.reshape(12, -1), axis=0)) == 12
    every = crops.draw(np.arange(12), (0, 0))[0]
    assert {image.tobytes() for image in stacked} == {image.tobytes() for image in every}
    colours = [{tuple(pixel) for pixel in crops.whole(row)[0].reshape(-1, 3)} for row in range(4)]
    for index, image in enumerate(every):
        assert tuple(image[image.any(-1)][0]) in colours[index // 3]
    validated = Batches(crops, 5)
    assert [len(validated[index]["mask"]) for index in range(3)] == [5, 5, 2]
    with pytest.raises(InputError, match=r"batch_size: 13 is more than the 12 training windows; .* at most 12"):
        Batches(crops, 13, shuffle_seed=0)


def test_windows_of_a_rare_class_are_as_frequent_as_configured(load):
    crops = data.prepare(load("data.sampling_weights={rare: 0.6, ground: 0.1}")).train
    masks = np.concatenate([crops.draw(np.array([0]), (0, epoch))[1] for epoch in range(400)])
    centred = (masks[:, 8, 10] == 1).sum()  # two of the three pixels are too near to the border to be at the centre
    assert 400 * 0.6 / 3 - 32 < centred < 400 * 0.6 / 3 + 32  # the standard deviation is 8
    assert (masks == 1).any((1, 2)).sum() > 400 * 0.6 - 40
    assert not (crops.draw(np.array([1, 2, 3]), (0, 0))[1] == 1).any()
    same = data.prepare(load()).train
    np.testing.assert_array_equal(crops.read(slice(4))[1], same.read(slice(4))[1])  # validation is not changed


def test_the_centre_is_as_near_to_the_pixel_as_the_image_allows():
    windows = Windows((16, 20))
    assert windows.around((40, 60), (20, 30)) == (12, 20)
    assert windows.around((40, 60), (3, 59)) == (0, 40)
    assert windows.around((9, 70), (8, 30)) == (0, 20)
    assert windows.around((9, 7), (0, 6)) == (-7, -4)
    mask = np.zeros((600, 3), np.uint8)
    mask[[2, 299, 599], [1, 0, 2]] = 1
    assert [nth_pixel(mask, 1, n) for n in range(3)] == [(2, 1), (299, 0), (599, 2)]


def test_a_part_of_the_training_images_stays_on_the_disk(load, crops):
    half = data.prepare(load("data.train_fraction=0.5")).train
    assert isinstance(half.images, np.memmap)
    assert len(half) == half.samples == 2
    for row, name in enumerate(half.names):
        whole = crops.names.index(name)
        np.testing.assert_array_equal(half.whole(row)[0], crops.whole(whole)[0])
        assert half.digests[row] == crops.digests[whole]
    assert half.pixels.sum() == sum(np.prod(SIZES[name]) for name in half.names)


SPARSE = """
import resource, sys
from pathlib import Path
import numpy as np
from unet.data.batches import Batches
from unet.data.cache import Crops, _flat
from unet.data.windows import Windows

resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30))
folder, sizes = Path(sys.argv[1]), np.array([[20_000, 26_000]] * 10)
starts, pixels = np.cumsum([0, *sizes.prod(1)[:-1]]), int(sizes.prod(1).sum())
for name, channels in (("images", 3), ("masks", 1)):
    with open(folder / name, "wb") as file:
        file.truncate(channels * pixels)
counts = [{0: int(size.prod())} for size in sizes]
images, masks = (_flat(folder / name, "uint8") for name in ("images", "masks"))
windows = Windows((256, 256), 51, {0: 0.01})
split = Crops(images, masks, list("abcdefghij"), sizes=sizes, starts=starts, counts=counts, windows=windows)
batches = Batches(split, 16, shuffle_seed=0)
for index in range(len(batches)):
    assert batches[index]["image"].shape == (16, 256, 256, 3)
anonymous = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("RssAnon"))
print(len(batches), (images.nbytes + masks.nbytes) / 1e9, int(anonymous) / 1024)
"""
"""Reads windows of sparse files; prints batches, GB of the files, and MiB of memory of its own."""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux")
def test_images_may_be_larger_than_memory(tmp_path):
    command = [sys.executable, "-c", SPARSE, tmp_path]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    batches, gigabytes, own = map(float, done.stdout.split())
    assert (batches, gigabytes) == (31, 20.8)
    assert own < 1024


def test_one_cache_serves_every_size_of_windows_and_no_resized_arrays(load, tmp_path):
    data.prepare(load())
    data.prepare(load("data.size=8", "data.windows=2"))
    assert len(list((tmp_path / "cache").iterdir())) == 1
    data.prepare(load("data.scale=0.5"))
    data.prepare(load("data.sampling=resize"))
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_resized_arrays_are_where_earlier_versions_put_them(load, tmp_path):
    settings = load("data.sampling=resize")
    data.prepare(settings)
    key = {"format": 1, "size": [16, 20]} | data.make_source(settings).key()
    expected = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [f"folder-16x20-{expected}"]


def shorten(file):
    os.truncate(file, file.stat().st_size - 1)


def flip(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [shorten, flip, os.remove])
@pytest.mark.parametrize("kind", ["images", "masks"])
def test_damaged_pixels_are_prepared_again(load, tmp_path, caplog, damage, kind):
    whole = [data.prepare(load()).train.whole(row) for row in range(4)]
    (entry,) = (tmp_path / "cache").iterdir()
    damage(entry / f"train_{kind}.raw")
    again = data.prepare(load(), verify=True).train
    assert "preparing the data again" in caplog.text
    for row, pair in enumerate(whole):
        for one, other in zip(pair, again.whole(row), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.skipif(os.name != "posix", reason="a mapped file cannot be truncated")
def test_pixels_that_are_truncated_while_they_are_in_use_are_reported(load, crops, tmp_path):
    (entry,) = (tmp_path / "cache").iterdir()
    os.truncate(entry / "train_masks.raw", 100)
    with pytest.raises(RunError, match=r"train_masks\.raw: has become shorter while it was in use"):
        crops.draw(np.array([0]), (0, 0))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.sampling=resize", "data.scale=0.5"], "data.scale: needs data.sampling: crop"),
        (["data.sampling=resize", "data.windows=2"], "data.windows: needs data.sampling: crop"),
        (["data.sampling_weights={rare: 0.7, ground: 0.7}"], "sampling_weights: are probabilities and must sum to 1"),
        (["data.sampling_weights={rar: 0.7}"], "data.sampling_weights.rar: there is no class 'rar'; did you mean rare"),
        (["data.sampling=crops"], 'data.sampling: "crops" is not one of resize, crop; did you mean crop'),
        (["data.scale=0"], "data.scale: must be ≥ 0.01"),
    ],
)
def test_settings_that_contradict_each_other_are_one_message(load, overrides, message):
    with pytest.raises(InputError) as error:
        load(*overrides)
    assert message in str(error.value)
