"""Every upsampler in every format at a small size; the whole way from a run; what files say of themselves; failures."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

import unet
from benchmarks import export_matrix
from benchmarks.export_matrix import QUANTIZED, make_network, scenes, try_out, writable
from tests.helpers import BACKEND, JIT, ROOT
from unet import config, formats, upsamplers
from unet.errors import InputError, RunError
from unet.evaluation import evaluate, evaluate_file, evaluation_of
from unet.export import export
from unet.formats import FORMATS, load_network
from unet.runs import Run
from unet.training import train
from unet.upsamplers import UPSAMPLERS

SIZE = (20, 28)
"""Not a multiple of twice the network's stride."""
RUNTIMES = {"onnx": ("tf2onnx", "onnxruntime"), "litert": ("ai_edge_litert",), "openvino": ("openvino",)}


def needs(name: str):
    """Skip where this process cannot write the format."""
    if not writable(name):
        pytest.skip(f"{name} is written by the {FORMATS[name].backend} backend")
    for module in RUNTIMES.get(name, ()):
        pytest.importorskip(module)


def here(pairs):
    """The formats with their quantisations that this process can write, or a skip."""
    try:
        import ai_edge_litert  # noqa: F401
        import onnxruntime  # noqa: F401
        import openvino  # noqa: F401
        import tf2onnx  # noqa: F401
    except ImportError:
        pairs = [(name, kind) for name, kind in pairs if name not in RUNTIMES]
    chosen = [(name, kind) for name, kind in pairs if writable(name)]
    return chosen or pytest.skip(f"the {BACKEND} backend writes none of these formats")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small trained run."""
    root = tmp_path_factory.mktemp("runs")
    path = root / "tiny.yaml"
    path.write_text(
        "data: {source: shapes, size: [24, 32], shapes: {train: 80, test: 20}}\n"
        "model: {width: 8, depth: 2, upsampler: bilinear, block: residual}\n"
        "augmentation: {flip: 0.5, scale: [1, 1], brightness: 0, contrast: 0, saturation: 0, hue: 0}\n"
        f"training: {{epochs: 12, batch_size: 8, learning_rate: 5.e-3, jit: {JIT}}}\n"
    )
    run = Run.create(config.load(path), root)
    train(run)
    return run


@pytest.fixture(scope="module")
def mean_iou(run):
    """Of the run on the test split, in Keras."""
    return evaluate(run, "test")["mean_iou"]["dataset"]


def script(name, *arguments, **environment):
    """Run a script; output and errors in one text."""
    command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=300)
    return done.returncode, done.stdout + done.stderr


# === The matrix, small ===


def family(size):
    """A network with every upsampler side by side at one skip connection; four output channels for each."""
    keras.utils.set_random_seed(0)
    pixels = keras.Input((*size, 3), dtype="float32")
    skip = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(keras.layers.Rescaling(1 / 255)(pixels))
    pooled, argmax = upsamplers.MaxPoolWithArgmax()(skip)
    x = keras.layers.Conv2D(4, 3, padding="same")(pooled)
    outputs = [upsamplers.build(name, 4, name=name)(x, skip, argmax) for name in UPSAMPLERS]
    return keras.Model(pixels, keras.layers.Concatenate()(outputs))


@pytest.mark.parametrize("name", FORMATS)
def test_every_upsampler_in_every_format(name, tmp_path):
    """Whole U-Nets with each, and quantised: ``make export-matrix``."""
    needs(name)
    channels = tuple(f"{upsampler} {channel}" for upsampler in UPSAMPLERS for channel in range(4))
    metadata = dataclasses.replace(
        export_matrix.metadata_for("all", name, "none", (21, 27)),
        classes=channels,
        colours=("#000000",) * len(channels),
        activation="none",
    )
    assert metadata.dynamic == (name != "torch")
    network = family((None, None) if metadata.dynamic else metadata.size)
    path = tmp_path / f"family{FORMATS[name].ending}"
    FORMATS[name].write(network, path, metadata, scenes(metadata.size))
    loaded = load_network(path)
    for size in [(21, 27), (20, 28), (1, 1)] if metadata.dynamic else [metadata.size]:
        images = scenes((24, 32))[:, : size[0], : size[1]]
        apart = np.abs(loaded(images) - network.predict_on_batch(images)).reshape(*images.shape[:3], -1, 4).max(-1)
        apart = dict(zip(UPSAMPLERS, np.moveaxis(apart, -1, 0)))
        assert (apart.pop("max_unpool") < 1e-3).mean() >= 0.99, size  # it jumps where values are equal but for rounding
        assert {upsampler for upsampler, values in apart.items() if values.max() > 1e-4} == set(), size


def test_max_unpooling_jumps_in_keras_as_it_does_between_runtimes(rng):
    """Noise of a thousandth of a grey value: logits jump with max-unpooling, and hardly move otherwise."""
    images = scenes((64, 64), 8).astype(np.float32)
    noisy = images + rng.normal(scale=1e-3, size=images.shape).astype(np.float32)
    largest = {}
    for upsampler in ("max_unpool", "bed_of_nails"):
        network = make_network(upsampler, 8, 2)
        apart = np.abs(network.predict_on_batch(noisy) - network.predict_on_batch(images)).max(-1)
        largest[upsampler] = apart.max()
    assert largest["bed_of_nails"] < 1e-3 < largest["max_unpool"] / 10


@pytest.mark.parametrize("upsampler", ["conv_transpose", "max_unpool"])
def test_int8_files_find_mostly_the_same_classes_at_an_odd_size(upsampler, tmp_path):
    network = make_network(upsampler, 4, 1)
    for name, kind in here([pair for pair in QUANTIZED if pair[1] == "int8"]):
        cell = try_out(network, upsampler, name, kind, (21, 27), tmp_path, scenes((21, 27)))
        assert cell["same_class"] > 0.9, (name, kind)


# === From a run ===


@pytest.mark.parametrize("name", FORMATS)
def test_a_run_goes_to_every_format_and_is_scored_there(run, mean_iou, name):
    """The file in its own runtime and the network in Keras get the same scores on the test split."""
    needs(name)
    file, entry = export(run, name)
    assert entry["proof"]["largest_logit_difference"] < 1e-4
    assert entry["proof"]["images"] == 16
    assert json.loads((run.path / "export" / "export.json").read_text())[file.name]["format"] == name
    assert evaluate_file(file)["mean_iou"]["dataset"] == pytest.approx(mean_iou, abs=1e-3)
    assert (evaluation_of(file).figures / "predictions_test.png").is_file()
    assert not list((run.path / "export").glob(".exporting*"))


def test_scores_of_a_file_at_native_size_are_those_of_the_run(run):
    expected = evaluate(run, "test", native=True)
    file, _ = export(run, "keras", activation="none")
    assert evaluate_file(file, "test", native=True)["mean_iou"]["dataset"] == pytest.approx(
        expected["mean_iou"]["dataset"], abs=0.01
    )


def test_a_run_in_half_precision_becomes_a_file_in_float32(tmp_path):
    path = tmp_path / "half.yaml"
    path.write_text(
        "data: {source: shapes, size: 16, shapes: {train: 4, test: 2}}\nmodel: {width: 4, depth: 1}\n"
        f"training: {{epochs: 1, batch_size: 4, jit: {JIT}, precision: mixed_bfloat16}}\n"
    )
    half = Run.create(config.load(path), tmp_path)
    train(half)
    file, _ = export(half, "keras")
    network = keras.saving.load_model(file, compile=False)
    assert {layer.compute_dtype for layer in network.layers} == {"float32"}
    trained = keras.saving.load_model(half.best_file, compile=False)
    for weight, original in zip(network.get_weights(), trained.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, original)


@pytest.mark.parametrize("activation", ["softmax", "none"])
def test_activation(run, activation):
    name = "torch" if BACKEND == "torch" else "savedmodel" if BACKEND == "tensorflow" else "keras"
    file, _ = export(run, name, activation=activation, size=(24, 32))
    output = load_network(file)(scenes((24, 32), 2))
    assert output.shape == (2, 24, 32, 3)
    assert output.dtype == np.float32
    total = output.sum(-1)
    assert np.allclose(total, 1, atol=1e-5) == (activation == "softmax")


def test_a_run_is_exported_from_within_and_again(run, monkeypatch):
    name = "savedmodel" if BACKEND == "tensorflow" else "keras"
    monkeypatch.chdir(run.path)
    first, _ = export(Run.open("."), name, out=Path("again"))
    second, _ = export(Run.open("."), name, out=Path("again"))
    assert first == second
    assert first.name.startswith("tiny")
    assert {path.name for path in first.parent.iterdir()} == {first.name, "export.json", "model_card.md"}


def test_fixed_size(run):
    needs("onnx")
    file, entry = export(run, "onnx", size=(16, 40), out=run.path / "fixed")
    assert entry["size"] == [16, 40]
    network = load_network(file)
    assert network(np.zeros((3, 16, 40, 3), np.uint8)).shape == (3, 16, 40, 3)
    assert network.metadata.size == (16, 40)
    assert unet.load(file).predict(np.zeros((50, 60, 3), np.uint8)).shape == (50, 60)


@pytest.mark.parametrize(("name", "quantize"), QUANTIZED)
def test_quantised_files_keep_mean_iou(run, name, quantize):
    needs(name)
    file, entry = export(run, name, quantize=quantize)
    assert file.stem == f"tiny_{quantize}"
    proof = entry["proof"]
    assert proof["images"] == 20
    assert proof["mean_iou"] == pytest.approx(evaluate_file(file)["mean_iou"]["dataset"], abs=1e-6)
    assert proof["mean_iou"] > proof["mean_iou_float"] - 0.01


def test_int8_litert_is_int8_throughout(run):
    """Input, output and every number between them but indices, as the file itself says."""
    needs("litert")
    file, _ = export(run, "litert", quantize="int8")
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(file))
    assert interpreter.get_input_details()[0]["dtype"] == interpreter.get_output_details()[0]["dtype"] == np.uint8
    interpreter.allocate_tensors()
    kinds = {np.dtype(tensor["dtype"]).name for tensor in interpreter.get_tensor_details()}
    assert kinds <= {"int8", "uint8", "int32", "int64", "bool"}


# === What files say of themselves ===


def metadata_of(name: str, file: Path) -> dict:
    """The metadata, read without this project's loaders."""
    if name == "savedmodel":
        return json.loads((file / "assets.extra" / "model_info.json").read_text())
    if name == "onnx":
        import onnx

        return json.loads({entry.key: entry.value for entry in onnx.load(file).metadata_props}["model_info"])
    if name == "openvino":
        import xml.etree.ElementTree as ElementTree

        (element,) = ElementTree.parse(file).getroot().findall("./rt_info/model_info/metadata")
        return json.loads(element.attrib["value"])
    with zipfile.ZipFile(file) as archive:  # .tflite, .keras and .pt2 are archives
        (member,) = [member for member in archive.namelist() if member.endswith("model_info.json")]
        return json.loads(archive.read(member))


