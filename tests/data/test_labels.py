"""Several masks per image: folders by label, sets of labels, and what is refused."""

import numpy as np
import pytest

from tests.helpers.commands import run_unet
from tests.helpers.images import save
from unet import config, data, figures
from unet.config import FolderConfig
from unet.data.balance import class_pixels, describe, inverse_log_weights
from unet.data.cache import Split
from unet.data.checks import Contents, Examples
from unet.data.heads import CLASSES, LABELS
from unet.data.sources import IGNORE, Problem, Sample
from unet.errors import InputError
from unet.settings import Mistakes

pytestmark = pytest.mark.backend_free
SIZE = (6, 8)


@pytest.fixture
def folder(tmp_path):
    """Ten images; roofs are 255 on the left half, solar panels 1 in the top rows."""
    root = tmp_path / "mine"
    for k in range(10):
        save(np.random.default_rng(k).integers(0, 256, (*SIZE, 3)).astype("uint8"), root / "images" / f"{k}.jpg")
        roof, solar = np.zeros(SIZE, "uint8"), np.zeros(SIZE, "uint8")
        roof[:, :4], solar[:2] = 255, 1
        save(roof, root / "roof" / f"{k}.png")
        save(solar, root / "solar" / f"{k}.png")
    return root


@pytest.fixture
def load(tmp_path, folder):
    """Configuration of the folder, with overrides."""

    def load(*overrides):
        path = tmp_path / "town.yaml"
        path.write_text(
            f"data: {{source: folder, data_dir: mine, size: {list(SIZE)}, cache_dir: cache}}\n"
            "model: {width: 2, depth: 1}\n"
        )
        masks = "data.folder.masks={roof: roof, solar: solar}"
        return config.load(path, [masks, *overrides] if "masks" not in "".join(overrides) else overrides)

    return load


def found(loaded):
    """Samples by name, and problems."""
    items = list(data.make_source(loaded.data).samples())
    return {i.name: i for i in items if isinstance(i, Sample)}, [i for i in items if isinstance(i, Problem)]


def test_a_pixel_is_the_set_of_its_labels(load):
    samples, problems = found(load())
    expected = np.zeros(SIZE, "uint8")
    expected[:, :4] += 1
    expected[:2] += 2
    assert (len(samples), problems) == (10, [])
    np.testing.assert_array_equal(samples["4"].mask, expected)
    assert sorted(set(expected.ravel())) == [0, 1, 2, 3]
    dataset = data.prepare(load().data)
    assert dataset.classes == ("roof", "solar")
    np.testing.assert_array_equal(dataset.train.masks[0], expected)


def test_a_label_without_a_mask_is_absent_if_another_has_one(load, folder):
    before = data.make_source(load().data).key()
    (folder / "solar" / "4.png").unlink()
    (folder / "solar" / "5.png").unlink()
    (folder / "roof" / "5.png").unlink()
    samples, problems = found(load())
    assert set(np.unique(samples["4"].mask)) == {0, 1}
    assert "5" not in samples
    (problem,) = problems
    assert problem.message == "has no mask roof/5.png or solar/5.png"
    assert data.make_source(load().data).key() != before


def test_the_order_of_the_labels_is_part_of_the_cache_key(load):
    swapped = load("data.folder.masks={solar: solar, roof: roof}")
    assert data.make_source(swapped.data).key() != data.make_source(load().data).key()


def test_ignored_pixels_of_any_label_are_ignored(load, folder):
    mask = np.zeros(SIZE, "uint8")
    mask[3] = 128
    save(mask, folder / "solar" / "4.png")
    samples, _ = found(load("data.folder.ignore=128"))
    assert (samples["4"].mask[3] == IGNORE).all()
    assert (samples["4"].mask[2, :4] == 1).all()


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (128, "holds the value 128 in 4.2% of its pixels; allowed: 0 (not set), 255 (set), 255 (set)"),
        ((1, 255), "holds both 1 and 255; the mask of a label holds 0, and either 1 or 255 where it is set"),
        ("RGB", "has pixels of the kind RGB; the mask of a label has one channel of 0, and 1 or 255 where it is set"),
        ("size", "is 3×6 pixels, its image is 8×6: they must be the same size"),
    ],
)
def test_what_is_no_mask_of_a_label_gets_one_message(load, folder, value, told):
    mask = np.zeros(SIZE, "uint8")
    if value == "RGB":
        mask = np.zeros((*SIZE, 3), "uint8")
    elif value == "size":
        mask = mask[:, :3]
    else:
        mask[0, :2] = value
    save(mask, folder / "solar" / "4.png")
    samples, problems = found(load())
    assert "4" not in samples
    (problem,) = problems
    assert problem.where == str(folder / "solar" / "4.png")
    assert problem.message.startswith(told.replace(", 255 (set), 255 (set)", ", 255 (set)"))


