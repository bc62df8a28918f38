"""Colours of classes are far apart for every eye, can be chosen, and are explained by a legend."""

import json

import numpy as np
import pytest
from PIL import Image
from skimage.color import rgb2lab

from tests.helpers.commands import run_unet
from tests.helpers.images import save
from unet import config, figures
from unet.colours import CLASS_COLOURS, ERROR_COLOUR, IGNORE_COLOUR, chosen_colours, colour_table, hex_colours
from unet.errors import InputError
from unet.runs import RunInfo

pytestmark = pytest.mark.backend_free

# Machado, Oliveira and Fernandes 2009, severity 1.0, for linear RGB.
VISION = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def least_distance(colours, vision=None) -> float:
    """Least CIELAB distance between any two colours."""
    rgb = colour_table(colours)[: len(colours)] / 255
    if vision:
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        seen = np.clip(linear @ np.transpose(VISION[vision]), 0, 1)
        rgb = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = rgb2lab(rgb[None])[0]
    distances = np.linalg.norm(lab[:, None] - lab, axis=-1)
    return distances[~np.eye(len(lab), dtype=bool)].min()


def test_forty_colours_are_far_from_each_other_and_from_the_colours_with_another_meaning():
    assert len(CLASS_COLOURS) == 40
    assert least_distance([*CLASS_COLOURS, ERROR_COLOUR, IGNORE_COLOUR]) > 26
    assert least_distance([*CLASS_COLOURS, "#FFFFFF"]) > 17  # the paper of figures; yellow is the closest


@pytest.mark.parametrize("vision", VISION)
def test_the_first_eight_are_distinct_for_the_colour_blind(vision):
    assert least_distance(CLASS_COLOURS[:8], vision) > 16


def test_the_first_colours_are_those_of_earlier_versions():
    assert hex_colours(6) == ("#E69F00", "#0072B2", "#F0E442", "#009E73", "#CC79A7", "#56B4E9")
    assert len(hex_colours(255)) == 255


# === Chosen colours ===


@pytest.fixture
def street(tmp_path):
    path = tmp_path / "street.yaml"
    path.write_text(
        "data:\n  source: folder\n  data_dir: d\n  folder: {classes: [sky, road, car]}\n"
        '  colors: {car: "#00ff00", sky: [0, 114, 178]}\n'
    )
    return path


def test_colours_can_be_chosen_and_no_default_collides(street):
    loaded = config.load(street)
    info = RunInfo.of(loaded)
    assert info.colours == ("#0072B2", CLASS_COLOURS[3], "#00ff00")  # the default of road is taken
    assert chosen_colours(("a", "b"), {}) == hex_colours(2)
    street.with_name("again.yaml").write_text(loaded.to_yaml())
    assert config.load(street.with_name("again.yaml")).data == loaded.data


@pytest.mark.parametrize(
    ("colors", "expected"),
    [
        ("{cra: '#000000'}", "data.colors.cra: there is no class 'cra'; did you mean car? (classes: sky, road, car)"),
        ("{car: red}", 'data.colors.car: must be "#RRGGBB", in quotes, or [r, g, b] of values 0..255, received "red"'),
        ("{car: [1, 2, 300]}", "data.colors.car: must be"),
        ("[1]", "data.colors: must be"),
    ],
)
def test_a_wrong_colour_gets_one_message(street, colors, expected):
    with pytest.raises(InputError) as caught:
        config.load(street, [f"data.colors={colors}"])
    assert f"command line: {expected}" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


# === Legends ===


def test_a_legend_shows_the_classes_that_occur_below_the_picture():
    picture = np.random.default_rng(0).integers(0, 256, (60, 300, 3), "uint8")
    mask = np.zeros((60, 300), np.uint8)
    mask[:5] = 2
    mask[5:9] = 255
    table = colour_table(hex_colours(4))
    found = figures.with_legend(picture, mask, ("sky", "road", "car", "tree"), table)
    np.testing.assert_array_equal(found[:60, :300], picture)
    below = {tuple(colour) for colour in found[60:].reshape(-1, 3).tolist()}
    shown = [index for index in (0, 1, 2, 3, 255) if tuple(table[index].tolist()) in below]
    assert shown == [0, 2, 255]


@pytest.mark.parametrize("width", [5, 90, 4000])
def test_long_and_odd_names_fit(width):
    names = ["a" * 300, "line\nbreak", "\x1b[31m", *map(str, range(250))]
    mask = np.arange(253, dtype=np.uint8)
    found = figures.with_legend(np.zeros((4, width, 3), np.uint8), mask, names, colour_table(hex_colours(253)))
    assert width <= found.shape[1] <= max(width, 700)
    assert (found[4:, -3:] == 255).all()  # nothing is cut off


def test_check_data_draws_a_contact_sheet(tmp_path):
    root = tmp_path / "d"
    for k in range(30):
        ids = np.zeros((20, 30), np.uint8)
        ids[:4] = 1
        if k == 7:  # not among the images that are spread over the data
            ids[10:] = 2
        save(np.full((20, 30, 3), 200, np.uint8), root / "images" / f"{k:02}.png")
        save(ids, root / "masks" / f"{k:02}.png")
    path = tmp_path / "mine.yaml"
    path.write_text(
        "data: {source: folder, data_dir: d, folder: {classes: [sky, road, car]}, colors: {car: [1, 2, 3]}}\n"
    )
    code, out, err = run_unet("check-data", path, "--sheet", tmp_path / "new" / "sheet.png")
    assert code == 0, err
    assert f"contact sheet: {tmp_path}/new/sheet.png" in out
    pixels = np.asarray(Image.open(tmp_path / "new" / "sheet.png")).reshape(-1, 3)
    assert (pixels == (1, 2, 3)).all(1).any()  # contours and legend of the rare class
    code, _, err = run_unet("check-data", path, "--sheet", tmp_path / "sheet.pdf")
    assert code == 2
    assert "error: --sheet: must end in .png or .html" in err


def test_the_runs_of_earlier_versions_keep_their_colours():
    info = json.dumps(
        {"version": 1, "classes": list("abcdefgh"), "colours": ["#D55E00"] * 8, "ignore": 255, "channels": 3,
         "data_licence": None, "data": None}
    )  # fmt: skip
    from unet import records

    assert records.parse(info, RunInfo).colours == ("#D55E00",) * 8
