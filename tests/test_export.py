"""Export of a run to every format, the metadata of the files, and failures; every upsampler in every format."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import matplotlib
import numpy as np
import pytest
from PIL import Image

import unet
from benchmarks import export_matrix
from benchmarks.export_matrix import QUANTIZED, make_network, scenes, try_out, writable
from tests.helpers import BACKEND, JIT, ROOT
from tests.helpers.commands import run_unet, run_unet_process
from tests.helpers.formats import RUNTIMES, needs
from unet import config, formats, upsamplers
from unet.blocks import ClassIds
from unet.data.shapes import draw_scene
from unet.errors import InputError, RunError
from unet.evaluation import evaluate, evaluate_file, evaluation_of
from unet.export import ClassesProof, FloatProof, QuantizedProof, export, model_card, proof, read_proof
from unet.files import UNFINISHED
from unet.formats import FORMATS, Metadata, load_network
from unet.runs import Run
from unet.training import train
from unet.upsamplers import UPSAMPLERS

pytestmark = [pytest.mark.slow] if BACKEND == "jax" else []  # JAX writes no format but .keras


def here(pairs):
    """The formats with their quantizations that this process can write, or a skip."""
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
    """A small run, trained for long enough to keep its classes in 8 bits."""
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
def exported(run, mean_iou):
    """Export the evaluated run, once per format and quantization; a function that returns file and entry."""
    done = {}

    def get(name, quantize="none"):
        needs(name)
        if (name, quantize) not in done:
            done[name, quantize] = export(run, name, quantize=quantize)
        return done[name, quantize]

    return get


@pytest.fixture(scope="module")
def mean_iou(run):
    """Mean IoU of the run on the test split, in Keras."""
    return evaluate(run, "test")["mean_iou"]["dataset"]


# === Every upsampler, in a small network ===


def family(size):
    """A network with every upsampler side by side at one skip connection; four output channels for each."""
    keras.utils.set_random_seed(0)
    pixels = keras.Input((*size, 3), dtype="float32")
    skip = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(keras.layers.Rescaling(1 / 255)(pixels))
    pooled, argmax = upsamplers.MaxPoolWithArgmax()(skip)
    x = keras.layers.Conv2D(4, 3, padding="same")(pooled)
    outputs = [upsamplers.build(name, 4, name=name)(x, skip, argmax) for name in UPSAMPLERS]
    return keras.Model(pixels, keras.layers.Concatenate()(outputs))


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_every_upsampler_in_every_format(name, tmp_path):
    """For whole U-Nets, also quantized, see ``make export-matrix``."""
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
        assert (apart.pop("max_unpool") < 1e-3).mean() >= 0.99, size  # not continuous
        assert {upsampler for upsampler, values in apart.items() if values.max() > 1e-4} == set(), size


def test_max_unpooling_jumps_in_keras_as_it_does_between_runtimes(rng):
    """Noise of a thousandth of a grey level: logits jump with max-unpooling, and hardly change otherwise."""
    images = scenes((64, 64), 8).astype(np.float32)
    noisy = images + rng.normal(scale=1e-3, size=images.shape).astype(np.float32)
    largest = {}
    for upsampler in ("max_unpool", "bed_of_nails"):
        network = make_network(upsampler, 8, 2)
        apart = np.abs(network.predict_on_batch(noisy) - network.predict_on_batch(images)).max(-1)
        largest[upsampler] = apart.max()
    assert largest["bed_of_nails"] < 1e-3 < largest["max_unpool"] / 10


@pytest.mark.slow
@pytest.mark.parametrize("upsampler", ["conv_transpose", "max_unpool"])
def test_int8_files_find_mostly_the_same_classes_at_an_odd_size(upsampler, tmp_path):
    network = make_network(upsampler, 4, 1)
    for name, kind in here([pair for pair in QUANTIZED if pair[1] == "int8"]):
        cell = try_out(network, upsampler, name, kind, (21, 27), tmp_path, scenes((21, 27)))
        assert cell["same_class"] > 0.9, (name, kind)


# === From a run ===


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in ("litert", "openvino") else ()) for n in FORMATS]
)
def test_a_run_is_exported_to_every_format_and_scored_there(run, exported, mean_iou, name):
    """The file in its own runtime and the network in Keras have the same scores on the test split."""
    file, entry = exported(name)
    assert entry["proof"]["largest_logit_difference"] < 1e-4
    assert entry["proof"]["images"] == 16
    assert entry["proof"]["compared_on"] == "test images"
    assert json.loads((run.path / "export" / "export.json").read_text())[file.name]["format"] == name
    assert evaluate_file(file)["mean_iou"]["dataset"] == pytest.approx(mean_iou, abs=1e-3)
    assert (evaluation_of(file).figures / "predictions_test.png").is_file()
    assert not list((run.path / "export").glob(".unfinished*"))


def test_scores_of_a_file_at_native_size_are_those_of_the_run(run, exported):
    expected = evaluate(run, "test", native=True)
    file, _ = exported("keras")
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
    file, _ = export(run, "keras", activation=activation, size=(24, 32), out=run.path / f"activation_{activation}")
    output = load_network(file)(scenes((24, 32), 2))
    assert output.shape == (2, 24, 32, 3)
    assert output.dtype == np.float32
    total = output.sum(-1)
    assert np.allclose(total, 1, atol=1e-5) == (activation == "softmax")


@pytest.mark.parametrize(
    "name", ["keras", *(pytest.param(name, marks=pytest.mark.slow) for name in FORMATS if name != "keras")]
)
def test_class_ids_are_those_of_the_network_except_for_ties(run, name, tmp_path):
    needs(name)
    file, entry = export(run, name, activation="classes", out=tmp_path)
    assert file.stem.startswith("tiny_classes")
    assert entry["activation"] == "classes"
    assert entry["proof"]["kind"] == "classes"
    assert entry["proof"]["largest_gap"] <= 1e-3
    loaded = load_network(file)
    assert loaded.metadata.activation == "classes"
    images = scenes((24, 32), 5)
    ids = loaded(images)
    assert (ids.shape, ids.dtype) == ((5, 24, 32), np.uint8)
    logits = keras.saving.load_model(run.best_file, compile=False).predict_on_batch(images)
    logits = np.asarray(logits, np.float64)
    ranked = np.sort(logits, axis=-1)
    tied = ranked[..., -1] - ranked[..., -2] < 1e-3
    assert tied.mean() < 0.01
    np.testing.assert_array_equal(ids[~tied], logits.argmax(-1)[~tied])
    assert len(np.unique(ids)) == 3
    card = (tmp_path / "model_card.md").read_text()
    assert "| class ids | float32 |" in card
    assert "uint8 `(batch, height, width)`" in card
    np.testing.assert_array_equal(unet.load(file).predict(images[0]), ids[0])
    with pytest.raises(InputError, match=f"{file.name} returns the class of each pixel only, and scoring needs the"):
        evaluate_file(file)


def test_equal_logits_give_the_first_class():
    logits = np.zeros((1, 2, 2, 4), np.float32)
    logits[0, 0, 0] = [1, 3, 3, 2]
    logits[0, 1, 1] = [-0.0, 0, 0, 0]
    inputs = keras.Input((2, 2, 4))
    found = keras.Model(inputs, ClassIds()(inputs)).predict_on_batch(logits)
    assert np.asarray(found)[0, 0].tolist() == [1, 0]
    assert np.asarray(found).dtype == np.uint8


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("upsampler", "quantization", "differences", "accepted"),
    [
        ("nearest", "none", (1.0, 0.0, 1.0), True),
        ("nearest", "none", (0.9995, 9e-4, 1.0), True),
        ("nearest", "none", (0.9995, 2e-3, 0.9999), False),
        ("nearest", "none", (0.998, 9e-4, 1.0), False),
        ("max_unpool", "none", (0.9995, 0.5, 0.9995), True),
        ("nearest", "float16", (0.995, 0.02, 0.996), True),
        ("nearest", "float16", (0.98, 0.02, 0.996), False),
    ],
)
def test_what_a_proof_of_class_ids_accepts(upsampler, quantization, differences, accepted):
    metadata = dataclasses.replace(export_matrix.metadata_for(upsampler, "litert", quantization, (8, 8)))
    same, gap, within = differences
    found = ClassesProof(images=1, same_class=same, largest_gap=gap, within=within)
    assert (found.judge(metadata) == "") == accepted
    assert read_proof(proof.to_json(found)) == found


@pytest.mark.slow
def test_a_run_is_exported_from_within_and_again(run, exported, monkeypatch):
    """A SavedModel is a directory, which cannot be replaced in one step."""
    name = "savedmodel" if BACKEND == "tensorflow" else "keras"
    first, _ = exported(name)
    monkeypatch.chdir(run.path)
    second, _ = export(Run.open("."), name)
    assert second.absolute() == first
    assert first.name.startswith("tiny")
    assert not [path for path in first.parent.iterdir() if path.name.startswith((UNFINISHED, "before-"))]
    assert load_network(second).metadata.classes == run.info.classes


@pytest.mark.parametrize(
    ("name", "quantize"),
    [kind if kind == ("litert", "int8") else pytest.param(*kind, marks=pytest.mark.slow) for kind in QUANTIZED],
)
def test_quantized_files_keep_mean_iou(exported, mean_iou, name, quantize):
    file, entry = exported(name, quantize)
    assert file.stem == f"tiny_{quantize}"
    proof = entry["proof"]
    assert proof["images"] == 20
    assert proof["mean_iou"] == pytest.approx(evaluate_file(file)["mean_iou"]["dataset"], abs=1e-6)
    assert proof["mean_iou_float"] == pytest.approx(mean_iou, abs=1e-3)
    assert proof["mean_iou"] > proof["mean_iou_float"] - 0.01


@pytest.mark.slow
def test_two_products_of_int8_onnx_fit_into_16_bits(exported):
    """Processors without VNNI add them in 16 bits, where larger sums become the largest number."""
    file, _ = exported("onnx", "int8")
    import onnx

    weights = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(file).graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and tensor.dims
    ]
    assert len(weights) > 10
    assert max(abs(array.astype(int)).max() for array in weights) <= 64


def test_int8_litert_is_int8_throughout(exported):
    """Input, output and every number between them except indices, according to the file itself."""
    file, _ = exported("litert", "int8")
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(file))
    assert interpreter.get_input_details()[0]["dtype"] == interpreter.get_output_details()[0]["dtype"] == np.uint8
    interpreter.allocate_tensors()
    kinds = {np.dtype(tensor["dtype"]).name for tensor in interpreter.get_tensor_details()}
    assert kinds <= {"int8", "uint8", "int32", "int64", "bool"}


@pytest.mark.slow
def test_the_progress_of_a_quantized_comparison_is_visible(run, monkeypatch, capfd):
    """Standard error is silenced during the conversion only."""
    needs("onnx")

    def track(items, total, description):
        os.write(2, description.encode())
        return items

    monkeypatch.setattr(proof, "track", track)
    export(run, "onnx", quantize="int8", out=run.path / "progress")
    assert capfd.readouterr().err.endswith("comparing on test images")


def test_what_belongs_to_the_caller_stays_as_it_was(run, exported, monkeypatch):
    """Environment variables, signal handlers, paths of modules, and matplotlib's backend and style."""
    monkeypatch.setitem(matplotlib.rcParams, "backend", "svg")

    def of_the_caller():
        handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
        return dict(os.environ), handlers, list(sys.path), dict(matplotlib.rcParams)

    before = of_the_caller()
    predictor = unet.load(exported("onnx" if BACKEND == "tensorflow" else "keras")[0])
    predictor.predict(scenes((24, 32), 1))
    unet.load(run.path)
    evaluate(run)
    assert of_the_caller() == before
    assert matplotlib.get_backend() == "svg"