@pytest.mark.parametrize("name", FORMATS)
def test_metadata_can_be_read_with_the_formats_own_tools(run, name):
    needs(name)
    file, _ = export(run, name)
    found = metadata_of(name, file)
    assert found["classes"] == ["pet", "background", "border"]
    assert found["colours"] == ["#E69F00", "#0072B2", "#F0E442"]
    assert found["size"] == [24, 32]
    assert found["upsampler"] == "bilinear"
    assert "0 to 255" in found["normalization"]
    assert found["config"]["training"]["epochs"] == 12
    assert not {"data_dir", "cache_dir"} & found["config"]["data"].keys()
    assert str(run.path) not in json.dumps(found)


@pytest.mark.parametrize("size", ["dynamic", (24, 32)])
@pytest.mark.parametrize("activation", ["softmax", "none"])
def test_onnx_names_its_output_and_its_axes(run, activation, size):
    needs("onnx")
    import onnxruntime

    file, _ = export(run, "onnx", size=size, activation=activation, out=run.path / "names")
    session = onnxruntime.InferenceSession(file)
    (pixels,), (output,) = session.get_inputs(), session.get_outputs()
    expected = ["height", "width"] if size == "dynamic" else [24, 32]
    assert pixels.name == "pixels"
    assert pixels.shape == ["batch", *expected, 3]
    assert output.name == {"softmax": "probabilities", "none": "logits"}[activation]
    assert output.shape == ["batch", *expected, 3]


