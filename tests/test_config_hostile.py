"""Configurations by strangers: whatever a file or the command line holds, the answer is a Config or one InputError."""

import contextlib
import copy
import gc
import json
import os
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers import ROOT
from tests.helpers.commands import run_unet
from tests.helpers.settings import sections
from unet import config
from unet.ablation.plan import grid
from unet.config import Config, Draft, Setting, document
from unet.errors import InputError

pytestmark = pytest.mark.backend_free
SECONDS = 1.0
"""Most processor time of an answer."""


def levels(count, key="k"):
    return f"{{{key}: " * count + "1" + "}" * count


ALIASES = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi")
)
# Each hostile text, and a part of the message. The texts are whole files; those on one line are also settings.
TEXTS = {
    "aliases of aliases": (ALIASES, "more than 10,000 values"),
    "a list inside itself": ("seed: &a [*a]", "an alias of a value inside itself"),
    "aliases of a long text": (
        f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 9_000)}]",
        "more than 262,144 characters, counting those that aliases repeat",
    ),
    "a mapping inside itself": ("&a {seed: *a}", "an alias of a value inside itself"),
    "brackets": ("seed: " + "[" * 10_000, "more than 20 levels"),
    "braces": ("seed: " + "{" * 10_000, "more than 20 levels"),
    "nested lines": ("seed:\n" + "".join("  " * n + "-\n" for n in range(1, 300)), "more than 20 levels"),
    "levels of mappings": ("training: " + levels(30), "more than 20 levels"),
    "a null character": ("seed: \0", "the character U+0000 is not allowed"),
    "a control character": ("name: \x1b[31m", "the character U+001B is not allowed"),
    "an escaped control character": ('data: {data_dir: "a\\0b"}', "text without control characters"),
    "an escaped control character in a class": ('data: {folder: {classes: ["a\\e[31m", b]}}', "a class name must be"),
    "half a character": ('name: "\\ud800"', "an escape sequence that is not a character"),
    "no whole number": ('seed: !!int ""', "x.yaml:1: '' cannot be read as int"),
    "no number": ('training: {warmup: !!float ""}', "'' cannot be read as float"),
    "no truth value": ('training: {jit: !!bool "zz"}', "'zz' cannot be read as bool"),
    "no time": ('seed: !!timestamp "zz"', "the tag tag:yaml.org,2002:timestamp is not accepted"),
    "a date that does not exist": ("seed: 2020-02-30", 'seed: must be a whole number, received "2020-02-30"'),
    "a long number": ("seed: " + "1" * 5_000, "1111 … 1111"),
    "a large number": ("seed: 9223372036854775808", "the number 9223372036854775808 is too large"),
    "a long hexadecimal number": ("seed: 0x" + "f" * 50_000, "has more than 100 characters"),
    "a long number to base 60": ("seed: 1" + ":20" * 80_000, "has more than 100 characters"),
    "a long tag": (f"seed: !{'x' * 100_000} 1", "x is not accepted"),
    "a long alias": (f"seed: *{'a' * 100_000}", "found undefined alias 'a"),
    "bytes": ("data: {data_dir: !!binary /w==}", "the tag tag:yaml.org,2002:binary is not accepted"),
    "bytes as a key": ("seed: {!!binary /w==: 1}", "the tag tag:yaml.org,2002:binary is not accepted"),
    "a date as a key": ("seed: {!!timestamp 2020-01-02: 1}", "the tag tag:yaml.org,2002:timestamp is not accepted"),
    "text as a mapping": ("seed: !!map x", "the tag tag:yaml.org,2002:map is not accepted"),
    "a merge key": ("training: {<<: {epochs: 3}}", "training.<<: unknown key"),
    "a Python object": (
        "seed: !!python/object/apply:os.system [echo]",
        "python/object/apply:os.system is not accepted",
    ),
    "a list as a key": ("? [1]\n: 2", "x.yaml:1: a key must be text"),
    "keys of many types": ("~: 1\ntrue: 2\n.nan: 3\n1.5: 4", "nan: unknown key"),
    "unknown keys": ("".join(f"k{n}: 1\n" for n in range(20_000)), "more than 10,000 values"),
    "fewer unknown keys": ("".join(f"k{n}: 1\n" for n in range(4_500)), "and more mistakes"),
    "unknown options": (
        f"model: {{upsampler: {{name: carafe, {', '.join(f'k{n}: 1' for n in range(4_000))}}}}}",
        "model.upsampler.k0: not an option of carafe",
    ),
    "a long upsampler": (f"model: {{upsampler: {'a' * 9_000}}}", "a … a"),
    "a long key": ("x" * 900 + ": 1", "x … x"),
    "a file of a megabyte": ("#" * 2**20, "larger than 262,144 bytes"),
    "a huge width": ("model: {width: 1000000000}", "model.width: must be ≤ 16384"),
    "a huge network": ("model: {width: 256, depth: 8}", "the last has 65,536; at most 16,384 are accepted"),
    "a network of large kernels": (
        "model: {width: 64, depth: 4, upsampler: {name: conv_transpose, kernel_size: 64}}",
        "model.width: [64, 128, 256, 512, 1024] channels and the upsampler conv_transpose give a network of",
    ),
    "a deep network": ("model: {depth: 40}", "model.depth: must be ≤ 8"),
    "a huge image": ("data: {size: 1000000000}", "data.size: must be ≤ 16384"),
    "a huge batch": ("training: {batch_size: 1000000000}", "training.batch_size: must be ≤ 1e+06"),
    "endless training": ("training: {epochs: 1000000000000}", "training.epochs: must be ≤ 1e+06"),
    "a huge learning rate": ("training: {learning_rate: 1e300}", "training.learning_rate: must be ≤ 1e+30"),
    "a learning rate of minus zero": ("training: {learning_rate: -0.0}", "training.learning_rate: must be > 0"),
    "a huge kernel": (
        "model: {upsampler: {name: conv_transpose, kernel_size: 1000000000}}",
        "model.upsampler.kernel_size: must be ≤ 64",
    ),
    "huge groups": ("model: {upsampler: {name: carafe, groups: 1000000000000}}", "does not divide the 64 channels"),
    "a huge embedding": ("model: {upsampler: {name: sapa, embedding: 1000000000}}", "embedding: must be ≤ 16384"),
    "many scenes": ("data: {shapes: {train: 1000000000000}}", "data.shapes.train: must be ≤ 1e+06"),
    "a long name": (f"name: {'a' * 300}", "at most 200 characters"),
    "no class name": ("data: {folder: {classes: ['', b]}}", "a class name must be text of 1 to 100 characters"),
}


