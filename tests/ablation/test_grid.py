"""Grids: the cells that follow from a file, their names, and the messages about mistakes."""

import pytest

from tests.helpers import ROOT
from unet import config
from unet.ablation.plan import grid
from unet.ablation.plan.labels import label_configs
from unet.errors import InputError
from unet.model import from_config

pytestmark = pytest.mark.backend_free
SHIPPED = sorted((ROOT / "configs" / "ablation").glob("*.yaml"))


@pytest.fixture
def write(tmp_path):
    """Write a grid and the configuration it is based on; return the path of the grid."""
    (tmp_path / "base.yaml").write_text("data: {source: shapes, size: 64}\ntraining:\n  epochs: 7\n")

    def write(text, base="base: base.yaml\n"):
        path = tmp_path / "grid.yaml"
        path.write_text(base + text, encoding="utf-8")
        return path

    return write


def names(loaded):
    return [cell.config.name for cell in loaded.cells]


# === Cells ===


@pytest.mark.parametrize("first", ["seed", "model.upsampler"])
def test_every_variant_has_its_first_seed_before_any_has_its_second(write, first):
    axes = {"seed": "seed: [3, 1]", "model.upsampler": "model.upsampler: [nearest, carafe, fade]"}
    lines = [axes.pop(first), *axes.values()]
    loaded = grid.load(write("vary:\n" + "".join(f"  {line}\n" for line in lines)))
    assert [(cell.variant, cell.seed) for cell in loaded.cells] == [
        *(("nearest", 3), ("carafe", 3), ("fade", 3)),
        *(("nearest", 1), ("carafe", 1), ("fade", 1)),
    ]
    assert loaded.variants == ("nearest", "carafe", "fade")
    assert loaded.seeds == (3, 1)
    assert [cell.config.model.upsampler.name for cell in loaded.cells] == ["nearest", "carafe", "fade"] * 2
    assert [cell.config.seed for cell in loaded.cells] == [3] * 3 + [1] * 3
    assert names(loaded)[:4] == ["nearest-seed3", "carafe-seed3", "fade-seed3", "nearest-seed1"]


def test_cells_differ_in_what_varies_and_in_nothing_else(write, tmp_path):
    loaded = grid.load(write("set: {training.epochs: 2}\nvary: {model.upsampler: [nearest, carafe], seed: [0, 1]}\n"))
    expected = config.load(tmp_path / "base.yaml", ["training.epochs=2"]).model_dump()
    for cell in loaded.cells:
        found = cell.config.model_dump()
        assert found.pop("name") == f"{cell.variant}-seed{cell.seed}"
        assert found.pop("seed") == cell.seed
        assert found["model"].pop("upsampler")["name"] == cell.variant
        rest = {key: value for key, value in expected.items() if key not in ("name", "seed")}
        rest["model"] = {key: value for key, value in rest["model"].items() if key != "upsampler"}
        assert found == rest


@pytest.mark.parametrize(
    ("vary", "labels", "first_runs"),
    [
        ("{model.upsampler: [nearest, carafe]}", ["nearest", "carafe"], ["nearest-seed0", "carafe-seed0"]),
        (
            "{model.upsampler: [conv_transpose, {name: conv_transpose, kernel_size: 4}]}",
            ["conv_transpose", "conv_transpose kernel_size=4"],
            ["conv_transpose-seed0", "conv_transpose-kernel_size-4-seed0"],
        ),
        (
            "{model.upsampler: [{name: bicubic, a: -0.5}, {name: bicubic, align_corners: true, a: -0.75}]}",
            ["bicubic a=-0.5", "bicubic align_corners=true a=-0.75"],
            ["bicubic-a-0.5-seed0", "bicubic-align_corners-true-a-0.75-seed0"],
        ),
        (
            "{data.size: [32, [32, 48]]}",
            ["data.size=32", "data.size=32×48"],
            ["data.size-32-seed0", "data.size-32-48-seed0"],
        ),
        (
            "{model.upsampler: [nearest, carafe], data.size: [32, 64]}",
            ["nearest, data.size=32", "nearest, data.size=64", "carafe, data.size=32", "carafe, data.size=64"],
            ["nearest-data.size-32-seed0", "nearest-data.size-64-seed0"],
        ),
        (
            "{loss.dice: [0.0, 1.0], model.depth: [1], model.upsampler: [fade, sapa]}",  # one value tells nothing apart
            ["fade, loss.dice=0.0", "sapa, loss.dice=0.0", "fade, loss.dice=1.0", "sapa, loss.dice=1.0"],
            ["fade-loss.dice-0.0-seed0"],
        ),
        (
            "{model.widths: [[4, 8, 12, 16, 20], null]}",
            ["model.widths=4×8×12×16×20", "model.widths=null"],
            ["model.widths-4-8-12-16-20-seed0", "model.widths-null-seed0"],
        ),
        ("{training.jit: [true, false]}", ["training.jit=true", "training.jit=false"], ["training.jit-true-seed0"]),
    ],
)
def test_labels_and_run_names_say_what_distinguishes_a_cell(write, vary, labels, first_runs):
    loaded = grid.load(write(f"vary: {vary}\n"))
    assert list(loaded.variants) == labels
    assert names(loaded)[: len(first_runs)] == first_runs
    for cell in loaded.cells:  # the pattern of Config.name, which model_copy does not check
        assert config.Config.model_validate({"name": cell.config.name}).name == cell.config.name


