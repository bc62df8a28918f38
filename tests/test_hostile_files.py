"""Files and runs from strangers, and damaged ones: one message, bounded memory, and no code is run."""

import contextlib
import dataclasses
import io
import json
import os
import shutil
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import BACKEND
from tests.helpers.commands import run_unet
from tests.helpers.hostile import npy, pickled_canary, rewritten, with_json, zip_bomb
from unet import records
from unet.errors import InputError
from unet.formats import Metadata, load_network
from unet.formats.base import check_shapes
from unet.runs import Run

GOOD = {"classes": ["a", "b", "c"], "size": [24, 32], "dynamic": True, "activation": "none"}
DEEP = "[" * 100_000

# === Metadata ===


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": "abc"}, "classes: should be a valid array"),
        ({"classes": None}, "classes: should be a valid array"),
        ({"classes": []}, "classes: .* at least 1 item"),
        ({"classes": [1, 2]}, r"classes\.0: should be a valid string"),
        ({"classes": ["a", "a"]}, "classes: two have the same name"),
        ({"classes": [str(index) for index in range(256)]}, "classes: .* at most 255 items"),
        ({"classes": ["a" * 1001, "b", "c"]}, r"classes\.0: .* at most 1000 characters"),
        ({"licence": "a" * 1001}, "licence: .* at most 1000 characters"),
        ({"colours": []}, "colours: .* at least 1 item"),
        ({"colours": ["#000000"]}, "colours: 3 classes have 1 colours"),
        ({"colours": ["red", "#000000", "#000000"]}, r"colours\.0: .*pattern"),
        ({"size": [1_000_000, 1_000_000]}, "size: 1000000×1000000 is more than 16,777,216 pixels"),
        ({"size": [10**400, 1]}, r"size\.0: "),
        ({"size": [0, 32]}, r"size\.0: should be greater than or equal to 1"),
        ({"size": 32}, "size: should be a valid array"),
        ({"dynamic": "yes"}, "dynamic: should be a valid boolean"),
        ({"activation": "softplus"}, "activation: .*pattern"),
        ({"activation": "sigmoid"}, "activation: sigmoid does not suit the head softmax"),
        ({"head": "labels", "activation": "softmax"}, "activation: softmax does not suit the head labels"),
        ({"head": "relu"}, "head: .*pattern"),
        ({"config": {"model": {"depth": 10**6}}}, r"config\.model\.depth: should be 1 to 8"),
        ({"config": {"model": {"depth": True}}}, r"config\.model\.depth: should be 1 to 8"),
        ({"config": {"model": 3}}, r"config\.model\.depth: should be 1 to 8"),
        ({"config": []}, "config: should be an object"),
        ({"version": 0}, "version: should be 1 to 2"),
        ({"version": "new"}, "version: should be 1 to 2"),
    ],
)
def test_metadata_are_checked(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        Metadata.from_json(json.dumps(GOOD | change))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.backend_free
@pytest.mark.parametrize("text", ["", "{", "[]", "null", DEEP, '{"classes":' + DEEP, '{"a": "\\ud800"}', "\x00"])
def test_metadata_that_are_no_json_object_are_refused(text):
    with pytest.raises(ValueError, match=r"valid JSON|should be an object") as caught:
        Metadata.from_json(text)
    assert "\n" not in str(caught.value)


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("changes", "inputs", "outputs", "message"),
    [
        ({}, [(None, None, None, 3)], [("batch", "h", "w", 3)], None),
        ({"dynamic": False}, [(-1, 24, 32, 3)], [(-1, 24, 32, -1)], None),
        ({}, [(None, None, None, 3)], [(None, None, None, 2)], "has 2 classes, and its metadata name 3"),
        ({}, [(None, 24, 32, 3)], [(None, 24, 32, 3)], "24×32 pixels, and its metadata say any size"),
        ({"dynamic": False}, [(1, 24, 33, 3)], [(1, 24, 33, 3)], "24×33 pixels, and its metadata say 24×32"),
        ({}, [(None, None, None, 4)], [(None, None, None, 3)], "images of 4 channels"),
        ({}, [(None, 3)], [(None, 3)], "not a network from one image"),
        ({}, [(1, 1, 1, 3)] * 2, [(1, 1, 1, 3)], "not a network from one image"),
    ],
)
def test_metadata_agree_with_the_network(changes, inputs, outputs, message):
    metadata = dataclasses.replace(Metadata.from_json(json.dumps(GOOD)), **changes)
    if message is None:
        check_shapes(Path("x.onnx"), metadata, inputs, outputs)
        return
    with pytest.raises(InputError, match=message):
        check_shapes(Path("x.onnx"), metadata, inputs, outputs)