# === Without the data ===


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run whose data and cache are gone, and where the data are now."""
    root = tmp_path_factory.mktemp("alone")
    for index in range(12):
        image, mask = draw_scene(np.random.default_rng(index))
        for folder, pixels in (("images", image), ("masks", mask)):
            (root / "data" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / "data" / folder / f"{index}.png")
    (root / "alone.yaml").write_text(
        f"data: {{source: folder, data_dir: {root / 'data'}, cache_dir: {root / 'cache'}, size: [24, 32],\n"
        "  folder: {classes: [cat, ground, edge], test_fraction: 0.3}}\n"
        f"model: {{width: 4, depth: 1}}\ntraining: {{epochs: 1, batch_size: 4, jit: {JIT}}}\n"
    )
    run = Run.create(config.load(root / "alone.yaml"), root / "runs")
    train(run)
    shutil.rmtree(root / "cache")
    (root / "data").rename(root / "moved")
    return run, root / "moved"


def test_a_run_alone_is_loaded_and_segments(alone, tmp_path):
    run, _ = alone
    page = pytest.importorskip("unet.page", reason="needs the packages of the page")
    predictor = page.load(run.path)
    assert predictor.metadata.classes == ("cat", "ground", "edge")
    html = page.segment([predictor], save_photograph(tmp_path / "photo.png"))
    assert "edge" in html
    done = run_unet("predict", run.path, tmp_path / "photo.png", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "masks: masks (1 image)" in done.out
    assert (tmp_path / "masks" / "photo.png").is_file()


def save_photograph(path):
    Image.fromarray(draw_scene(np.random.default_rng(0))[0]).save(path)
    return path


@pytest.mark.parametrize(("name", "quantize"), [("keras", "none"), ("onnx", "none"), ("litert", "float16")])
def test_a_run_alone_is_exported_and_compared_on_drawn_images(alone, name, quantize):
    needs(name)
    run, _ = alone
    file, entry = export(run, name, quantize=quantize)
    assert entry["proof"]["kind"] == "float"
    assert entry["proof"]["compared_on"] == "drawn images"
    assert entry["proof"]["images"] == 16
    assert "compared on: 16 drawn images" in (file.parent / "model_card.md").read_text()
    assert unet.load(file).predict(scenes((24, 32), 1)[0]).shape == (24, 32)


def test_int8_needs_the_data_of_the_run_wherever_they_are(alone):
    needs("onnx")
    run, moved = alone
    with pytest.raises(InputError, match=r"int8 files are calibrated on the training images.*data\.data_dir=NEW"):
        export(run, "onnx", quantize="int8")
    _, entry = export(run, "onnx", quantize="int8", overrides=(f"data.data_dir={moved}",), size=(16, 24))
    assert entry["proof"]["compared_on"] == "test images"
    assert entry["size"] == [16, 24]


# === Metadata ===


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


@pytest.mark.parametrize(
    "name", ["onnx", *(pytest.param(name, marks=pytest.mark.slow) for name in FORMATS if name != "onnx")]
)
def test_metadata_can_be_read_with_the_formats_own_tools(run, exported, name):
    file, _ = exported(name)
    found = metadata_of(name, file)
    assert found["version"] == 1
    assert found["classes"] == ["pet", "background", "border"]
    assert found["colours"] == ["#E69F00", "#0072B2", "#F0E442"]
    assert found["size"] == [24, 32]
    assert found["upsampler"] == "bilinear"
    assert "0 to 255" in found["normalization"]
    assert found["config"]["training"]["epochs"] == 12
    assert not {"data_dir", "cache_dir"} & found["config"]["data"].keys()
    assert str(run.path) not in json.dumps(found)


def test_onnx_names_its_output_and_its_axes_of_any_or_of_one_size(run, exported):
    files = {"probabilities": exported("onnx")[0]}
    files["logits"], entry = export(run, "onnx", size=(16, 40), activation="none", out=run.path / "fixed")
    import onnxruntime

    for name, axes in (("probabilities", ["batch", "height", "width", 3]), ("logits", ["batch", 16, 40, 3])):
        session = onnxruntime.InferenceSession(files[name])
        (pixels,), (output,) = session.get_inputs(), session.get_outputs()
        assert pixels.name == "pixels"
        assert output.name == name
        assert pixels.shape == output.shape == axes
    assert entry["size"] == [16, 40]
    network = load_network(files["logits"])
    assert network(np.zeros((3, 16, 40, 3), np.uint8)).shape == (3, 16, 40, 3)
    assert network.metadata.size == (16, 40)
    assert unet.load(files["logits"]).predict(np.zeros((50, 60, 3), np.uint8)).shape == (50, 60)


@pytest.mark.backend_free
def test_metadata_written_before_a_field_existed_are_read():
    found = Metadata.from_json('{"classes": ["a", "b"], "size": [8, 16], "dynamic": true, "activation": "none"}')
    assert found.size == (8, 16)
    assert found.version == 1
    assert found.colours == ("#E69F00", "#0072B2")
    assert found.quantization == "none"
    assert found.stride == 16
    assert "0 to 255" in found.normalization
    assert "not stated" in found.licence
    full = dataclasses.replace(found, licence="mine", config={"model": {"depth": 2}})
    assert Metadata.from_json(full.to_json()) == full
    with pytest.raises(ValueError, match=r"newer version of unet-upsamplers \(metadata version 3.*upgrade"):
        Metadata.from_json(full.to_json().replace('"version": 1', '"version": 3'))


def test_a_file_of_an_earlier_version_is_loaded(exported, tmp_path):
    """A .keras file whose metadata have only the required fields."""
    file, _ = exported("keras")
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(tmp_path / "old.keras", "w") as new:
        for member in old.namelist():
            content = old.read(member)
            if member == "model_info.json":
                required = ("classes", "size", "dynamic", "activation")
                content = json.dumps({key: json.loads(content)[key] for key in required})
            new.writestr(member, content)
    images = scenes((24, 32), 2)
    for options in ({}, {"mode": "tile"}):
        masks = [unet.load(path).predict(images, **options) for path in (file, tmp_path / "old.keras")]
        np.testing.assert_array_equal(*masks)


# === Proof and model card ===


@pytest.mark.backend_free
def test_records_of_earlier_versions_are_read():
    """Entries of export.json without a kind, as version 0.1 wrote them."""
    old = {"images": 16, "largest_logit_difference": 2e-6, "within": 1.0, "same_class": 1.0}
    assert read_proof(old) == FloatProof(largest_logit_difference=2e-6, images=16, same_class=1.0)
    old = {"images": 3669, "mean_iou": 0.64, "mean_iou_float": 0.65, "same_class": 0.99}
    found = read_proof(old)
    assert found == QuantizedProof(images=3669, mean_iou=0.64, mean_iou_float=0.65, same_class=0.99)
    assert found.rows()["mean IoU"] == "0.6400 (float32: 0.6500)"
    assert read_proof(proof.to_json(found)) == found


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("upsampler", "quantization", "differences", "accepted"),
    [
        ("nearest", "none", (9e-4, 1.0, 1.0), True),
        ("nearest", "none", (1.1e-3, 0.999, 1.0), False),
        ("nearest", "none", (9e-4, 1.0, 0.998), False),
        ("max_unpool", "none", (0.5, 0.991, 0.9995), True),
        ("max_unpool", "none", (0.5, 0.98, 0.9995), False),
        ("nearest", "float16", (0.02, 0.2, 0.995), True),
        ("nearest", "float16", (0.02, 0.2, 0.98), False),
    ],
)
def test_what_a_proof_accepts(upsampler, quantization, differences, accepted):
    metadata = dataclasses.replace(export_matrix.metadata_for(upsampler, "onnx", quantization, (8, 8)))
    difference, within, same = differences
    found = FloatProof(images=1, largest_logit_difference=difference, within=within, same_class=same)
    assert (found.judge(metadata) == "") == accepted


@pytest.mark.backend_free
def test_quantization_may_lose_one_point_of_mean_iou():
    metadata = export_matrix.metadata_for("nearest", "onnx", "int8", (8, 8))
    for reached, accepted in ((0.641, True), (0.639, False)):
        found = QuantizedProof(images=1, mean_iou=reached, mean_iou_float=0.65, same_class=0.9)
        assert (found.judge(metadata) == "") == accepted


def test_the_model_card_names_files_scores_and_terms(run, mean_iou, tmp_path):
    directory = export(run, "keras")[0].parent
    card = (directory / "model_card.md").read_text()
    assert model_card(run, directory) == card
    expected = ("`tiny.keras`", "`bilinear`", "compared on: 16 test images", "pet, background, border", "Apache-2.0")
    for text in (*expected, "24×32"):
        assert text in card
    # The card of files that an earlier version exported, whose proofs have no kind, and of the run's scores.
    entries = json.loads((directory / "export.json").read_text())
    del entries["tiny.keras"]["proof"]["kind"]
    (tmp_path / "export.json").write_text(json.dumps({"tiny.keras": entries["tiny.keras"]}))
    card = model_card(run, tmp_path)
    assert f"| {mean_iou:.4f} |" in card
    assert "compared on: 16 test images" in card
    scores = run.metrics()["test"]
    found = [scores[key][name]["dataset"] for name in ("pet", "border") for key in ("precision", "recall")]
    for row in ("| test | pet | {:.4f} | {:.4f} |\n", "| test | border | {:.4f} | {:.4f} |\n"):
        assert row.format(found.pop(0), found.pop(0)) in card


@pytest.mark.parametrize("missing", [("precision",), ("precision", "recall", "mean_precision", "mean_recall")])
def test_the_model_card_of_a_run_that_an_earlier_version_evaluated(run, mean_iou, tmp_path, missing):
    shutil.copytree(run.path, tmp_path / "run")
    older = Run(tmp_path / "run")
    scores = older.metrics()
    for entry in scores.values():  # of every evaluation, as other tests add some
        for key in missing:
            entry.pop(key, None)
    older.metrics_file.write_text(json.dumps(scores))
    card = model_card(older, tmp_path)
    assert f"| {mean_iou:.4f} |" in card
    assert "precision | recall" not in card


def test_an_onnx_file_runs_where_neither_keras_nor_tensorflow_is(exported):
    file, _ = exported("onnx")
    code = (
        "import sys\n"
        "for name in ('keras', 'tensorflow', 'jax', 'torch'):\n    sys.modules[name] = None\n"
        f"import numpy as np, unet\nprint(unet.load({str(file)!r}).predict(np.zeros((30, 41, 3), np.uint8)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "(30, 41)", done.stderr


# === The command ===


@pytest.mark.slow
def test_the_command_rebuilds_the_network_on_the_backend_of_the_format(run):
    pytest.importorskip("torch")
    done = run_unet_process("export", run.path, "--format", "torch", "--out", run.path / "command")
    assert done.code == 0, done.err
    assert "height and width are fixed at 24×32" in done.err
    assert ("rebuilt on torch with the same weights" in done.err) == (BACKEND != "torch")
    assert "largest difference in logits" in done.out
    assert (run.path / "command" / "tiny.pt2").is_file()
    if BACKEND == "torch":
        network = load_network(run.path / "command" / "tiny.pt2")
        images = scenes((24, 32), 2)
        mine = keras.saving.load_model(run.best_file, compile=False).predict_on_batch(images).argmax(-1)
        assert (network(images).argmax(-1) == mine).mean() > 0.99


@pytest.mark.slow
def test_a_run_trained_on_jax_is_written_by_tensorflow(tmp_path):
    needs("onnx")
    pytest.importorskip("jax")
    settings = "data: {source: shapes, size: 16, shapes: {train: 8, test: 4}}\nmodel: {width: 4, depth: 1}\n"
    (tmp_path / "tiny.yaml").write_text(settings + "training: {epochs: 1, batch_size: 4, jit: true}\n")
    done = run_unet_process("train", tmp_path / "tiny.yaml", "--root", tmp_path, KERAS_BACKEND="jax")
    assert done.code == 0, done.err
    done = run_unet_process("export", tmp_path / "tiny", "--format", "onnx", KERAS_BACKEND="jax")
    assert done.code == 0, done.err
    assert "trained on jax; rebuilt on tensorflow with the same weights" in done.err
    assert "100.000%" in done.out


def test_a_format_of_another_backend_is_refused(run):
    name = "savedmodel" if BACKEND == "torch" else "torch"
    with pytest.raises(InputError, match=rf"^format: {name} files are written on the .* set KERAS_BACKEND="):
        export(run, name, out=run.path / "none")


def test_the_command_scores_a_file(exported):
    file, _ = exported("keras")
    done = run_unet("evaluate", file, "--split", "validation")
    assert done.code == 0, done.err
    assert evaluation_of(file).metrics()["validation"]["images"] == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--format", "onix"],
            "--format: 'onix' is not one of savedmodel, onnx, litert, openvino, torch, keras; did you mean onnx?",
        ),
        (["--size", "128"], "--size: expected HxW in pixels, as 128x128, or dynamic; received '128'"),
        (
            ["--format", "litert", "--quantize", "int8", "--size", "dynamic"],
            "--size: such a file accepts one size only (with any size, positions",
        ),
        (
            ["--format", "torch", "--quantize", "int8"],
            "--quantize: 'int8' is not possible in torch, which supports",
        ),
        (["--activation", "softplus"], "--activation: 'softplus' is not one of softmax, sigmoid, none, classes"),
        (["--format", "keras", "model.width=8"], "model.width: cannot be changed for a trained network"),
    ],
)
@pytest.mark.backend_free
def test_bad_arguments_end_in_one_message(run, arguments, message):
    done = run_unet("export", run.path, *arguments, "--out", run.path / "rejected")
    assert done.code == 2, done.err
    assert message in done.err
    assert not (run.path / "rejected").exists()


@pytest.mark.backend_free
def test_a_directory_that_is_not_a_run_is_refused(tmp_path):
    done = run_unet("export", tmp_path)
    assert done.code == 2
    assert "is not a run directory" in done.err


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


def test_a_file_that_fails_its_proof_is_not_left_behind(run, exported, monkeypatch):
    file, _ = exported("keras")
    record = file.with_name("export.json")
    before = file.read_bytes(), record.read_text(), {path.name for path in file.parent.iterdir()}
    monkeypatch.setitem(FORMATS, "wrong", Wrong())
    with pytest.raises(RunError, match="does not do what the network does: its logits differ by up to"):
        export(run, "wrong")
    assert (file.read_bytes(), record.read_text(), {path.name for path in file.parent.iterdir()}) == before


def test_a_network_that_is_not_the_configured_one_is_refused(run, tmp_path):
    other = Run(shutil.copytree(run.path, tmp_path / "other"))
    other.config_file.write_text(other.config_file.read_text().replace("name: bilinear", "name: bicubic"))
    with pytest.raises(RunError, match=r"best.keras is not the network that config.yaml describes"):
        export(other, "keras")


def test_a_failing_converter_gives_one_message(run, monkeypatch):
    def fail(*arguments):
        raise ValueError("first line\nop FooBar is unknown")

    monkeypatch.setattr(Wrong, "write", fail)
    monkeypatch.setitem(FORMATS, "wrong", Wrong())
    with pytest.raises(RunError, match=r"tiny.keras: could not be converted: ValueError: op FooBar is unknown"):
        export(run, "wrong", out=run.path / "failed")
    assert not list((run.path / "failed").iterdir())


def test_a_missing_runtime_is_reported_with_the_remedy(tmp_path, monkeypatch):
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


def prediction_or_refusal(path, pixels):
    try:
        return load_network(path)(pixels)
    except InputError as error:
        return error


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_a_file_cut_anywhere_is_refused_or_still_the_same_network(exported, tmp_path, name):
    """Every file of the export, cut at every percent of its length; every tenth for SavedModel, which loads slowly."""
    file, _ = exported(name)
    parts = [path for path in file.rglob("*") if path.is_file()] if file.is_dir() else [file]
    parts += [path for path in [file.with_suffix(".bin")] if name == "openvino"]
    pixels = np.full((1, 24, 32, 3), 100, np.uint8)
    expected = load_network(file)(pixels)
    for part in parts:
        refused = 0
        for percent in range(0, 100, 10 if file.is_dir() else 1):
            copy = tmp_path / f"{part.name}-{percent}"
            shutil.copytree(file if file.is_dir() else file.parent, copy)
            target = copy if file.is_dir() else copy / file.name
            cut = copy / part.relative_to(file if file.is_dir() else file.parent)
            os.truncate(cut, part.stat().st_size * percent // 100)
            result = prediction_or_refusal(target, pixels)
            if isinstance(result, InputError):
                assert str(target) in str(result)
                assert "\n" not in str(result)
                refused += 1
            else:
                np.testing.assert_array_equal(result, expected)
            shutil.rmtree(copy)
        assert refused or file.is_dir(), part


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