def test_an_axis_that_goes_with_the_upsampler_is_not_in_the_label(write):
    """Where every upsampler has but one setting of the rest, its name tells the cells apart."""
    configs = [
        config.load(write("", base=""), [f"model.upsampler={name}", f"model.width={width}", f"seed={seed}"])
        for name, width, seed in (("nearest", 4, 0), ("carafe", 8, 0), ("nearest", 4, 1))
    ]
    assert label_configs(configs) == ["nearest", "carafe", "nearest"]
    other = config.load(write("", base=""), ["model.upsampler=nearest", "model.width=5"])
    assert label_configs([*configs, other])[-1] == "nearest, model.width=5"


def test_set_takes_dotted_keys_and_sections(write):
    text = "set:\n  training: {batch_size: 4}\n  training.epochs: 3\n  data: {shapes: {train: 9}}\n"
    loaded = grid.load(write(text + "vary: {model.upsampler: [nearest, carafe]}\n"))
    for cell in loaded.cells:
        assert (cell.config.training.batch_size, cell.config.training.epochs) == (4, 3)
        assert (cell.config.data.shapes.train, cell.config.data.size) == (9, (64, 64))


def test_the_order_of_classes_stays(write):
    """Ids follow the order in the file: sorting the names would exchange classes."""
    text = "set: {data: {folder: {classes: {sky: 3, ground: 1}}}}\nvary: {model.upsampler: [nearest, carafe]}\n"
    assert list(grid.load(write(text)).cells[0].config.data.folder.classes) == ["sky", "ground"]


def test_overrides_change_the_grid_or_every_cell(write):
    text = "set: {training.epochs: 2}\nvary: {model.upsampler: [nearest, carafe], seed: [0, 1]}\nbaseline: carafe\n"
    path = write(text)
    assert (grid.load(path).name, grid.load(path).baseline) == ("grid", "carafe")
    changes = ["vary.seed=[5]", "vary.model.upsampler=[fade, sapa]", "name=short", "baseline=sapa"]
    loaded = grid.load(path, [*changes, "training.epochs=9", "data={size: 16}"])
    assert (loaded.name, loaded.baseline) == ("short", "sapa")
    assert names(loaded) == ["fade-seed5", "sapa-seed5"]
    assert {cell.config.training.epochs for cell in loaded.cells} == {9}
    assert {cell.config.data.size for cell in loaded.cells} == {(16, 16)}
    loaded = grid.load(path, ["vary.loss.dice=[0.0, 0.5]", "baseline=carafe, loss.dice=0.0"])
    assert loaded.variants[1] == "nearest, loss.dice=0.5"
    assert loaded.baseline == loaded.variants[2]


def test_the_baseline_is_the_first_variant_unless_it_is_named(write):
    assert grid.load(write("vary: {model.upsampler: [fade, nearest]}\n")).baseline == "fade"


def test_base_is_relative_to_the_file_and_on_the_command_line_to_the_directory(write, tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "grid.yaml").write_text("base: ../base.yaml\nvary: {model.upsampler: [nearest, carafe]}\n")
    assert grid.load(tmp_path / "sub" / "grid.yaml").cells[0].config.training.epochs == 7
    (tmp_path / "other.yaml").write_text("training: {epochs: 8}\n")
    monkeypatch.chdir(tmp_path)
    assert grid.load("sub/grid.yaml", ["base=other.yaml"]).cells[0].config.training.epochs == 8


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_grids_load(path):
    loaded = grid.load(path)
    assert loaded.name == path.stem
    assert len(loaded.cells) == len(loaded.variants) * len(loaded.seeds)
    assert len(set(names(loaded))) == len(loaded.cells)
    assert loaded.baseline in loaded.variants