def test_lists_name_images(load, folder):
    (folder / "train.txt").write_text("1\n2\n3.jpg\n")
    (folder / "test.txt").write_text("4\nimages/5.jpg roof/5.png\n")
    loaded = load("data.folder.train=train.txt", "data.folder.test=test.txt")
    samples, (problem,) = found(loaded)
    assert {name: sample.split for name, sample in samples.items()}["4"] == "test"
    assert problem.message == "names a mask; if each label has a folder of masks, list the names of images only"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("data.folder.classes=[a, b]", "data.folder.classes: cannot be given if each label has a folder of masks"),
        ("model.head=softmax", "model.head: softmax gives every pixel one class; for several labels leave it out"),
        ("model.head=sigmoid", "model.head: sigmoid gives every pixel one class"),
        ("data.folder.masks={}", "data.folder.masks: must name 1 to 7 labels, received 0"),
        ("data.folder.masks={a: a, b: b, c: c, d: d, e: e, f: f, g: g, h: h}", "must name 1 to 7 labels, received 8"),
        ("data.folder.masks={a: a.json}", "data.folder.masks: must be a folder of masks for each label"),
        ("data.folder.masks=[a]", "data.folder.masks: must be the name of a folder or file, or a mapping from labels"),
        ("loss.class_weights={rof: 2}", "loss.class_weights.rof: there is no class 'rof'; did you mean roof?"),
    ],
)
def test_other_settings_are_refused(load, override, told):
    with pytest.raises(InputError) as error:
        load(override)
    assert told in str(error.value)


def test_windows_have_no_chances_of_labels(load):
    with pytest.raises(InputError, match="sampling_weights: needs one class for every pixel"):
        load("data.sampling=crop", "data.sampling_weights={roof: 0.5}")
    assert found(load("data.sampling=crop"))[1] == []


def test_the_head_of_labels_needs_labels():
    with pytest.raises(InputError, match=r"model.head: labels needs a folder of masks for each label, as data.folder"):
        config.load("demo", ["model.head=labels"])


def test_the_head_follows_from_the_masks_and_is_recorded(load):
    loaded = load()
    assert loaded.model.head == "labels"
    assert "head: labels" in loaded.to_yaml()
    with pytest.raises(Mistakes):
        FolderConfig.checked(masks={"a": "a"}, train={"images": "x", "masks": "y"}, test={"images": "x", "masks": "y"})


def test_shares_and_weights_are_those_of_each_label():
    masks = np.array([[[0, 1, 3, 3]], [[2, 3, IGNORE, IGNORE]]], "uint8")
    split = Split(np.zeros((2, 1, 4, 3), "uint8"), masks, ["a", "b"])
    pixels = class_pixels(split, 2, LABELS)
    assert pixels == [4, 4, 2]
    np.testing.assert_allclose(inverse_log_weights(pixels[:-1], 6), 1 / np.log(1.02 + np.array([4, 4]) / 6))
    assert describe(pixels, ("a", "b"), False, 6)[0].startswith("class balance: b 66.67%, a 66.67%; 25.0%")
    contents, examples = Contents(("a", "b"), LABELS), Examples(2, 1, LABELS)
    for index, mask in enumerate(masks):
        sample = Sample(str(index), "train", np.zeros((1, 4, 3), "uint8"), mask, "PNG", True)
        contents.add(sample)
        examples.add(sample)
    assert contents.rows() == [
        *(("a", "66.67%", "2"), ("b", "66.67%", "2")),
        ("ignored, of all pixels", "25.00%", "1"),
    ]
    assert [sample.name for sample in examples.chosen()] == ["0"]


def test_check_data_prints_labels_and_draws_them(load, folder, tmp_path):
    load()
    arguments = [tmp_path / "town.yaml", "data.folder.masks={roof: roof, solar: solar}"]
    for ending in ("png", "html"):
        done = run_unet("check-data", *arguments, "--sheet", tmp_path / f"sheet.{ending}")
        assert done.code == 0, done.err
        assert (tmp_path / f"sheet.{ending}").stat().st_size > 1000
    assert "50.00%" in done.out
    assert "33.33%" in done.out
    assert "10 pairs read" in done.out


def test_colours_of_sets_are_means_and_pixels_without_a_label_keep_theirs(rng):
    table = LABELS.table(["#FF0000", "#0000FF"])
    assert table[[0, 1, 2, 3, IGNORE]].tolist() == [
        *([255, 255, 255], [255, 0, 0], [0, 0, 255], [128, 0, 128], [176, 176, 176])
    ]
    photo = rng.integers(0, 256, (9, 9, 3)).astype("uint8")
    mask = np.zeros((9, 9), "uint8")
    mask[:, 6:] = 3
    picture = figures.overlay(photo, mask, table, head=LABELS)
    np.testing.assert_array_equal(picture[:, :6], photo[:, :6])
    np.testing.assert_allclose(picture[:, 7:], (photo[:, 7:] + [128.0, 0, 128]) / 2, atol=1)


def test_masks_follow_from_logits(rng):
    logits = rng.normal(size=(4, 5, 3)).astype("float32")
    np.testing.assert_array_equal(LABELS.mask(logits), (logits > 0) @ [1, 2, 4])
    np.testing.assert_array_equal(CLASSES.mask(logits), logits.argmax(-1))
    np.testing.assert_allclose(LABELS.logits(LABELS.probabilities(logits)), logits, atol=1e-4)
    other = logits.copy()
    other[0, 0] = [-0.5, 2.0, -0.25]
    gap = LABELS.gap(logits, LABELS.mask(other))
    flips = (logits[0, 0] > 0) != (other[0, 0] > 0)
    assert gap[0, 0] == np.abs(logits[0, 0])[flips].max(initial=0)
    assert gap.ravel()[1:].max() == 0


def test_every_set_of_labels_has_a_name():
    assert LABELS.names(("roof", "solar")) == ["no label", "roof", "solar", "roof + solar"]