def test_the_model_card_names_files_scores_and_terms(run):
    evaluate(run, "test")
    export(run, "keras", out=run.path / "card")
    card = (run.path / "card" / "model_card.md").read_text()
    score = run.metrics()["test"]["mean_iou"]["dataset"]
    for text in ("`tiny.keras`", "`bilinear`", "pet, background, border", f"{score:.4f}", "Apache-2.0", "24×32"):
        assert text in card


def test_an_onnx_file_runs_where_neither_keras_nor_tensorflow_is(run):
    needs("onnx")
    file, _ = export(run, "onnx")
    code = (
        "import sys\n"
        "for name in ('keras', 'tensorflow', 'jax', 'torch'):\n    sys.modules[name] = None\n"
        f"import numpy as np, unet\nprint(unet.load({str(file)!r}).predict(np.zeros((30, 41, 3), np.uint8)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "(30, 41)", done.stderr


# === The command ===


def test_the_command_rebuilds_the_network_on_the_backend_of_the_format(run):
    pytest.importorskip("torch")
    code, said = script("export", run.path, "--format", "torch", "--out", run.path / "command")
    assert code == 0, said
    assert "height and width are fixed at 24×32" in said
    assert ("rebuilt on torch with the same weights" in said) == (BACKEND != "torch")
    assert "largest difference in logits" in said
    assert (run.path / "command" / "tiny.pt2").is_file()
    if BACKEND == "torch":
        network = load_network(run.path / "command" / "tiny.pt2")
        images = scenes((24, 32), 2)
        mine = keras.saving.load_model(run.best_file, compile=False).predict_on_batch(images).argmax(-1)
        assert (network(images).argmax(-1) == mine).mean() > 0.99


def test_a_run_trained_on_jax_is_written_by_tensorflow(tmp_path):
    needs("onnx")
    pytest.importorskip("jax")
    settings = "data: {source: shapes, size: 16, shapes: {train: 8, test: 4}}\nmodel: {width: 4, depth: 1}\n"
    (tmp_path / "tiny.yaml").write_text(settings + "training: {epochs: 1, batch_size: 4, jit: true}\n")
    code, said = script("train", tmp_path / "tiny.yaml", "--root", tmp_path, KERAS_BACKEND="jax")
    assert code == 0, said
    code, said = script("export", tmp_path / "tiny", "--format", "onnx", KERAS_BACKEND="jax")
    assert code == 0, said
    assert "trained on jax; rebuilt on tensorflow with the same weights" in said
    assert "100.000%" in said


def test_the_command_scores_a_file(run):
    export(run, "keras")
    code, said = script("evaluate", run.path / "export" / "tiny.keras", "--split", "validation")
    assert code == 0, said
    metrics = json.loads((run.path / "export" / "tiny.keras.evaluation" / "metrics.json").read_text())
    assert metrics["validation"]["images"] == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--format", "onix"],
            "'onix' is not one of savedmodel, onnx, litert, openvino, torch, keras; did you mean onnx?",
        ),
        (["--size", "128"], "--size: expected HxW in pixels, as 128x128, or dynamic; received '128'"),
        (["--format", "torch", "--size", "dynamic"], "such a file accepts one size only (torch.export"),
        (["--format", "torch", "--quantize", "int8"], "'int8' is not possible in torch, which supports none"),
        (["--activation", "sigmoid"], "'sigmoid' is not one of softmax, none"),
        (["--format", "keras", "model.width=8"], "model.width: a trained network's data can only be found elsewhere"),
    ],
)
@pytest.mark.backend_free
def test_bad_arguments_end_in_one_message(run, arguments, message):
    if "torch" in arguments:
        pytest.importorskip("torch")
    code, said = script("export", run.path, *arguments, "--out", run.path / "none")
    assert code == 2, said
    assert message in said
    assert not (run.path / "none").exists()