def test_a_shipped_grid_is_found_by_its_name_and_its_base_too(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert grid.load("upsamplers_cpu") == grid.load(ROOT / "configs" / "ablation" / "upsamplers_cpu.yaml")
    assert grid.load(write(UPSAMPLERS_VARY, "base: debug/overfit\n")).cells[0].config.training.epochs > 0


def test_the_shipped_grid_has_all_thirteen_upsamplers_and_five_seeds():
    loaded = grid.load(ROOT / "configs" / "ablation" / "upsamplers.yaml")
    assert len({cell.config.model.upsampler.name for cell in loaded.cells}) >= 13
    assert loaded.seeds == (0, 1, 2, 3, 4)


# === Mistakes: text after "base: base.yaml", and what the message must hold. Line 1 is that of base. ===

UPSAMPLERS_VARY = "vary: {model.upsampler: [nearest, carafe]}\n"
BROKEN = {
    "unknown key": (
        "vray: {seed: [0]}\n",
        "grid.yaml:2: vray: unknown key; did you mean vary? (known here: name, base,",
    ),
    "key that is no text": ("7: 3\n" + UPSAMPLERS_VARY, "grid.yaml:2: 7: unknown key"),
    "vary is a list": ("vary: [seed]\n", 'grid.yaml:2: vary: must be a mapping, received ["seed"]'),
    "set is a number": ("set: 3\n" + UPSAMPLERS_VARY, "grid.yaml:2: set: must be a mapping, received 3"),
    "no list": (
        "vary:\n  model.upsampler: [nearest, fade]\n  seed: 3\n",
        "grid.yaml:4: vary.seed: must be a list of values, received 3",
    ),
    "a section to vary": (
        "vary:\n  model: {upsampler: [nearest]}\n",
        'grid.yaml:3: vary.model: must be a list of values, received {"upsampler": ["nearest"]}',
    ),
    "a date": ("vary: {seed: 2020-01-02}\n", 'grid.yaml:2: vary.seed: must be a list of values, received "2020-01-02"'),
    "a key of vary that is no text": ("vary:\n  3: [1, 2]\n", "grid.yaml:3: 3: unknown key"),
    "empty list": ("vary: {model.upsampler: []}\n", "grid.yaml:2: vary.model.upsampler: must be a list of values"),
    "same value twice": (
        "vary: {model.upsampler: [nearest, fade], seed: [1, 1]}\n",
        "grid.yaml:2: vary.seed: duplicate value",
    ),
    "same value in another order": (
        "vary:\n  model.upsampler: [{name: bicubic, a: -0.5}, {a: -0.5, name: bicubic}]\n",
        "grid.yaml:3: vary.model.upsampler: duplicate value",
    ),
    "two spellings of one value": (
        "vary:\n  model.upsampler: [nearest, {name: nearest}]\n",
        "grid.yaml:2: vary: several cells have the same configuration: nearest-seed0",
    ),
    "nothing varies": (
        "set: {seed: 1}\n",
        "grid.yaml: vary: nothing to compare; list values under vary.model.upsampler",
    ),
    "only seeds vary": ("\nvary: {seed: [0, 1]}\n", "grid.yaml:3: vary: nothing to compare"),
    "only names vary": ("vary: {name: [a, b]}\n", "grid.yaml:2: vary: several cells have the same configuration"),
    "set of what varies": (
        "set:\n  model: {upsampler: fade}\n" + UPSAMPLERS_VARY,
        "grid.yaml:3: model.upsampler: already varied by vary.model.upsampler; list its values there",
    ),
    "unknown baseline": (
        UPSAMPLERS_VARY + "baseline: nearset\n",
        'grid.yaml:3: baseline: "nearset" is not one of nearest, carafe; did you mean nearest?',
    ),
    "baseline of a wrong type": (UPSAMPLERS_VARY + "baseline: [1]\n", "grid.yaml:3: baseline: [1] is not one of"),
    "name with a slash": ("name: a/b\n" + UPSAMPLERS_VARY, "grid.yaml:2: name: must be letters, digits"),
    "name is a number": ("name: 3\n" + UPSAMPLERS_VARY, "grid.yaml:2: name: must be letters, digits"),
    "unknown upsampler": (
        "vary:\n  model.upsampler: [nearest, caraffe]\n",
        "grid.yaml:3: model.upsampler: 'caraffe' is not one of nearest, bilinear",
    ),
    "unknown key to vary": (
        "vary:\n\n  model.widht: [3, 4]\n",
        "grid.yaml:4: model.widht: unknown key; did you mean width?",
    ),
    "value out of range": ("vary: {model.depth: [2, 99]}\n", "grid.yaml:2: model.depth: must be ≤ 8, received 99"),
    "seed of a wrong type": (
        "vary:\n  model.upsampler: [nearest, fade]\n  seed: [a]\n",
        "grid.yaml:4: seed: must be a whole number",
    ),
    "unknown key to set, dotted": (
        "set: {training.epoch: 3}\n" + UPSAMPLERS_VARY,
        "grid.yaml:2: training.epoch: unknown key; did you mean epochs?",
    ),
    "unknown key to set, in a section": (
        "set:\n  training:\n    epoch: 3\n" + UPSAMPLERS_VARY,
        "grid.yaml:4: training.epoch: unknown key",
    ),
    "wrong value to set": ("set: {data: {size: 0}}\n" + UPSAMPLERS_VARY, "grid.yaml:2: data.size: must be ≥ 1"),
    "not YAML": ("vary: [\n", "grid.yaml:3: not valid YAML"),
    "key twice": ("vary: {}\nvary: {}\n", "grid.yaml:3: vary: duplicate key"),
}


def complaint(path, *overrides) -> str:
    with pytest.raises(InputError) as caught:
        grid.load(path, overrides)
    return str(caught.value)


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_grid_is_told_with_its_place(write, case):
    text, expected = BROKEN[case]
    path = write(text)
    message = complaint(path)
    assert message.startswith(str(path.parent)), message
    assert expected in message, message


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("", "grid.yaml: base: must be the path of another YAML file, such as ../pets.yaml, received null"),
        ("base: 3\n", "grid.yaml:1: base: must be the path of another YAML file, such as ../pets.yaml, received 3"),
        ("base: bass.yaml\n", "bass.yaml; did you mean"),
        ("base: nowhere/base.yaml\n", "grid.yaml:1: base: there is no file"),
    ],
)
def test_a_missing_base_is_told_with_its_place(write, base, expected):
    message = complaint(write(UPSAMPLERS_VARY, base))
    assert expected in message, message
    assert "base:" in message


