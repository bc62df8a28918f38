"""Networks that end in one logit for two classes, or in one for each label: from drawn masks to exported files."""

import json
import logging

import keras
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from keras import ops
from PIL import Image
from sklearn.metrics import jaccard_score

import unet
from benchmarks.gradients import gradient
from tests.helpers import BACKEND, JIT, slow_beyond_tensorflow
from tests.helpers.commands import run_unet
from tests.helpers.formats import needs
from unet import config, cost, losses, page
from unet.blocks import TwoClassLogits
from unet.data.sources import IGNORE
from unet.errors import InputError
from unet.evaluation import evaluate, evaluate_file
from unet.export import export
from unet.formats import Metadata, load_network
from unet.model import build_unet, from_config, load_saved
from unet.runs import Run
from unet.training import make_trainer, train
from unet.training.initial_weights import InitialWeights
from unet.training.step import LabelMeanIoU

SIZE = [16, 24]
SHORT = (
    "augmentation: {scale: [1, 1], brightness: 0, contrast: 0, saturation: 0}\n"
    f"training: {{epochs: 15, batch_size: 4, warmup: 0, learning_rate: 0.02, jit: {JIT}}}\n"
)


def draw(root, labels, count=12):
    """Write images with a bright square for each label, and masks of 0 and 255 by label."""
    rng = np.random.default_rng(0)
    for number in range(count):
        image = rng.integers(0, 60, (*SIZE, 3)).astype("uint8")
        for channel, label in enumerate(labels):
            y, x = rng.integers(0, 8), rng.integers(0, 16)
            mask = np.zeros(SIZE, "uint8")
            mask[y : y + 8, x : x + 8] = 255
            image[..., channel] += mask // 255 * 180
            for folder, pixels in ((root / "images", image), (root / label, mask)):
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    """A run on masks of 0 and 255 that ends in one logit."""
    root = tmp_path_factory.mktemp("binary")
    draw(root, ["masks"])
    path = root / "road.yaml"
    path.write_text(
        f"data: {{source: folder, data_dir: ., size: {SIZE}, folder: {{classes: {{background: 0, road: 255}}}}}}\n"
        "model: {head: sigmoid, width: 4, depth: 2, upsampler: nearest, decoder: {deep_supervision: 0.5}}\n" + SHORT
    )
    run = Run.create(config.load(path), root / "runs")
    train(run)
    return run


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A run on two labels that overlap."""
    root = tmp_path_factory.mktemp("labelled")
    draw(root, ["roof", "solar"])
    (root / "solar" / "3.png").unlink()
    path = root / "town.yaml"
    path.write_text(
        f"data: {{source: folder, data_dir: ., size: {SIZE}, folder: {{masks: {{roof: roof, solar: solar}}}}}}\n"
        "model: {width: 4, depth: 2, upsampler: nearest, decoder: {deep_supervision: 0.5}}\n"
        "loss: {dice: 0.5, class_weights: auto}\n" + SHORT
    )
    run = Run.create(config.load(path), root / "runs")
    train(run)
    return run


@pytest.mark.parametrize("weights", [None, [0.5, 3.0]])
def test_the_cross_entropy_is_the_binary_one_of_torch(rng, weights):
    mask = rng.choice([0, 1, 1, IGNORE], (2, 5, 7)).astype("int32")
    z = rng.normal(0, 3, (2, 5, 7, 1)).astype("float32")
    tensor, valid = torch.tensor(z, requires_grad=True), torch.tensor(mask != IGNORE)
    truth = torch.tensor(mask)[valid].float()
    weight = torch.ones_like(truth) if weights is None else torch.tensor(weights)[truth.long()]
    expected = F.binary_cross_entropy_with_logits(tensor[..., 0][valid], truth, weight, reduction="sum") / weight.sum()
    expected.backward()

    def loss(z):
        return losses.cross_entropy(ops.convert_to_tensor(mask), TwoClassLogits()(z), weights)

    assert float(ops.convert_to_numpy(loss(ops.convert_to_tensor(z)))) == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(gradient(loss, z), tensor.grad.numpy(), atol=1e-6)


def test_the_dice_loss_is_that_of_both_sigmoids(rng):
    mask = rng.integers(0, 2, (2, 5, 7)).astype("int32")
    z = rng.normal(0, 2, (2, 5, 7, 1)).astype("float32")
    p = 1 / (1 + np.exp(-z[..., 0].astype(float)))
    expected = [1 - 2 * (q * truth).sum() / (q + truth).sum() for q, truth in ((p, mask == 1), (1 - p, mask == 0))]
    found = losses.dice(ops.convert_to_tensor(mask), TwoClassLogits()(ops.convert_to_tensor(z)))
    assert float(ops.convert_to_numpy(found)) == pytest.approx(np.mean(expected), rel=1e-5)


def test_the_network_has_one_channel_and_otherwise_the_same_weights(rng):
    one, two = (build_unet(2, width=4, depth=1, head=head, input_shape=(9, 11, 3)) for head in ("sigmoid", "softmax"))
    parameters = {stage.name: stage.parameters for stage in cost.stages(one)}
    assert parameters["logits"] == 4 + 1
    assert one.count_params() == two.count_params() - 5
    for layer in two.layers:
        if layer.name != "logits":
            np.testing.assert_equal(one.get_layer(layer.name).get_weights(), layer.get_weights())
    pixels = rng.uniform(0, 255, (2, 9, 11, 3)).astype("float32")
    logits = ops.convert_to_numpy(one(pixels))
    last = one.get_layer("logits")
    z = ops.convert_to_numpy(keras.Model(one.inputs, last.output)(pixels))
    np.testing.assert_array_equal(logits, np.concatenate([np.zeros_like(z), z], axis=-1))
    assert np.abs(z).max() > 0.01


@pytest.mark.backend_free
def test_other_numbers_of_classes_are_refused(tmp_path):
    message = "model.head: sigmoid needs exactly two classes, and there are 3; choose softmax"
    with pytest.raises(InputError, match=message):
        config.load("demo", ["model.head=sigmoid"])
    settings = ["data.source=folder", f"data.data_dir={tmp_path}", "model.head=sigmoid"]
    with pytest.raises(InputError, match=message):
        config.load("demo", [*settings, "data.folder.classes=[a, b, c]"])
    config.load("demo", [*settings, "data.folder.classes=[a, b]"])
    unknown = config.load("demo", [*settings, "model.width=2", "model.depth=1"])
    with pytest.raises(InputError, match=message):  # the official Pets archive
        from_config(unknown, 3)


def test_the_coarser_stages_have_one_logit_too(binary, rng):
    trainer = make_trainer(binary.config, ("background", "road"))
    supervised = trainer.supervised_network
    assert [supervised.get_layer(name).filters for name in ("logits", "logits_2")] == [1, 1]
    logits, coarser = supervised([rng.uniform(0, 255, (1, *SIZE, 3)).astype("float32")])
    assert (tuple(logits.shape), tuple(coarser.shape)) == ((1, 16, 24, 2), (1, 8, 12, 2))
    assert np.abs(ops.convert_to_numpy(coarser)[..., 0]).max() == 0


def test_it_learns_is_scored_and_predicts(binary):
    rows = binary.history()
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    assert load_saved(binary.best_file).output_shape == (None, None, None, 2)
    scores = evaluate(binary, "test")
    assert set(scores["iou"]) == {"background", "road"}
    assert scores["mean_iou"]["dataset"] > 0.5
    predictor = unet.load(binary.path)
    image = binary.config.data.data_dir / "images" / "3.png"
    mask, shares = predictor.predict(image), predictor.probabilities(image)
    np.testing.assert_array_equal(mask, shares[..., 1] > 0.5)
    np.testing.assert_allclose(shares.sum(-1), 1, atol=1e-6)


ONE_FORMAT = [
    "onnx",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("litert", "savedmodel", "openvino", "keras")),
]


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow writes these files")
@pytest.mark.parametrize("name", ONE_FORMAT)
def test_exported_files_return_what_they_return_for_two_classes(binary, name, tmp_path):
    needs(name)
    pixels = np.random.default_rng(1).integers(0, 256, (2, *SIZE, 3)).astype("uint8")
    logits = load_network(binary.path).logits(pixels)
    expected = {
        "softmax": np.exp(logits) / np.exp(logits).sum(-1, keepdims=True),
        "none": logits,
        "classes": (logits[..., 1] > 0).astype("uint8"),
    }
    for activation, values in expected.items():
        file, entry = export(binary, name, activation=activation, out=tmp_path / activation)
        assert entry["proof"]["same_class"] == 1
        np.testing.assert_allclose(load_network(file)(pixels), values, atol=1e-4)
    if name == "onnx":
        assert evaluate_file(file.parent.parent / "softmax" / "road.onnx", overrides=_place(binary))["images"] == 2


def _place(run):
    return (f"data.data_dir={run.config.data.data_dir}",)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow writes these files")
@pytest.mark.parametrize("name", ["onnx", pytest.param("litert", marks=pytest.mark.slow)])
def test_int8_files_are_verified(binary, name, tmp_path):
    needs(name)
    file, _ = export(binary, name, quantize="int8", out=tmp_path)
    assert load_network(file)(np.zeros((1, *SIZE, 3), "uint8")).shape == (1, *SIZE, 2)


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch writes this file")
def test_exported_programs_return_probabilities_and_sets(binary, labelled, tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (2, *SIZE, 3)).astype("uint8")
    for run, activation in ((binary, "softmax"), (labelled, "softmax"), (labelled, "classes")):
        file, entry = export(run, "torch", activation=activation, out=tmp_path)
        assert entry["proof"]["same_class"] == 1
        found, logits = load_network(file)(pixels), load_network(run.path).logits(pixels)
        if activation == "classes":
            np.testing.assert_array_equal(found, (logits > 0) @ [1, 2])
        else:
            z = np.diff(logits, axis=-1)[..., 0] if run is binary else logits[..., 1]
            np.testing.assert_allclose(found[..., 1], 1 / (1 + np.exp(-z)), atol=1e-5)


def test_a_network_with_another_head_starts_from_it(binary, caplog):
    softmax = binary.config.with_model(head="softmax").model_copy(update={"init_from": binary.path})
    network = from_config(softmax, 2)
    with caplog.at_level(logging.INFO, "unet"):
        InitialWeights(softmax).assign(network)
    assert "other shapes: 1 (logits)" in caplog.text
    again = binary.config.model_copy(update={"init_from": binary.path})
    network = from_config(again, 2)
    InitialWeights(again).assign(network)
    for found, expected in zip(network.get_weights(), load_saved(binary.best_file).get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


# === Several labels per pixel ===


@slow_beyond_tensorflow
def test_labels_are_learned_scored_and_predicted(labelled, tmp_path):
    assert labelled.config.model.head == "labels"
    assert len(labelled.info.class_weights) == 2
    scores = evaluate(labelled, "test")
    assert set(scores["iou"]) == {"roof", "solar"}
    assert scores["mean_iou"]["dataset"] > 0.3  # 0.16 if all labels are set everywhere
    assert all("val_mean_iou" in row for row in labelled.history())
    predictor = unet.load(labelled.path)
    image = labelled.config.data.data_dir / "images" / "5.png"
    found, shares = predictor.predict(image), predictor.probabilities(image)
    assert (found.dtype, found.shape) == (bool, (*SIZE, 2))
    np.testing.assert_array_equal(found, shares > 0.5)
    (prediction,) = predictor.segment([image])
    np.testing.assert_array_equal(prediction.mask, found[..., 0] + 2 * found[..., 1])
    (tiled,) = predictor.segment([image], mode="tile", flip=True, probabilities=True)
    np.testing.assert_array_equal(tiled.mask, (tiled.probabilities > 0.5) @ [1, 2])

    done = run_unet("predict", labelled.path, image, "--out", tmp_path, "--probabilities")
    assert done.code == 0, done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("5.png", "5_overlay.jpg", "5_probabilities.npz", "5_roof.png", "5_solar.png")
    ]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "5.png")), prediction.mask)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "5_solar.png")), found[..., 1] * 255)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow writes these files")
@pytest.mark.parametrize("name", ONE_FORMAT)
def test_exported_files_return_sets_of_labels(labelled, name, tmp_path):
    needs(name)
    pixels = np.random.default_rng(1).integers(0, 256, (2, *SIZE, 3)).astype("uint8")
    logits = load_network(labelled.path).logits(pixels)
    expected = {"softmax": 1 / (1 + np.exp(-logits)), "none": logits, "classes": (logits > 0) @ [1, 2]}
    for activation, values in expected.items():
        file, entry = export(labelled, name, activation=activation, out=tmp_path / activation)
        assert entry["proof"]["same_class"] == 1
        assert entry["activation"] == activation.replace("softmax", "sigmoid")
        loaded = load_network(file)
        np.testing.assert_allclose(loaded(pixels), values, atol=1e-4)
        np.testing.assert_array_equal(loaded.class_ids(pixels), expected["classes"])
        assert unet.load(file).predict(pixels[0]).dtype == bool
    if name == "onnx":
        file = tmp_path / "softmax" / "town.onnx"
        assert evaluate_file(file, overrides=_place(labelled))["images"] == 2
        assert "several or none" in (tmp_path / "classes" / "model_card.md").read_text()
        wrong = json.loads(loaded.metadata.to_json()) | {"head": "softmax", "activation": "sigmoid"}
        with pytest.raises(ValueError, match="sigmoid does not suit the head softmax"):
            Metadata.from_json(json.dumps(wrong))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow writes these files")
def test_int8_files_of_labels_are_verified(labelled, tmp_path):
    needs("litert")
    file, entry = export(labelled, "litert", activation="classes", quantize="int8", out=tmp_path)
    assert entry["proof"]["kind"] == "quantized"
    assert load_network(file)(np.zeros((1, *SIZE, 3), "uint8")).max() <= 3


def test_the_training_score_of_labels_is_their_mean_iou(rng):
    metric, counts = LabelMeanIoU(3), []
    for _ in range(2):
        mask = rng.choice([0, 1, 2, 3, IGNORE], (2, 4, 5)).astype("uint8")  # label 2 is never set
        logits = rng.normal(size=(2, 4, 5, 3)).astype("float32")
        logits[..., 2] = -1
        metric.update_state(mask, logits)
        valid = mask != IGNORE
        counts += [(mask[valid] >> np.arange(3)[:, None] & 1 == 1, logits[valid].T > 0)]
    truth, predicted = (np.concatenate(part, axis=1) for part in zip(*counts))
    expected = [jaccard_score(truth[k], predicted[k]) for k in (0, 1)]
    assert float(metric.result()) == pytest.approx(np.mean(expected), rel=1e-5)


def test_what_labels_do_not_offer_is_refused_in_one_message(labelled):
    with pytest.raises(InputError, match="gives a pixel several labels, which the page does not show"):
        page.load(labelled.path)


def test_a_network_of_classes_has_no_sigmoid(binary, tmp_path):
    with pytest.raises(InputError, match="needs several labels per pixel"):
        export(binary, "keras", activation="sigmoid", out=tmp_path)


@pytest.mark.slow
def test_runs_of_labels_on_windows_are_compared(labelled, tmp_path):
    paths = []
    for upsampler in ("nearest", "bilinear"):
        settings = ["data.sampling=crop", "training.epochs=1", "loss.lovasz=1", "loss.focal=1", "loss.tversky=1"]
        settings += [f"model.upsampler={upsampler}", f"name={upsampler}", "data.size=16"]
        loaded = config.load(labelled.config_file, settings)
        paths.append(Run.create(loaded, tmp_path / "runs").path)
        train(Run.open(paths[-1]))
    done = run_unet("compare", *paths, "--output", tmp_path / "report")
    assert done.code == 0, done.err
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    scores = [evaluate(Run.open(path), "test")["mean_iou"]["dataset"] for path in paths]
    assert sorted(one["mean_iou"] for one in summary["variants"]) == pytest.approx(sorted(scores))