# === Archives and arrays ===


@pytest.mark.backend_free
def test_arrays_that_are_bombs_lies_or_code_are_refused(tmp_path):
    marker = tmp_path / "canary"
    members = {
        "object": npy((1,), "|O", pickled_canary(marker)),
        "pickle": pickled_canary(marker),
        "terabytes": npy((10**6, 10**6), "<f8"),
        "cut": npy((1000,), "<i4", bytes(100)),
        "version": npy((1,), "<i4", bytes(4)).replace(b"NUMPY\x01", b"NUMPY\x09"),
        "no character": npy((1,), "<U1", b"\x00\x00\x11\x00"),
    }
    for name, content in members.items():
        file = tmp_path / f"{name}.npz"
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("names.npy", content)
        with pytest.raises(InputError, match=f"{name}.npz: is damaged, or not an archive"):
            records.arrays_of(file)
    with pytest.raises(InputError, match=r"would expand to [\d,]+; it is damaged or malicious"):
        records.arrays_of(zip_bomb(tmp_path / "bomb.npz", "names.npy", 2**28))
    assert not marker.exists()


@pytest.mark.backend_free
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_arrays_with_a_changed_byte_are_refused_or_read(tmp_path, method, rng):
    """However a member is compressed, and whatever byte of the archive is changed."""
    good, file = io.BytesIO(), tmp_path / "bad.npz"
    np.savez(good, names=np.array(["a"]), confusion=np.arange(9, dtype="int32"))
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(file, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    content = file.read_bytes()
    np.testing.assert_array_equal(records.arrays_of(file)["confusion"], np.arange(9))
    for at in range(len(content)):
        file.write_bytes(content[:at] + bytes([content[at] ^ int(rng.integers(1, 256))]) + content[at + 1 :])
        with contextlib.suppress(InputError):  # any other error fails
            records.arrays_of(file)


# === Networks of Keras ===


@pytest.fixture(scope="module")
def exported(trained_run, tmp_path_factory):
    """A .keras file as this package exports it."""
    from unet.formats import FORMATS, describe
    from unet.model import load_saved

    path = tmp_path_factory.mktemp("exported") / "good.keras"
    network = load_saved(trained_run.best_file)
    FORMATS["keras"].write(network, path, describe(trained_run), None)
    return path


def _lambda_layer(config):
    layer = config["config"]["layers"][1]
    layer |= {"module": "keras.layers", "class_name": "Lambda"}


def _foreign_layer(config):
    config["config"]["layers"][1] |= {"module": "os", "class_name": "system", "registered_name": None}


def _wide_layer(config):
    for layer in config["config"]["layers"]:
        if layer["class_name"] == "Conv2D":
            layer["config"]["filters"] = 10**6
            layer["build_config"]["input_shape"][-1] = 10**6


DAMAGE = {
    "a Lambda layer": ("config.json", _lambda_layer, "contains a Lambda layer"),
    "a foreign class": ("config.json", _foreign_layer, "contains os.system"),
    "terabytes of weights": ("config.json", _wide_layer, "more parameters than it holds"),
    "an empty configuration": ("config.json", lambda config: {}, "does not describe a network"),
    "two classes": ("model_info.json", lambda info: info | {"classes": ["a", "b"], "colours": ["#000000"] * 2},
                    "has 3 classes, and its metadata name 2"),
    "a huge size": ("model_info.json", lambda info: info | {"size": [10**6, 10**6]}, "more than"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_keras_file_that_is_not_what_it_claims_is_refused(exported, tmp_path, damage):
    member, change, message = DAMAGE[damage]
    file = with_json(exported, tmp_path / "bad.keras", member, change)
    with pytest.raises(InputError, match=message) as caught:
        load_network(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("member", ["config.json", "model.weights.h5", "model_info.json"])
def test_a_keras_file_with_a_missing_or_corrupt_member_is_refused(exported, tmp_path, member):
    for replacement in (None, b"", DEEP.encode(), b"\x80\x04."):
        file = rewritten(
            exported, tmp_path / "bad.keras", lambda name, old, new=replacement: new if name == member else old
        )
        with pytest.raises(InputError, match=r"bad\.keras: "):
            load_network(file)


@pytest.mark.parametrize("member", ["config.json", "model.weights.h5", "model_info.json"])
def test_a_keras_file_that_would_expand_without_end_is_refused(exported, tmp_path, member):
    bomb = io.BytesIO()
    with zipfile.ZipFile(exported) as old, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, bytes(2**28) if name == member else old.read(name))
    (tmp_path / "bad.keras").write_bytes(bomb.getvalue())
    with pytest.raises(
        InputError, match=r"bad\.keras: [\d,]+ bytes would expand to [\d,]+; it is damaged or malicious"
    ):
        load_network(tmp_path / "bad.keras")


def test_a_network_of_other_classes_ends_predict_with_one_message(exported, tmp_path):
    change = {"classes": list("abcdefghijklmnopqrst"), "colours": ["#000000"] * 20}
    file = with_json(exported, tmp_path / "bad.keras", "model_info.json", lambda info: info | change)
    (tmp_path / "photo.png").write_bytes(b"")
    done = run_unet("predict", file, tmp_path / "photo.png", "--out", tmp_path / "out")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "has 3 classes, and its metadata name 20" in done.err


# === Files of other runtimes: code, and paths to other files ===


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """A .pt2 file from one image of 8×8 pixels to three classes, written by PyTorch alone."""
    torch = pytest.importorskip("torch")

    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3))

        def forward(self, pixels):
            return pixels * self.weight

    path = tmp_path_factory.mktemp("program") / "good.pt2"
    batch = {0: torch.export.Dim("batch")}
    traced = torch.export.export(Scaled(), (torch.zeros(2, 8, 8, 3),), dynamic_shapes=(batch,))
    info = GOOD | {"size": [8, 8], "dynamic": False}
    torch.export.save(traced, path, extra_files={"model_info.json": json.dumps(info)})
    return path


@pytest.mark.backend_free
def test_a_pt2_file_with_a_pickle_of_code_is_refused(program, tmp_path):
    import torch

    assert load_network(program)(np.full((1, 8, 8, 3), 7, np.uint8)).max() == 7
    marker = tmp_path / "canary"

    def change(name, content):
        return pickled_canary(marker) if name.endswith("sample_inputs/model.pt") else content

    file = rewritten(program, tmp_path / "bad.pt2", change)
    with pytest.raises(InputError, match=r"contains a pickle of objects other than tensors .* is refused"):
        load_network(file)
    assert not marker.exists()
    with contextlib.suppress(Exception):  # PyTorch itself runs the code, and then fails
        torch.export.load(file)
    assert marker.exists()


def _change_expression(values):
    values["range_constraints"] = {}
    values["graph_module"]["graph"]["sym_int_values"] = {
        "x": {"as_expr": {"expr_str": "__import__('os').mkdir('canary')", "hint": {"as_int": 2}}}
    }


def _change_target(values):
    values["graph_module"]["graph"]["nodes"][-1]["target"] = "torch.load"


def _change_guard(values):
    values["guards_code"] = ["__import__('os').mkdir('canary')"]


def _change_text(values):
    node = values["graph_module"]["graph"]["nodes"][-1]
    node["target"] = "torch.ops.aten._print.default"
    node["inputs"] = [{"name": "s", "arg": {"as_string": "x"}, "kind": 1}]


def _change_argument(values):
    node = values["graph_module"]["graph"]["nodes"][-1]
    node["target"] = "torch.ops.aten.from_file.default"
    node["inputs"] = [{"name": "filename", "arg": {"as_string": "/etc/passwd"}, "kind": 1}]


def _change_tree(values):
    signature = values["graph_module"]["module_call_graph"][0]["signature"]
    signature["in_spec"] = signature["in_spec"].replace("builtins.dict", "enum.Enum")


CHANGES = [_change_expression, _change_target, _change_guard, _change_text, _change_argument, _change_tree]


@pytest.mark.backend_free
@pytest.mark.parametrize("change", CHANGES)
def test_a_pt2_file_with_python_in_its_graph_is_refused(program, tmp_path, change, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = with_json(program, tmp_path / "bad.pt2", "models/model.json", change)
    with pytest.raises(InputError, match=r"bad\.pt2: contains .* is refused; code in a file is never run"):
        load_network(file)
    assert not (tmp_path / "canary").exists()


@pytest.mark.backend_free
@pytest.mark.parametrize("member", ["good/data/constants/opaque_obj_0", "good/data/aotinductor/model/x.so"])
def test_a_pt2_file_with_objects_or_libraries_is_refused(program, tmp_path, member):
    file = rewritten(program, tmp_path / "bad.pt2", lambda name, old: old, **{member: b"x"})
    with pytest.raises(InputError, match=r"contains the member .* is refused"):
        load_network(file)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="needs TensorFlow")
def test_a_saved_model_that_writes_or_reads_files_is_refused(tmp_path):
    import tensorflow as tf

    marker = tmp_path / "canary"

    class Writer(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32, name="pixels")])
        def serve(self, pixels):
            tf.io.write_file(str(marker), "x")
            return {"logits": pixels}

    class Reader(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32, name="pixels")])
        def serve(self, pixels):
            return {"logits": pixels + tf.cast(tf.strings.length(tf.io.read_file("/etc/passwd")), tf.float32)}

    for module, operation in ((Writer(), "WriteFile"), (Reader(), "ReadFile")):
        path = tmp_path / operation
        tf.saved_model.save(module, path, signatures={"serving_default": module.serve})
        (path / "assets.extra").mkdir()
        (path / "assets.extra" / "model_info.json").write_text(json.dumps(GOOD))
        with pytest.raises(InputError, match=f"contains the operation {operation}, which does more than compute"):
            load_network(path)
    assert not marker.exists()
    tf.saved_model.load(str(tmp_path / "WriteFile")).signatures["serving_default"](pixels=tf.zeros((1, 2, 2, 3)))
    assert marker.exists()


