"""Configuration: shipped files load; every mistake is reported in one message."""

import json
import re

import pytest
import yaml

from tests.helpers import ROOT
from unet import config
from unet.errors import InputError

pytestmark = pytest.mark.backend_free
SHIPPED = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name != "ablation")
"""Those in ablation/ are grids of configurations: tests/ablation/test_grid.py."""


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def complaint(path, *overrides) -> str:
    with pytest.raises(InputError) as caught:
        config.load(path, overrides)
    return str(caught.value)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configs_load_and_name_the_schema(path):
    loaded = config.load(path)
    assert loaded.name == path.stem
    first = path.read_text(encoding="utf-8").splitlines()[0]
    schema = re.fullmatch(r"# yaml-language-server: \$schema=(.*)", first)
    assert schema
    assert (path.parent / schema.group(1)).resolve() == ROOT / "configs" / "schema.json"


def test_the_committed_schema_is_the_generated_one():
    committed = json.loads((ROOT / "configs" / "schema.json").read_text(encoding="utf-8"))
    assert committed == config.json_schema(), "run: make schema"


def test_every_key_has_a_description_for_the_editor():
    schema = config.json_schema()
    sections = [schema, *(d for d in schema["$defs"].values())]
    undescribed = [
        key
        for section in sections
        for key, field in section["properties"].items()
        if not field.get("description") and "$ref" not in field
    ]
    assert undescribed == []


def test_a_config_builds_on_another_and_holds_only_what_differs(tmp_path):
    write(tmp_path / "base.yaml", "name: base\ndata: {size: 64, folder: {images: photos}}\nmodel: {width: 8}\n")
    (tmp_path / "sub").mkdir()
    child = write(tmp_path / "sub" / "child.yaml", "base: ../base.yaml\ndata: {folder: {masks: labels}}\n")
    loaded = config.load(child, ["model.depth=3", "training.batch_size=4"])
    assert loaded.name == "child"
    assert loaded.data.size == (64, 64)
    assert (loaded.data.folder.images, loaded.data.folder.masks) == ("photos", "labels")
    assert (loaded.model.width, loaded.model.depth, loaded.training.batch_size) == (8, 3, 4)


def test_an_upsampler_is_replaced_whole_but_an_option_can_be_set(tmp_path):
    write(tmp_path / "base.yaml", "model: {upsampler: {name: bilinear, align_corners: true}}\n")
    child = write(tmp_path / "child.yaml", "base: base.yaml\nmodel: {upsampler: nearest}\n")
    assert config.load(child).model.upsampler.options == {}
    plain = write(tmp_path / "plain.yaml", "model: {upsampler: bilinear}\n")
    upsampler = config.load(plain, ["model.upsampler.align_corners=true"]).model.upsampler
    assert (upsampler.name, upsampler.options) == ("bilinear", {"align_corners": True})


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("training.learning_rate=1e-3", 1e-3),
        ("training.learning_rate=2", 2.0),
        ("training.clip_norm=null", None),
        ("training.clip_norm=", None),
        ("data.size=96", (96, 96)),
        ("data.size=[96, 160]", (96, 160)),
        ("augmentation.scale=[0.25, 1]", (0.25, 1.0)),
        ("training.jit=true", True),
        ("name=run-2.b", "run-2.b"),
        ("model.widths=[4, 6, 9, 13, 20]", (4, 6, 9, 13, 20)),
        ("model.widths=null", None),
        ("data.train_fraction=1", 1.0),
        ("loss.class_weights=auto", "auto"),
        ("loss.class_weights={border: 2}", {"border": 2}),
        ("data.folder.classes=[sky, ground]", {"sky": 0, "ground": 1}),
        ("data.folder.classes={sky: 7, ground: 255}", {"sky": 7, "ground": 255}),
        ("data.folder.classes={a: [0, 0, 0], b: [255, 0, 0]}", {"a": (0, 0, 0), "b": (255, 0, 0)}),
    ],
)
def test_overrides_are_read_as_yaml(tmp_path, override, value):
    found = config.load(write(tmp_path / "a.yaml", ""), [override])
    for key in override.split("=")[0].split("."):
        found = getattr(found, key)
    assert found == value