def answer(load) -> str:
    """The message of the InputError that ``load`` must raise, soon."""
    gc.disable()  # it takes long in a process that has run many other tests
    start = time.process_time()
    try:
        with pytest.raises(InputError) as caught:
            load()
        assert time.process_time() - start < SECONDS
    finally:
        gc.enable()
    message = str(caught.value)
    assert len(message) < 8_000
    return message.replace("1" * 20, "1111").replace("a" * 100, "a").replace("x" * 100, "x")


@pytest.mark.parametrize("case", TEXTS)
def test_a_hostile_text_is_answered_soon_and_in_one_message(tmp_path, case):
    text, expected = TEXTS[case]
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    assert expected in answer(lambda: config.load(path))
    path.write_text(f"base: x\n{text}", encoding="utf-8")
    answer(lambda: grid.load(path))
    key, colon, value = text.partition(": ")
    if colon and key.isalpha() and "\n" not in text:
        message = answer(lambda: config.load("seed_unet", [f"{key}={value}"]))
        assert "command line: " in message
        if "1:" not in expected and "characters" not in expected:
            assert expected in message


def file(kind, path):
    """Make a file that is no configuration, and say what its message holds."""
    if kind == "a pipe":
        os.mkfifo(path)
        return "Not a regular file"
    if kind == "a device":
        path.symlink_to("/dev/zero")
        return "Not a regular file"
    if kind == "a folder":
        path.mkdir()
        return "Is a directory"
    if kind == "a link to itself":
        path.symlink_to(path.name)
        return "Too many levels of symbolic links"
    if kind == "a gigabyte":
        with open(path, "wb") as sparse:
            sparse.truncate(2**30)
        return "larger than 262,144 bytes"
    contents = {"bytes": bytes(range(256)), "UTF-16": "seed: 1".encode("utf-16"), "Latin-1": b"name: \xe9"}
    path.write_bytes(contents[kind])
    return "not UTF-8"


KINDS = ("a pipe", "a device", "a folder", "a link to itself", "a gigabyte", "bytes", "UTF-16", "Latin-1")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_text_file_is_not_read(tmp_path, kind):
    expected = file(kind, tmp_path / "odd.yaml")
    (tmp_path / "x.yaml").write_text("base: odd.yaml\n")
    for path in ("odd.yaml", "x.yaml"):
        message = answer(lambda path=path: config.load(tmp_path / path))
        assert message.startswith(f"{tmp_path / 'odd.yaml'}: cannot be read as text: ")
        assert expected in message
    (tmp_path / "grid.yaml").write_text("base: odd.yaml\nvary: {model.upsampler: [nearest, fade]}\n")
    assert expected in answer(lambda: grid.load(tmp_path / "grid.yaml"))