@pytest.mark.backend_free
@pytest.mark.parametrize("place", ["secret.bin", "../secret.bin", "/etc/passwd"])
def test_an_onnx_file_reads_no_other_file(tmp_path, place):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    folder = tmp_path / "folder"
    folder.mkdir()
    for secret in (tmp_path / "secret.bin", folder / "secret.bin"):
        secret.write_bytes(bytes(12))
    weight = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[3], data_location=1)
    for key, value in (("location", place), ("offset", "0"), ("length", "12")):
        weight.external_data.add(key=key, value=value)
    sides = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["b", "h", "w", 3]) for name in ("pixels", "y")
    ]
    nodes = [onnx.helper.make_node("Add", ["pixels", "w"], ["y"])]
    graph = onnx.helper.make_graph(nodes, "g", sides[:1], sides[1:], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.helper.set_model_props(model, {"model_info": json.dumps(GOOD)})
    (folder / "bad.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=r"bad\.onnx: ONNX Runtime cannot load it"):
        load_network(folder / "bad.onnx")


@pytest.mark.backend_free
def test_an_openvino_file_expands_no_entities(tmp_path):
    pytest.importorskip("openvino")
    entities = "".join(f'<!ENTITY e{i + 1} "{f"&e{i};" * 10}">' for i in range(12))
    text = f'<!DOCTYPE net [<!ENTITY e0 "x"><!ENTITY file SYSTEM "file:///etc/passwd">{entities}]>'
    (tmp_path / "bad.xml").write_text(f'<?xml version="1.0"?>{text}<net name="&e12;&file;" version="11"></net>')
    (tmp_path / "bad.bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"bad\.xml: "):
        load_network(tmp_path / "bad.xml")


# === Runs ===

RUN_FILES = ("run.json", "metrics.json", "history.csv", "environment.json", "data.csv", "last.keras", "best.keras")


def _pipe(path):
    path.unlink()
    os.mkfifo(path)


def _folder(path):
    path.unlink()
    path.mkdir()


RUIN = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 4),
    "deep": lambda path: path.write_text(DEEP),
    "another type": lambda path: path.write_text('[{"a": "b"}]'),
    "a folder": _folder,
    "a pipe": _pipe,
}


def _snapshot(folder: Path) -> dict:
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.name in (*RUN_FILES, "config.yaml") and path.is_file()
    }