@pytest.mark.backend_free
def test_a_directory_that_is_no_run(tmp_path):
    code, said = script("export", tmp_path)
    assert code == 2
    assert "is not a run directory" in said


# === Failures ===


class Wrong(formats.Format):
    """Writes a .keras file with other weights."""

    suffix = ".keras"
    backend = None

    def write(self, network, path, metadata, examples):
        changed = keras.models.clone_model(network)
        changed.set_weights([1.1 * weights for weights in network.get_weights()])
        FORMATS["keras"].write(changed, path, metadata, examples)

    def load(self, path):
        return FORMATS["keras"].load(path)


def test_a_file_that_fails_its_proof_is_not_left_behind(run, monkeypatch):
    export(run, "keras", out=run.path / "kept")
    before = (run.path / "kept" / "tiny.keras").read_bytes(), (run.path / "kept" / "export.json").read_text()
    monkeypatch.setitem(FORMATS, "wrong", Wrong())
    with pytest.raises(RunError, match="does not do what the network does: its logits differ by up to"):
        export(run, "wrong", out=run.path / "kept")
    assert ((run.path / "kept" / "tiny.keras").read_bytes(), (run.path / "kept" / "export.json").read_text()) == before
    assert {path.name for path in (run.path / "kept").iterdir()} == {"tiny.keras", "export.json", "model_card.md"}