@pytest.mark.parametrize("name", ["a" * 5_000, "a\\0b", "b/" * 2_000 + "c"])
def test_a_base_that_cannot_be_a_path_is_told(tmp_path, name):
    (tmp_path / "x.yaml").write_text(f'base: "{name}"\n')
    assert "x.yaml:1: base: there is no file" in answer(lambda: config.load(tmp_path / "x.yaml"))


def test_a_long_chain_of_bases_is_told(tmp_path):
    for n in range(6):
        (tmp_path / f"{n}.yaml").write_text(f"base: {n + 1}.yaml\n")
    (tmp_path / "6.yaml").write_text("seed: 3\n")
    assert "chain of bases is longer than 5 files" in answer(lambda: config.load(tmp_path / "0.yaml"))
    assert config.load(tmp_path / "2.yaml").seed == 3
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    assert "circular base: a.yaml -> b.yaml -> a.yaml" in answer(lambda: config.load(tmp_path / "a.yaml"))


def test_line_endings_and_byte_order_marks_make_no_difference(tmp_path):
    (tmp_path / "x.yaml").write_bytes("\ufeffseed: 3\r\nmodel: {width: 8}\r\n".encode())
    loaded = config.load(tmp_path / "x.yaml")
    assert (loaded.seed, loaded.model.width) == (3, 8)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (".".join("a" * 10_000) + "=1", "unknown key"),
        ("training." + "x" * 100_000 + "=1", "unknown key"),
        ("x" * 100_000, "an override is written key.sub=value"),
        ("training.epochs=" + "[" * 20_000, "is not a YAML value: more than 20 levels"),
        ("training.epochs=&a [*a]", "is not a YAML value: more than 20 levels"),
        ("seed=\udcff", "is not a YAML value: the character U+DCFF is not allowed"),
    ],
)
def test_a_hostile_override_is_answered(override, expected):
    assert expected in answer(lambda: config.load("seed_unet", [override]))


@pytest.mark.parametrize("name", ["a" * 5_000, "/dev/zero"])
def test_a_configuration_that_cannot_be_a_path_ends_with_exit_code_2(name):
    result = run_unet("check-data", name)
    assert result.code == 2
    assert result.err.startswith("error: ")
    assert len(result.err) < 800


# === Grids ===


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vary: {model.upsampler: [nearest, {1: 2, a: 3}, [1, a], null, 1.5]}", "model.upsampler.1: unknown key"),
        ("vary: {model.width: [{1: 2, a: 3}, {a: 3, 1: 2}]}", "vary.model.width: duplicate value"),
        (f"vary: {{seed: [{', '.join(map(str, range(999)))}], model.width: [4, 8]}}", "gives 1,998 cells; at most"),
        ('vary: {"a=b": [1, 2]}', "a=b: unknown key"),
        ('vary: {"": [1, 2]}', "unknown key"),
        ("vary: {model.upsampler: [nearest, fade]}\nbase: [x]", "base: must be the path of another YAML file"),
        (f"vary: {{model.upsampler: [nearest, fade]}}\nname: {'a' * 300}", "name: must be letters, digits,"),
        ("vary: {model.upsampler: [nearest, fade]}\nset: {3: 4, null: 3}", "None: unknown key"),
        ("vary: {model.upsampler: [nearest, fade]}\nset: {seed: 2020-01-02}", "seed: must be a whole number, received"),
    ],
)  # fmt: skip
def test_a_hostile_grid_is_answered(tmp_path, text, expected):
    path = tmp_path / "grid.yaml"
    path.write_text(text if "base:" in text else f"{text}\nbase: seed_unet\n")
    assert expected in answer(lambda: grid.load(path))


def test_runs_of_long_variants_have_names_that_load_again(tmp_path):
    path = tmp_path / "grid.yaml"
    folders = ["a" * 300, "a" * 300 + "b"]
    path.write_text(f"base: seed_unet\nvary: {{data.data_dir: [{', '.join(folders)}]}}\n")
    cells = grid.load(path).cells
    assert len({cell.config.name for cell in cells}) == 2
    for cell in cells:
        (tmp_path / "config.yaml").write_text(cell.config.to_yaml())
        assert config.load(tmp_path / "config.yaml") == cell.config


# === Properties ===


@pytest.mark.parametrize("name", ["12e4", "1e-3", "2020-01-02", "null", "on", "0x1f", "0.5", "_"])
def test_text_that_looks_like_another_value_reads_back_as_text(name):
    found = Config.model_validate({"data": {"folder": {"classes": {name: 0, "b": 1}, "images": name}}})
    check_round_trips(found)