@pytest.fixture
def damaged(trained_run, tmp_path):
    """Copy the trained run, with metrics, and damage one of its files."""

    def make(name, ruin):
        run = Run(shutil.copytree(trained_run.path, tmp_path / "run", dirs_exist_ok=False))
        run.write_metrics("test", {"mean_iou": {"dataset": 0.5, "per_image": 0.5}})
        RUIN[ruin](run.path / name)
        return run

    return make


def _readers(run: Run, name: str):
    """What reads a file of a run."""
    from unet.training import train

    return {
        "run.json": [lambda: run.info, lambda: load_network(run.path), lambda: train(run)],
        "metrics.json": [run.metrics, lambda: run.write_metrics("test", {})],
        "history.csv": [lambda: train(run)],
        "environment.json": [run.starts, lambda: train(run)],
        "data.csv": [],
        "last.keras": [lambda: train(run)],
        "best.keras": [lambda: load_network(run.path)],
    }[name]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize(
    "ruin",
    [
        pytest.param(ruin, marks=[] if ruin in ("empty", "another type", "a folder") else pytest.mark.slow)
        for ruin in RUIN
    ],
)
@pytest.mark.parametrize("name", [name for name in RUN_FILES if name != "data.csv"])
def test_a_damaged_file_of_a_run_gives_one_message_and_nothing_is_overwritten(damaged, name, ruin):
    run = damaged(name, ruin)
    before = _snapshot(run.path)
    for read in _readers(run, name):
        with pytest.raises(InputError) as caught:
            read()
        assert str(run.path) in str(caught.value)
        assert "\n" not in str(caught.value)
    after = _snapshot(run.path)
    after.pop("environment.json", None), before.pop("environment.json", None)  # the start that failed is recorded
    assert after == before


