"""Class weights from the training data: their formula, what is printed and recorded, and resuming with them."""

import json
import math

import numpy as np
import pytest

from tests.helpers import JIT
from tests.helpers.training import stopping_after_an_epoch
from tests.helpers.weights import weights as arrays_of
from unet import config, data
from unet.config import LossConfig
from unet.data.balance import class_pixels, describe, inverse_log_weights
from unet.data.cache import Split
from unet.errors import InputError
from unet.losses import SegmentationLoss
from unet.runs import Run
from unet.training import train


@pytest.mark.backend_free
def test_the_weights_are_those_of_enet():
    """1 / ln(1.02 + p) is between 1.42 for a class of all pixels and 50.5 for one of none; a half weighs 2.39."""
    weights = inverse_log_weights([50, 50, 0])
    np.testing.assert_allclose(weights, [2.3883, 2.3883, 50.4983], atol=1e-4)
    np.testing.assert_allclose(inverse_log_weights([7]), [1 / math.log(2.02)])


@pytest.mark.backend_free
def test_pixels_are_counted_and_ignored_ones_apart():
    masks = np.array([[[0, 0, 1]], [[2, 255, 255]]], "uint8")
    split = Split(np.zeros((2, 1, 3, 3), "uint8"), masks, ["a", "b"])
    assert class_pixels(split, 4) == [2, 1, 1, 0, 2]


@pytest.mark.backend_free
def test_rare_classes_are_named_with_the_setting_that_helps():
    pixels, classes = [9_900, 95, 5, 0, 10_000], ("road", "pole", "sign", "bin")
    balance, rare = describe(pixels, classes, weighted=False)
    assert balance == ("class balance: road 99.00%, pole 0.95%, sign 0.05%, bin 0.00%; 50.0% of the pixels are ignored")
    assert rare.startswith("under 1% of the pixels: pole 0.95%, sign 0.05%, bin 0.00%; loss.class_weights=auto")
    assert "class_weights" not in describe(pixels, classes, weighted=True)[1]
    assert len(describe([50, 50, 0], ("a", "b"), weighted=False)) == 1
    many = describe([1] * 255 + [0], tuple(map(str, range(255))), weighted=False)
    assert all(len(line) < 300 for line in many)


@pytest.mark.backend_free
@pytest.mark.parametrize("value", ["automatic", 3, [1, 2]])
def test_another_value_gets_one_message(tmp_path, value):
    path = tmp_path / "x.yaml"
    path.write_text(f"loss: {{class_weights: {value}}}\n")
    with pytest.raises(InputError) as caught:
        config.load(path)
    assert str(caught.value) == (
        f"{path}:1: loss.class_weights: must be a mapping from class names to weights, or auto, "
        f"received {json.dumps(value)}"
    )


def test_a_loss_without_data_does_not_guess():
    with pytest.raises(InputError, match="auto needs the training data"):
        SegmentationLoss.from_settings(LossConfig(class_weights="auto"), ("a", "b"))


@pytest.mark.slow
def test_weights_are_recorded_and_a_resumed_run_uses_them(tmp_path, monkeypatch):
    path = tmp_path / "small.yaml"
    path.write_text(
        "data: {source: shapes, size: 16, shapes: {train: 12, test: 4}}\nmodel: {width: 2, depth: 1}\n"
        "loss: {class_weights: auto}\n"
        f"training: {{epochs: 2, batch_size: 4, warmup: 0, jit: {JIT}, checkpoint_seconds: 0}}\n"
    )
    whole, stopped = (Run.create(config.load(path, [f"name={name}"]), tmp_path) for name in ("whole", "stopped"))
    train(whole)
    prepared = data.prepare(whole.config.data)
    counts = [int((prepared.train.masks == index).sum()) for index in range(3)]
    expected = [1 / math.log(1.02 + count / sum(counts)) for count in counts]
    np.testing.assert_allclose(whole.info.class_weights, expected, rtol=1e-12)
    assert whole.config.loss.class_weights == "auto"
    log = (whole.path / "log.txt").read_text()
    assert "class balance: " in log
    assert f"class weights: pet {expected[0]:.3f}, background {expected[1]:.3f}, border {expected[2]:.3f}" in log

    with stopping_after_an_epoch():
        train(stopped)
    with monkeypatch.context() as patched:  # resuming counts nothing
        patched.setattr("unet.training.class_pixels", None)
        train(stopped)
    assert stopped.info.class_weights == whole.info.class_weights
    for file in ("best.keras", "last.keras"):
        a, b = (arrays_of(run.path / file) for run in (whole, stopped))
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=f"{file}: {key}")

    info = json.loads(stopped.info_file.read_text())
    stopped.info_file.write_text(json.dumps(info | {"class_weights": info["class_weights"][:2]}))
    with pytest.raises(InputError, match=r"run\.json"):
        _ = stopped.info