@pytest.mark.parametrize("text", ["\ud800", ["\ud800"]])
@pytest.mark.parametrize("key", ["data.data_dir", "data.folder.classes", "data.folder.images", "name", "model.width"])
def test_half_a_character_is_refused_and_written_out(key, text):
    with pytest.raises(InputError, match=r"\\ud800"):
        Draft(ROOT / "x.yaml", {}, {}).checked([Setting(key, text, "here")])


PROPERTY = settings(derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from(["", "1e3", "null", "yes", "~", "2020-02-30", "a\0b", "\ud800", 10**18, -0.0, "nearest"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9) | st.integers(), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
TREES = sections(Config, JUNK)


def accepted(load) -> Config | None:
    """The Config that ``load`` gives, ``None`` for an InputError; nothing else may happen."""
    try:
        return load()
    except InputError as error:
        message = str(error)
    assert len(message) < 20_000
    return None


def check_round_trips(found: Config) -> None:
    text = found.to_yaml()
    assert len(text.encode()) <= document.MAX_BYTES
    assert Config.model_validate(document.parse(text)[0]) == found
    overrides = [
        f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in found.model_dump(mode="json").items()
    ]
    assert config.load("seed_unet", overrides) == found


def check_tree(tree) -> bool:
    found = accepted(lambda: Draft(ROOT / "x.yaml", {"name": "x"}, {}).checked(
        [Setting(key, value, "here") for key, value in tree.items()]
    ))  # fmt: skip
    if found:
        check_round_trips(found)
    return found is not None


def test_any_values_are_a_config_that_reads_back_or_an_input_error():
    outcomes = []

    @settings(PROPERTY, max_examples=150)
    @given(TREES)
    def check(tree):
        outcomes.append(check_tree(tree))

    check()
    assert 0.1 < sum(outcomes) / len(outcomes) < 0.9, "the test must see both"


@pytest.mark.slow
@settings(PROPERTY, max_examples=1_500)
@given(TREES)
def test_many_values_are_a_config_that_reads_back_or_an_input_error(tree):
    check_tree(tree)


SHIPPED = sorted((ROOT / "configs").rglob("*.yaml"))
CONTENTS = [path.read_bytes() for path in SHIPPED]


def mutated_bytes(rng) -> bytes:
    """A shipped file with a few bytes changed, removed, repeated or taken from another file."""
    content = bytearray(rng.choice(CONTENTS))
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(content) + 1), rng.randint(1, 12)
        other = rng.choice(CONTENTS)
        start = rng.randrange(len(other))
        special = rng.choice(
            [b"\0", b"\xff", b"\t", b"&a ", b"*a", b"[", b"{", b"!!int ", b": ", b"- ", b'"', b"?", b"\n"]
        )
        piece = rng.choice([b"", special, rng.randbytes(length), other[start : start + 10 * length], content[at:] * 3])
        content[at : at + rng.choice([0, length])] = piece
    return bytes(content)


def mutated_tree(rng, junk) -> bytes:
    """A shipped file with one value anywhere in it replaced."""
    tree = copy.deepcopy(document.parse(rng.choice(CONTENTS).decode())[0])
    inner, key = tree, rng.choice(list(tree))
    while isinstance(inner[key], dict | list) and inner[key] and rng.random() < 0.7:
        inner = inner[key]
        key = rng.randrange(len(inner)) if isinstance(inner, list) else rng.choice(list(inner))
    inner[key] = junk
    return document.dump(tree).encode("utf-8", "surrogatepass")


def check_file(path, content: bytes) -> None:
    path.write_bytes(content)
    if found := accepted(lambda: config.load(path)):
        check_round_trips(found)
    with contextlib.suppress(InputError):
        grid.load(path)


@pytest.fixture
def beside(tmp_path):
    """A path next to copies of the shipped files, on which a mutated file can build."""
    (tmp_path / "configs" / "ablation").mkdir(parents=True)
    for path, content in zip(SHIPPED, CONTENTS):
        if path.parent.name == "configs":
            (tmp_path / "configs" / path.name).write_bytes(content)
    return tmp_path / "configs" / "ablation" / "x.yaml"


@pytest.mark.parametrize("examples", [60, pytest.param(800, marks=pytest.mark.slow)])
def test_a_mutated_file_is_a_config_or_an_input_error(beside, examples):
    @settings(PROPERTY, max_examples=examples)
    @given(st.randoms(use_true_random=False), JUNK)
    def check(rng, junk):
        check_file(beside, mutated_bytes(rng))
        check_file(beside, mutated_tree(rng, junk))

    check()