def test_a_finished_run_without_its_history_is_not_called_finished(trained_run, tmp_path):
    from unet.training import train

    for lose in (lambda path: path.write_text(""), lambda path: path.unlink()):
        run = Run(shutil.copytree(trained_run.path, tmp_path / "run"))
        lose(run.history_file)
        with pytest.raises(InputError, match=r"has 0 epochs, and last\.keras was saved after 2"):
            train(run)
        shutil.rmtree(run.path)


SHORT = {"mean_iou": {"dataset": 0.5}, "iou": {}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"test": {}, "cost": {}}, "metrics.json: test: mean_iou: Field required"),
        ({"test": {"mean_iou": 5}, "cost": {}}, "metrics.json: test: mean_iou: should be a valid dictionary"),
        ({"test": {"mean_iou": {"dataset": "x"}}, "cost": {}}, "metrics.json: test: mean_iou.dataset: should be a"),
        ({"test": SHORT, "cost": {}}, "metrics.json: test: mean_boundary_iou: Field required"),
    ],
)
@pytest.mark.backend_free
def test_a_report_of_incomplete_metrics_is_refused(tmp_path, content, message):
    from unet.ablation.report import results
    from unet.ablation.run.finished import RunsByVariant

    run = Run(tmp_path)
    run.metrics_file.write_text(json.dumps(content))
    analysis = types.SimpleNamespace(variants=[types.SimpleNamespace(name="nearest")], to_baseline=[])
    runs = RunsByVariant({("nearest", 0): run}, ("nearest",), (0,))
    with pytest.raises(InputError) as caught:
        results._variant(runs, "nearest", analysis, {})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_model_card_refuses_incomplete_metrics_and_shows_undefined_ones(trained_run, tmp_path):
    from unet.export.card import card_scores, model_card

    run = Run(shutil.copytree(trained_run.path, tmp_path / "run"))
    undefined = {"dataset": None, "per_image": None}
    iou = dict.fromkeys(run.info.classes, undefined)
    whole = {"images": 1, "size": "native", "mean_iou": {"dataset": 0.5}, "iou": iou, "pixel_accuracy": undefined}
    run.write_metrics("test", whole)
    assert "| test | 1 | native | 0.5000 | – | – | – | – |" in model_card(run, tmp_path / "export")
    for damage, message in (({"images": "many"}, "test: images: should be a valid int"), ({"iou": {}}, "no IoU of")):
        run.write_metrics("test", whole | damage)
        with pytest.raises(InputError, match=f"metrics.json: .*{message}"):
            card_scores(run)


def test_records_of_a_run_without_their_content_are_refused(trained_run, tmp_path):
    from unet.training import train

    run = Run(shutil.copytree(trained_run.path, tmp_path / "run"))
    for content in ("{}", '{"starts": []}'):
        run.environment_file.write_text(content)
        with pytest.raises(InputError, match=r"environment\.json: has no entry; restore it from a copy, or delete it"):
            run.starts()
    run.environment_file.unlink()
    run.history_file.write_text("epoch\n1\n2\n")
    with pytest.raises(InputError, match=r"history\.csv: has no validation scores .*; restore it from a copy"):
        train(run)
    run.config_file.write_text("")
    with pytest.raises(InputError, match=r"config\.yaml: is empty; restore it from a copy"):
        train(run)


@pytest.mark.parametrize(
    "text", ["split,name,digest\ntrain,x\n", "split,name,digest\ntrain\n", "split,name,digest\nx,y,z\n"]
)
@pytest.mark.backend_free
def test_a_damaged_list_of_images_is_not_compared(text):
    from unet.data import fingerprint

    with pytest.raises(KeyError):
        fingerprint.from_csv(text)
