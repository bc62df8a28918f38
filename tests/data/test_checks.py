"""What ``unet check-data`` says: one line for each cause, what to do about it, and what the data hold."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from tests.helpers import browser
from tests.helpers.commands import run_unet
from unet import config, data
from unet.data import cache, checks
from unet.errors import InputError

pytestmark = pytest.mark.backend_free
SIZE = (10, 20)


@pytest.fixture
def make(tmp_path):
    """Write one pair for each mask, and a configuration with these lines in its section data.folder."""

    def make(masks, folder="classes: [ground, road, car]", ending=".png", **options):
        for kind in ("images", "masks"):
            (tmp_path / "d" / kind).mkdir(parents=True, exist_ok=True)
        for k, mask in enumerate(masks):
            mask = mask if isinstance(mask, Image.Image) else Image.fromarray(np.asarray(mask, "uint8"))
            noise = np.random.default_rng(k).integers(0, 256, (*mask.size[::-1], 3), "uint8")
            Image.fromarray(noise).save(tmp_path / "d" / "images" / f"{k}.png")
            mask.save(tmp_path / "d" / "masks" / f"{k}{ending}", **options)
        path = tmp_path / "mine.yaml"
        path.write_text(
            f"data: {{source: folder, data_dir: d, cache_dir: cache, size: [8, 8], folder: {{{folder}}}}}\n"
        )
        return path

    return make


def mask(*ids):
    """A mask of horizontal stripes."""
    return np.repeat(np.resize(ids, SIZE[0])[:, None], SIZE[1], axis=1)


def told(out, heading):
    return [line for line in out.splitlines() if line.startswith(f"{heading}: ")]


# === One cause, one line ===


def test_a_void_value_in_all_masks_is_one_line_with_the_key_that_ignores_it(make):
    path = make([mask(0, 1, 11), mask(0, 11), mask(1, 2, 11), mask(11, 0), mask(0, 1, 2)])
    result = run_unet("check-data", path)
    assert result.code == 2
    assert len(told(result.out, "error")) == 1
    line = told(result.out, "error")[0]
    assert "4 masks (" in line
    assert "each holds 11 (no class); allowed: 0 (ground), 1 (road), 2 (car), 255 (ignored)" in line
    assert "if 11 means ignored, set data.folder.ignore=11" in line
    with pytest.raises(InputError, match=r"4 masks \(.*data\.folder\.ignore=11"):
        data.prepare(config.load(path).data)
    result = run_unet("check-data", path, "data.folder.ignore=11")
    assert result.code == 0, result.out


def test_every_file_is_listed_if_asked_for(make):
    path = make([mask(0, 11)] * 5)
    lines = told(run_unet("check-data", path, "--all").out, "error")
    assert len(lines) == 5
    assert "holds the value 11 in 50.0% of its pixels" in lines[4]
    assert "masks/4.png" in lines[4]


def test_a_colour_of_no_class_is_one_line_with_the_key_that_ignores_it(make):
    colours = np.array([(0, 0, 0), (9, 9, 9), (255, 255, 255)], "uint8")
    path = make([colours[mask(0, 1, 2)] for _ in range(5)], "classes: {a: [0, 0, 0], b: [9, 9, 9]}")
    lines = told(run_unet("check-data", path).out, "error")
    assert len(lines) == 1
    assert "if [255, 255, 255] means ignored, set data.folder.ignore=[255,255,255]" in lines[0]
    assert run_unet("check-data", path, "data.folder.ignore=[255,255,255]").code == 0


def test_resized_masks_are_one_line(make):
    smooth = [Image.fromarray(mask(0, 0, 200).astype("uint8")).resize((33, 47 + k), 2) for k in range(6)]
    lines = told(run_unet("check-data", make(smooth, "classes: {a: 0, b: 200}")).out, "error")
    assert len(lines) == 1
    assert "more than 3 values that stand for no class" in lines[0]
    assert "to the nearest pixel, as PNG" in lines[0]


@pytest.mark.parametrize("folder", ["classes: {a: 0, b: 200}", "classes: {a: [0, 0, 0], b: [200, 0, 0]}"])
def test_jpeg_masks_are_called_that(make, folder):
    colour = "[" in folder
    masks = [np.array([(0, 0, 0), (200, 0, 0)])[mask(0, 1)] if colour else 200 * mask(0, 1)] * 5
    lines = told(run_unet("check-data", make(masks, folder, ".jpg", quality=30)).out, "error")
    assert len(lines) == 1
    assert "5 masks (" in lines[0]
    assert "each is a JPEG file" in lines[0]
    assert "save masks as PNG" in lines[0]


def test_jpeg_masks_whose_pixels_are_classes_by_chance_are_a_warning(make):
    result = run_unet("check-data", make([mask(1)] * 5, ending=".jpg"))
    assert result.code == 0
    assert sum("JPEG mask" in line for line in told(result.out, "warning")) == 1


def test_binary_masks_of_0_and_255_are_one_line_with_the_setting_that_reads_them(make):
    path = make([255 * mask(0, 1)] * 5, "classes: [background, object]")
    lines = told(run_unet("check-data", path).out, "error")
    assert len(lines) == 1
    setting = re.search(r"set (data\.folder\.classes)='(.*?)'", lines[0])
    assert setting.group(2) == "{background: 0, object: 255}"
    assert run_unet("check-data", path, "=".join(setting.groups())).code == 0


def test_missing_masks_are_one_line(make, tmp_path):
    path = make([mask(0, 1)] * 9)
    for k in range(5):
        (tmp_path / "d" / "masks" / f"{k}.png").unlink()
    lines = told(run_unet("check-data", path).out, "error")
    assert len(lines) == 1
    assert "5 images (" in lines[0]
    assert "each has no mask masks/NAME.png" in lines[0]


def test_a_few_problems_stay_as_they_are():
    few = [data.Problem("bad mask", str(k), f"holds {k}", cause="holds something") for k in range(3)]
    assert checks.grouped(few) == few
    different = [data.Problem("unreadable image", str(k), f"is broken at {k}") for k in range(9)]
    assert checks.grouped(different) == different


# === What the data hold ===


def test_good_data_are_described(make):
    masks = [mask(0, 0, 0, 1)[:8]] * 3 + [mask(0, 0, 2, 255)[:8, :12]]
    result = run_unet("check-data", make(masks, "classes: [ground, road, car], test_fraction: 0.25"))
    assert result.code == 0, result.err
    assert "images: train 3, validation 0, test 1" in result.out
    assert "image sizes: 20×8 (3), 12×8 (1)" in result.out
    assert "masks: PNG, grey values\n" in result.out
    rows = [re.findall(r"[^│┃]+", line) for line in result.out.splitlines() if line.startswith("│")]
    cells = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}
    counted = 3 * 160 + 96 - 24  # pixels that are not ignored
    assert cells == {
        "ground": [f"{(3 * 120 + 48) / counted:.2%}", "4"],
        "road": [f"{3 * 40 / counted:.2%}", "3"],
        "car": [f"{24 / counted:.2%}", "1"],
        "ignored, of all pixels": [f"{24 / (3 * 160 + 96):.2%}", "1"],
    }


@pytest.fixture
def sheet(make, tmp_path):
    """The contact sheet, as a page, of 5 images with a hostile class name, a rare class and a warning."""
    masks = [mask(0, 0, 0, 1), mask(0, 1), mask(0, 2, 255), mask(255), mask(0, 1)[:8, :12]]
    path = make(masks, "classes: ['<b>ground</b>', road, \"a&b\"]")
    result = run_unet("check-data", path, "--sheet", tmp_path / "new" / "sheet.html")
    assert result.code == 0, result.err
    assert f"contact sheet: {tmp_path}/new/sheet.html" in result.out
    return tmp_path / "new" / "sheet.html"


def test_the_sheet_is_a_page_with_all_that_was_found(sheet, tmp_path):
    page = sheet.read_text()
    for row in ("<b>ground", "a&b"):
        assert row not in page
    assert "&lt;b&gt;ground&lt;/b&gt;" in page
    counted = 200 + 200 + 140 + 96  # of the masks in turn, without ignored pixels
    road = 40 + 100 + 48
    assert f"road</td><td>{road / counted:.2%}</td>" in page
    assert "<tr><td>20×10</td><td>4</td></tr>\n<tr><td>12×8</td><td>1</td></tr>" in page
    assert "warning: empty mask" in page
    sources = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(source)))) for source in sources]
    assert sorted(picture.shape for picture in pictures) == [(8, 12, 3), *[(10, 20, 3)] * 4]
    assert not re.search(r'(src|href)="(?!data:)', page)


@browser.needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 375])
def test_the_sheet_in_a_browser(sheet, tmp_path, width):
    seen = browser.look(sheet, width, width == 375, tmp_path)
    assert seen["problems"] == seen["fetched"] == []
    assert seen["broken"] == 0
    assert len(seen["figures"]) == 5
    assert seen["page"][0] <= seen["page"][1]


def test_the_types_of_masks_are_counted(make, tmp_path):
    palette = Image.fromarray(mask(0, 1).astype("uint8"))
    palette.putpalette([0, 0, 0, 9, 9, 9])
    source = data.make_source(config.load(make([mask(0, 1), mask(1, 0), palette])).data)
    contents = checks.Contents(source.classes)
    cache.inspect(source, contents.add)
    assert contents.mask_types == {"PNG, grey values": 2, "PNG, palette": 1}
    assert contents.lines()[-1] == "masks: PNG, grey values (2), PNG, palette (1)"


def test_drawn_scenes_are_described_too():
    result = run_unet("check-data", "demo", "data.shapes={train: 8, test: 4}")
    assert result.code == 0, result.err
    assert "images: train 7, validation 1, test 4" in result.out
    assert "masks:" not in result.out