def test_a_network_that_is_not_the_configured_one_is_refused(run, tmp_path):
    other = Run(shutil.copytree(run.path, tmp_path / "other"))
    other.config_file.write_text(other.config_file.read_text().replace("name: bilinear", "name: bicubic"))
    with pytest.raises(RunError, match=r"best.keras is not the network that config.yaml describes"):
        export(other, "keras")


def test_a_converter_that_fails_is_told_in_one_message(run, monkeypatch):
    def fail(*arguments):
        raise ValueError("first line\nop FooBar is unknown")

    monkeypatch.setattr(Wrong, "write", fail)
    monkeypatch.setitem(FORMATS, "wrong", Wrong())
    with pytest.raises(RunError, match=r"tiny.keras: could not be converted: ValueError: op FooBar is unknown"):
        export(run, "wrong", out=run.path / "failed")
    assert not list((run.path / "failed").iterdir())


def test_a_missing_runtime_is_told_with_its_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    file = tmp_path / "net.onnx"
    file.write_bytes(b"")
    with pytest.raises(InputError, match=r"needs onnxruntime: pip install '.\[onnx\]'"):
        load_network(file)


@pytest.mark.parametrize("ending", [".onnx", ".tflite", ".xml", ".pt2", ".keras"])
def test_a_file_of_somebody_else_is_refused(tmp_path, ending):
    for module in {".onnx": RUNTIMES["onnx"], ".tflite": RUNTIMES["litert"], ".xml": RUNTIMES["openvino"]}.get(
        ending, ()
    ):
        pytest.importorskip(module)
    if ending == ".pt2":
        pytest.importorskip("torch")
    file = tmp_path / f"net{ending}"
    file.write_bytes(b"something else")
    file.with_suffix(".bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"net\."):
        load_network(file)


def test_foreign_metadata_are_refused(tmp_path):
    (tmp_path / "saved_model.pb").touch()
    (tmp_path / "assets.extra").mkdir()
    (tmp_path / "assets.extra" / "model_info.json").write_text('{"classes": ["pet"]}')
    with pytest.raises(InputError, match="metadata lack activation, dynamic, size"):
        load_network(tmp_path)


def test_an_untrained_run_cannot_be_exported(tmp_path):
    path = tmp_path / "fresh.yaml"
    path.write_text("data: {source: shapes}")
    with pytest.raises(InputError, match="has no best"):
        export(Run.create(config.load(path), tmp_path), "keras")