def test_the_resolved_configuration_reads_back_as_itself(tmp_path):
    overrides = [
        "model.upsampler={name: bilinear, align_corners: true}",
        "data.folder.classes={a: [1, 2, 3], b: [4, 5, 6]}",
    ]
    loaded = config.load(write(tmp_path / "a.yaml", ""), overrides)
    assert config.load(write(tmp_path / "config.yaml", loaded.to_yaml())) == loaded


# Each broken file and parts of its message: the line, the key, what is accepted, the closest match.
BROKEN = {
    "unknown key": (
        "model:\n  widht: 32\n",
        ["x.yaml:2: model.widht", "did you mean width?", "known here: encoder, weights, width, widths, depth"],
    ),
    "key that is a number": ("7: 3\n", ["x.yaml:1: 7: unknown key (known here: name, seed"]),
    "unknown section": ("modle: {width: 32}\n", ["x.yaml:1: modle", "did you mean model?"]),
    "unknown key in a nested section": ("data: {folder: {image: a}}\n", ["data.folder.image", "did you mean images?"]),
    "key of another section": ("model: {epochs: 3}\n", ["model.epochs", "unknown key", "known here:"]),
    "unknown source": ("data: {source: pet}\n", ["data.source", "pets, folder, shapes", "did you mean pets?"]),
    "unknown block": ("model: {block: residul}\n", ["plain, residual", "did you mean residual?"]),
    "unknown normalization": ("model: {normalization: batchnorm}\n", ["batch, group, none", "did you mean batch?"]),
    "unknown activation": ("model: {activation: Relu}\n", ["relu, leaky_relu", "did you mean relu?"]),
    "unknown initializer": ("model: {kernel_initializer: he}\n", ["he_normal, he_uniform"]),
    "unknown optimizer": ("training: {optimizer: adamW}\n", ["adamw, adam, sgd", "did you mean adamw?"]),
    "unknown schedule": ("training: {schedule: linear}\n", ["cosine, constant"]),
    "unknown precision": ("training: {precision: bfloat16}\n", ["mixed_bfloat16", "did you mean mixed_bfloat16?"]),
    "unknown upsampler": ("model: {upsampler: bilinaer}\n", ["nearest, bilinear, bicubic", "did you mean bilinear?"]),
    "unknown upsampler in a mapping": ("model:\n  upsampler: {name: near}\n", ["x.yaml:2", "did you mean nearest?"]),
    "unknown upsampler option": (
        "model: {upsampler: {name: bilinear, align_corner: true}}\n",
        ["model.upsampler.align_corner: not an option of bilinear; did you mean align_corners? (options: align_c"],
    ),
    "option of another upsampler": (
        "model: {upsampler: {name: nearest, align_corners: true}}\n",
        ["align_corners: not an option of nearest (options: activation)"],
    ),
    "wrong type of an upsampler option": (
        "model: {upsampler: {name: bilinear, align_corners: 1}}\n",
        ["model.upsampler.align_corners: must be true or false, received 1"],
    ),
    "upsampler of a wrong type": (
        "model: {upsampler: 3}\n",
        ["model.upsampler: must be the name of an upsampler", "received 3"],
    ),
    "groups that do not divide the channels": (
        "model:\n  upsampler:\n    name: carafe\n    groups: 7\n",
        ["x.yaml:4: model.upsampler.groups: 7 does not divide the 64 channels; choose from 1, 2, 4, 8, 16, 32, 64"],
    ),
    "groups that do not divide one stage": (
        "model: {depth: 2, widths: [8, 6, 32], upsampler: {name: dysample, groups: 4}}\n",
        ["model.upsampler.groups: 4 does not divide the 6 channels; choose from 1, 2, 3, 6"],
    ),
    "channels that do not divide by four": (
        "model: {width: 6, upsampler: {name: dysample, style: pl, groups: 1}}\n",
        ["model.upsampler.style: pl shuffles four channels into one: 6 channels do not divide by 4"],
    ),
    "a transposed convolution that does not double": (
        "model: {upsampler: {name: conv_transpose, kernel_size: 3, padding: 1, output_padding: 0}}\n",
        ["model.upsampler.padding: 1 with kernel_size 3 and output_padding 0 does not reach twice", "(1, 1)"],
    ),
    "padding beyond the kernel": (
        "model: {upsampler: {name: conv_transpose, kernel_size: 2, padding: 2}}\n",
        ["model.upsampler.padding: must be from 0 to 1 with kernel_size 2, received 2"],
    ),
    "an even kernel": (
        "model: {upsampler: {name: resize_conv, kernel_size: 2}}\n",
        ["model.upsampler.kernel_size: must be odd, so that the kernel has a centre, received 2"],
    ),
    "an activation that changes the channels": (
        "model: {upsampler: {name: nearest, activation: glu}}\n",
        ['model.upsampler.activation: "glu" is not one of relu, leaky_relu', "did you mean"],
    ),
    "two wrong options": (
        "model: {upsampler: {name: carafe, k_up: 4, compressed: 0}}\n",
        ["model.upsampler.k_up: must be odd", "model.upsampler.compressed: must be ≥ 1, received 0"],
    ),
    "weight of a class that does not exist": (
        "loss:\n  class_weights:\n    dog: 2\n",
        ["x.yaml:3: loss.class_weights.dog: there is no class 'dog'", "(classes: pet, background, border)"],
    ),
    "negative weight of a class": (
        "loss: {class_weights: {pet: -1}}\n",
        ["loss.class_weights.pet: must be ≥ 0, received -1"],
    ),
    "class that is no text": ("loss: {class_weights: {1: 2}}\n", ["loss.class_weights.1: must be text"]),
    "grey value to ignore out of range": ("data: {folder: {ignore: 256}}\n", ["data.folder.ignore", "≤ 255"]),
    "list of values to ignore with a wrong one": (
        "data: {folder: {ignore: [11, x]}}\n",
        ["data.folder.ignore: must be a grey value 0..255, a colour [r, g, b], or a list of them"],
    ),
    "text for a number": ("model: {width: wide}\n", ["model.width", "must be a whole number", '"wide"']),
    "quoted number": ('training: {batch_size: "16"}\n', ["must be a whole number", '"16"']),
    "fraction for a whole number": ("model: {depth: 2.5}\n", ["must be a whole number, received 2.5"]),
    "true for a number": ("training: {epochs: true}\n", ["must be a whole number, received true"]),
    "number for true": ("training: {jit: 1}\n", ["must be true or false, received 1"]),
    "list for a number": ("seed: [1, 2]\n", ["seed", "must be a whole number"]),
    "text for a section": (
        "model: big\n",
        ["model", "must be a mapping with the keys encoder, weights, width, widths, depth"],
    ),
    "list for a section": ("training: [1]\n", ["must be a mapping with the keys epochs"]),
    "zero width": ("model: {width: 0}\n", ["must be ≥ 1, received 0"]),
    "too few widths": (
        "model:\n  depth: 3\n  widths: [8, 16, 32]\n",
        ["x.yaml:3: model.widths: a network of depth 3 has 4 stages, received [8, 16, 32]"],
    ),
    "no widths": ("model: {widths: []}\n", ["model.widths: a network of depth 4 has 5 stages, received []"]),
    "zero among the widths": ("model: {depth: 1, widths: [8, 0]}\n", ["model.widths", "must be ≥ 1, received 0"]),
    "one number for the widths": ("model: {widths: 8}\n", ["model.widths", "must be a list, received 8"]),
    "no training images": ("data: {train_fraction: 0}\n", ["data.train_fraction: must be > 0, received 0"]),
    "negative epochs": ("training: {epochs: -3}\n", ["must be ≥ 1, received -3"]),
    "zero learning rate": ("training: {learning_rate: 0}\n", ["must be > 0, received 0"]),
    "learning rate not a number": ("training: {learning_rate: .nan}\n", ["training.learning_rate", "finite number"]),
    "infinite learning rate": ("training: {learning_rate: .inf}\n", ["training.learning_rate", "finite number"]),
    "dropout of one": ("model: {dropout: 1}\n", ["must be < 1, received 1"]),
    "probability above one": ("augmentation: {flip: 1.5}\n", ["must be ≤ 1, received 1.5"]),
    "too deep": ("model: {depth: 20}\n", ["must be ≤ 8, received 20"]),
    "negative seed": ("seed: -1\n", ["must be ≥ 0, received -1"]),
    "ema of one": ("training: {ema: 1}\n", ["must be < 1, received 1"]),
    "zero size": ("data: {size: 0}\n", ["data.size", "≥ 1"]),
    "three sizes": ("data: {size: [1, 2, 3]}\n", ["data.size", "[height, width]"]),
    "size as text": ("data: {size: 128x128}\n", ["data.size", "[height, width]"]),
    "scale backwards": (
        "augmentation: {scale: [1, 0.5]}\n",
        ["augmentation.scale: must be [low, high]", "received [1.0, 0.5]"],
    ),
    "scale below float32": ("augmentation: {scale: [1e-300, 1]}\n", ["0.001 ≤ low ≤ high ≤ 16,", "[1e-300, 1.0]"]),
    "ratio above float32": ("augmentation: {ratio: [1, 1e300]}\n", ["0.001 ≤ low ≤ high ≤ 1000,", "[1.0, 1e+300]"]),
    "class names that are truth values": (
        "data: {source: folder, data_dir: x, folder: {classes: [yes, no]}}\n",
        ["data.folder.classes: must be a list of names", "received [true, false]"],
    ),
    "scale above sixteen": ("augmentation: {scale: [0.5, 17]}\n", ["high ≤ 16,"]),
    "one ratio": ("augmentation: {ratio: [1]}\n", ["augmentation.ratio", "two numbers"]),
    "no loss": ("loss: {cross_entropy: 0}\n", ["every weight is 0"]),
    "negative loss weight": ("loss: {dice: -1}\n", ["loss.dice", "must be ≥ 0, received -1"]),
    "class weight of a wrong type": ("loss: {class_weights: [1, 2]}\n", ["loss.class_weights", "mapping"]),
    "rotation of images that are not square": (
        "data: {size: [64, 96]}\naugmentation: {rotate_90: 0.5}\n",
        ["x.yaml:2: augmentation.rotate_90: needs a square data.size, received 64×96"],
    ),
    "folder without a place": ("data: {source: folder}\n", ["source folder needs data_dir"]),
    "one class": ("data: {folder: {classes: [a]}}\n", ["data.folder.classes", "2 to 255 classes"]),
    "class twice": ("data: {folder: {classes: [a, a]}}\n", ["duplicate class name"]),
    "two classes of one colour": ("data: {folder: {classes: {a: 1, b: 1}}}\n", ["two classes have the same value"]),
    "colour out of range": ("data: {folder: {classes: {a: [0, 0, 300], b: [0, 0, 1]}}}\n", ["0..255"]),
    "train split alone": ("data: {folder: {train: a.txt}}\n", ["give both train and test"]),
    "warm-up of everything": ("training: {warmup: 1}\n", ["training.warmup", "must be < 1, received 1"]),
    "name with a slash": ("name: a/b\n", ["name", "letters, digits"]),
    "key twice": ("seed: 1\nseed: 2\n", ["x.yaml:2: seed: duplicate key, first given in line 1"]),
    "not YAML": ("model: {width: 3\n", ["x.yaml", "not valid YAML"]),
    "tab": ("model:\n\twidth: 3\n", ["x.yaml:2", "not valid YAML"]),
    "not a mapping": ("- 1\n- 2\n", ["must contain keys and values"]),
    "only text": ("hello\n", ["must contain keys and values"]),
    "missing base": ("base: bass.yaml\n", ["x.yaml:1: base", "there is no file", "did you mean base.yaml?"]),
    "base is not a path": ("base: [a]\n", ["x.yaml:1: base", "path of another YAML file"]),
    "base of itself": ("base: x.yaml\n", ["circular base: x.yaml -> x.yaml"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_config_is_reported_in_one_message(tmp_path, case):
    text, expected = BROKEN[case]
    write(tmp_path / "base.yaml", "seed: 1\n")
    message = complaint(write(tmp_path / "x.yaml", text))
    for part in expected:
        assert part in message, message
    assert "pydantic" not in message
    assert str(tmp_path) in message  # it names the file


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.epoch=3", ["command line: training.epoch", "did you mean epochs?"]),
        ("epochs=3", ["command line: epochs", "unknown key"]),
        ("training.epochs", ["an override is written key.sub=value"]),
        ("=3", ["an override is written key.sub=value"]),
        ("training.epochs=[1", ["is not a YAML value"]),
        ("model.width.inner=3", ["command line: model.width"]),
        ("model.upsampler.align=true", ["command line: model.upsampler.align: not an option of conv_transpose"]),
    ],
)
def test_a_broken_override_names_the_command_line(tmp_path, override, expected):
    message = complaint(write(tmp_path / "x.yaml", "training: {epochs: 5}\n"), override)
    for part in expected:
        assert part in message, message


def test_every_mistake_is_reported_at_once_with_its_file(tmp_path):
    write(tmp_path / "base.yaml", "seed: 0\nmodel:\n  widht: 3\n")
    message = complaint(write(tmp_path / "x.yaml", "base: base.yaml\ntraining:\n  epochs: 0\n"), "loss.dise=1")
    lines = message.splitlines()
    assert len(lines) == 3
    assert any("base.yaml:3: model.widht" in line for line in lines)
    assert any("x.yaml:3: training.epochs" in line for line in lines)
    assert any("command line: loss.dise" in line for line in lines)


def test_a_missing_file_suggests_a_neighbour(tmp_path):
    write(tmp_path / "pets.yaml", "")
    assert "did you mean" in complaint(tmp_path / "pet.yaml")
    assert "cannot be read as text" in complaint(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00seed")
    assert "cannot be read as text" in complaint(tmp_path / "binary.yaml")


def test_the_schema_accepts_every_shipped_config():
    """A small reading of JSON schema: known keys, and enumerated values, at every level."""
    schema = config.json_schema()

    def check(value, node, where):
        options = [node, *node.get("anyOf", [])]
        node = next((schema["$defs"][o["$ref"].split("/")[-1]] for o in options if "$ref" in o), node)
        if isinstance(value, dict) and "properties" in node:
            for key, inner in value.items():
                assert key in node["properties"] or node.get("additionalProperties") is True, (where, key)
                if key in node["properties"]:
                    check(inner, node["properties"][key], f"{where}.{key}")
        elif "enum" in node:
            assert value in node["enum"], (where, value)

    for path in SHIPPED:
        check(yaml.safe_load(path.read_text(encoding="utf-8")), schema, path.name)


# === Shipped configurations ===


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("pets_cpu", "pets_cpu.yaml"),
        ("pets_cpu.yaml", "pets_cpu.yaml"),
        ("debug/overfit", "debug/overfit.yaml"),
        ("overfit", "debug/overfit.yaml"),
        ("ablation/upsamplers_cpu.yaml", "ablation/upsamplers_cpu.yaml"),
    ],
)
def test_a_shipped_configuration_is_found_by_its_name(name, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config.shipped.resolve(name).samefile(ROOT / "configs" / file)
    write(tmp_path / "pets_cpu.yaml", "")
    found = config.shipped.resolve(name)
    assert found.is_absolute() != (name == "pets_cpu.yaml"), "a file comes first"


def test_names_of_shipped_configurations_are_unique_without_their_folders():
    names = [name.rpartition("/")[2] for name in config.shipped.names()]
    assert len(names) == len(set(names)) == len(list((ROOT / "configs").rglob("*.yaml")))


def test_a_configuration_can_build_on_a_shipped_one(tmp_path):
    mine = write(tmp_path / "mine.yaml", "base: pets_cpu\nmodel: {width: 4}\n")
    loaded = config.load(mine)
    assert (loaded.name, loaded.model.width) == ("mine", 4)
    assert loaded.training == config.load("pets_cpu").training
    write(tmp_path / "pets_cpu", "training: {epochs: 3}\n")
    assert config.load(mine).training.epochs == 3, "a file next to it comes first"