def test_a_mistake_in_the_base_has_its_place_there(write, tmp_path):
    (tmp_path / "base.yaml").write_text("seed: 1\nmodel: {widht: 3}\n")
    assert f"{tmp_path / 'base.yaml'}:2: model.widht: unknown key" in complaint(write(UPSAMPLERS_VARY))


def test_a_missing_grid_suggests_a_neighbour(tmp_path):
    (tmp_path / "upsamplers.yaml").write_text("")
    assert "upsampler.yaml: there is no such file or shipped configuration; did you mean" in complaint(
        tmp_path / "upsampler.yaml"
    )


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("vary.seed=3", "command line: vary.seed: must be a list of values, received 3"),
        ("vary.seed=[2, 2]", "command line: vary.seed: duplicate value"),
        ("vary.model.upsampler=[nearest, caraffe]", "command line: model.upsampler: 'caraffe' is not one of"),
        ("vary.model.widht=[1, 2]", "command line: model.widht: unknown key"),
        ("model.upsampler=fade", "command line: model.upsampler: already varied by vary.model.upsampler"),
        ("model.upsampler.k_up=3", "command line: model.upsampler.k_up: already varied by vary.model.upsampler"),
        ("seed=3", "command line: seed: already varied by vary.seed; list its values there"),
        ("training.epoch=3", "command line: training.epoch: unknown key; did you mean epochs?"),
        ("training.epochs=0", "command line: training.epochs: must be ≥ 1, received 0"),
        ("name=a/b", "command line: name: must be letters"),
        ("baseline=fade", 'command line: baseline: "fade" is not one of nearest, carafe'),
        ("base=nowhere.yaml", "command line: base: there is no file nowhere.yaml"),
        ("training.epochs", "command line: 'training.epochs': an override is written key.sub=value"),
        ("vary.seed=[1", "command line: vary.seed: '[1' is not a YAML value"),
        ("set.training.epochs=3", "command line: set: unknown key"),
    ],
)
def test_a_broken_override_names_the_command_line(write, override, expected):
    message = complaint(write("vary: {model.upsampler: [nearest, carafe], seed: [0]}\n"), override)
    assert message.startswith(expected), message


@pytest.mark.slow
def test_the_matched_grid_has_equal_parameters():
    """Within 1 % of the largest, which is as it is in the other grid; there the smallest has a fifth less."""

    def parameters(name):
        cells = grid.load(ROOT / "configs" / "ablation" / name, ["vary.seed=[0]"]).cells
        return {cell.variant: from_config(cell.config, 3).count_params() for cell in cells}

    plain, matched = parameters("upsamplers.yaml"), parameters("upsamplers_matched.yaml")
    assert matched.keys() == plain.keys()
    largest = max(plain.values())
    assert min(plain.values()) < 0.8 * largest
    assert matched["conv_transpose kernel_size=4"] == largest == 10_212_099
    assert all(abs(count / largest - 1) < 0.01 for count in matched.values())
