"""Losses on coarser decoder stages: their values, where their weights are kept, and that they end with the training."""

import itertools
import signal

import keras
import numpy as np
import pytest
from keras import ops

from benchmarks.gradients import gradient
from tests.helpers import BACKEND, JIT, slow_beyond_tensorflow
from tests.helpers.contract import compiled_gradient
from tests.helpers.weights import weights
from unet import config
from unet.data.batches import Batches
from unet.data.cache import Split
from unet.data.sources import IGNORE
from unet.errors import InputError
from unet.losses import SegmentationLoss
from unet.model import load_saved
from unet.runs import Run
from unet.training import make_optimizer, make_trainer, train
from unet.training.callbacks import StopRequest
from unet.training.deep_supervision import stage_loss

CLASSES = ("pet", "background", "border")
SIZE = (13, 22)
WEIGHT = 0.75
SETTINGS = f"""
data: {{source: shapes, size: [{SIZE[0]}, {SIZE[1]}], shapes: {{train: 20, test: 2}}}}
augmentation: {{flip: 0, scale: [1, 1], ratio: [1, 1], brightness: 0, contrast: 0, saturation: 0, hue: 0}}
model: {{width: 4, depth: 3, decoder: {{deep_supervision: {WEIGHT}}}}}
training: {{epochs: 3, batch_size: 4, warmup: 0, learning_rate: 0.01, checkpoint_seconds: 0, ema: 0.9, jit: {JIT}}}
"""


@pytest.fixture
def configured(tmp_path):
    """The configuration with overrides."""

    def configured(*overrides):
        path = tmp_path / "deep.yaml"
        path.write_text(SETTINGS)
        return config.load(path, overrides)

    return configured


@pytest.fixture
def build(configured):
    """A trainer, compiled."""

    def build(*overrides):
        loaded = configured(*overrides)
        trainer = make_trainer(loaded, CLASSES)
        trainer.compile(optimizer=make_optimizer(loaded.training, 2), jit_compile=loaded.training.jit)
        return trainer

    return build


@pytest.fixture
def split(rng):
    masks = rng.integers(0, 3, (8, *SIZE)).astype("uint8")
    images = ((masks * 100)[..., None] + rng.integers(0, 40, (8, *SIZE, 3))).astype("uint8")
    masks[:, :3, 5:] = IGNORE
    return Split(images, masks, [str(i) for i in range(8)])


def cross_entropy(mask, logits):
    """Mean over the pixels that are not ignored, in numpy."""
    logits = logits.astype("float64")
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    valid = mask != IGNORE
    return -np.take_along_axis(log_probabilities, np.where(valid, mask, 0)[..., None], -1)[..., 0][valid].mean()


def at_size(mask, height, width):
    """The mask at another size: of each target pixel, the source pixel that contains its centre."""
    rows, columns = (((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip((height, width), mask.shape[1:]))
    return mask[:, rows][:, :, columns]


@slow_beyond_tensorflow
def test_the_loss_equals_the_formula(build, split):
    """main + W · (1·stride 2 + ½·stride 4) / 1½, each a cross-entropy with the mask at that size."""
    trainer = build()
    batch = Batches(split, 4)[0]
    found = trainer(batch, training=True)
    loss = float(ops.convert_to_numpy(trainer.compute_loss(y_pred=found, training=True)))

    network = trainer.network
    stages = keras.Model(network.input, [network.get_layer(f"decoder_{i}_act_2").output for i in (1, 2, 3)])
    features = [ops.convert_to_numpy(x) for x in stages(batch["image"], training=True)]
    heads = [network.get_layer("logits"), *(trainer.supervised_network.get_layer(f"logits_{i}") for i in (2, 3))]
    expected = []
    for x, head in zip(features, heads):
        kernel, bias = (ops.convert_to_numpy(weight) for weight in head.weights)
        expected.append(cross_entropy(at_size(batch["mask"], *x.shape[1:3]), x @ kernel[0, 0] + bias))
    assert [x.shape[1:3] for x in features] == [(13, 22), (7, 11), (4, 6)]
    assert loss == pytest.approx(expected[0] + WEIGHT * (expected[1] + expected[2] / 2) / 1.5, abs=1e-5)


@slow_beyond_tensorflow
def test_validation_is_that_of_the_network_alone(build, split):
    """Loss and mean IoU have the main logits only."""
    trainer, plain = build(), build("model.decoder.deep_supervision=0")
    plain.network.set_weights(trainer.network.get_weights())
    scores, expected = (model.evaluate(Batches(split, 4), verbose=0, return_dict=True) for model in (trainer, plain))
    assert scores == expected


@pytest.mark.skipif(BACKEND == "torch", reason="torch runs eagerly: there is no XLA to compile with")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_gradients_of_the_losses_compile(rng, configured, dtype):
    """The logits are float32 whatever the precision of the network; a mask is resized in the compiled step."""
    mask = rng.integers(0, 3, (2, *SIZE)).astype("uint8")
    logits = rng.normal(size=(2, 7, 11, 3)).astype("float32")
    loss = SegmentationLoss.from_settings(configured("loss.dice=1").loss, CLASSES)

    def of_stage(logits, mask=mask):
        return stage_loss(loss, ops.convert_to_tensor(mask), [ops.cast(ops.cast(logits, dtype), "float32")])

    def at_its_size(logits):
        return of_stage(logits, at_size(mask, 7, 11))

    found = compiled_gradient(of_stage, logits)
    assert np.abs(found).max() > 0
    np.testing.assert_allclose(found, gradient(at_its_size, logits), atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(BACKEND == "torch", reason="torch runs eagerly: there is no XLA to compile with")
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_the_step_compiles_and_every_weight_learns(build, split, precision):
    trainer = build("model.depth=2", f"training.precision={precision}", "training.jit=true", "loss.dice=1")
    before = [ops.convert_to_numpy(variable).copy() for variable in trainer.trainable_variables]
    history = trainer.fit(Batches(split, 4), verbose=0, shuffle=False).history
    assert np.isfinite(history["loss"]).all()
    moved = {v.path: np.abs(ops.convert_to_numpy(v) - b).max() for v, b in zip(trainer.trainable_variables, before)}
    assert {"logits_2/kernel", "logits_2/bias"} < set(moved)
    assert min(moved.values()) > 0, moved
    assert trainer.supervised_network.get_layer("logits_2").compute_dtype == "float32"


@pytest.mark.parametrize(("attention", "last"), [("none", "act_2"), ("scse", "scse_2")])
def test_heads_start_alike_under_every_upsampler_and_see_the_output_of_a_stage(build, attention, last):
    heads = {}
    for upsampler, seed in [("nearest", 0), ("max_unpool", 0), ("fade", 0), ("nearest", 1)]:
        overrides = (f"seed={seed}", f"model.upsampler={upsampler}", f"model.decoder.attention={attention}")
        trainer = build(*overrides)
        for i in (2, 3):
            head = trainer.supervised_network.get_layer(f"logits_{i}")
            assert head.input is trainer.network.get_layer(f"decoder_{i}_{last}").output
            heads[upsampler, seed, i] = ops.convert_to_numpy(head.kernel)
    for i in (2, 3):
        for upsampler in ("max_unpool", "fade"):
            np.testing.assert_array_equal(heads[upsampler, 0, i], heads["nearest", 0, i], err_msg=upsampler)
        assert not np.isclose(heads["nearest", 0, i], heads["nearest", 1, i]).any()


@pytest.mark.slow
def test_checkpoints_hold_the_heads_and_the_best_network_does_not(configured, tmp_path):
    """The trained network is an ordinary one, whose file and layers are those of a run without deep supervision."""
    deep, plain = (Run.create(configured(f"name=run_{w}", f"model.decoder.deep_supervision={w}"), tmp_path / "runs")
                   for w in (1, 0))  # fmt: skip
    for run in (deep, plain):
        train(run)
    best, expected = (load_saved(run.best_file) for run in (deep, plain))
    assert [layer.name for layer in best.layers] == [layer.name for layer in expected.layers]
    assert weights(deep.best_file).keys() == weights(plain.best_file).keys()
    assert len(best.outputs) == 1
    with_heads, without = weights(deep.last_file), weights(plain.last_file)
    assert set(without) < set(with_heads)
    variables = 2 * 2  # kernels and biases, of which AdamW has two moments and an average each
    assert len(with_heads) - len(without) == variables * (1 + 3)
    assert [row["val_loss"] for row in deep.history()] != [row["val_loss"] for row in plain.history()]


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_bits(configured, tmp_path, monkeypatch):
    loaded = configured("model.dropout=0.1", "augmentation.flip=0.5")
    whole, interrupted = (Run.create(loaded, tmp_path / name) for name in ("whole", "interrupted"))
    train(whole)
    original = StopRequest.on_train_batch_end
    batches = itertools.count()

    def interrupt(self, index, logs=None):
        if next(batches) == 5:  # in the second of 3 epochs
            signal.raise_signal(signal.SIGINT)
        original(self, index, logs)

    with monkeypatch.context() as patched:
        patched.setattr(StopRequest, "on_train_batch_end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(interrupted)
    assert len(interrupted.history()) == 1
    train(interrupted)
    for file in ("best.keras", "last.keras"):
        found, expected = weights(interrupted.path / file), weights(whole.path / file)
        assert found.keys() == expected.keys()
        assert [key for key in found if not np.array_equal(found[key], expected[key])] == [], file


def test_a_saved_trainer_holds_the_heads_and_its_network_does_not(build, tmp_path):
    trainer, plain = build(), build("model.decoder.deep_supervision=0")
    for name, model in (("deep", trainer), ("plain", plain)):
        model.save(tmp_path / f"last_{name}.keras")
        model.network.save(tmp_path / f"best_{name}.keras")
    assert weights(tmp_path / "best_deep.keras").keys() == weights(tmp_path / "best_plain.keras").keys()
    more = set(weights(tmp_path / "last_deep.keras")) - set(weights(tmp_path / "last_plain.keras"))
    assert set(weights(tmp_path / "last_plain.keras")) < set(weights(tmp_path / "last_deep.keras"))
    assert len(more) == 2 * 2  # kernel and bias of two heads

    loaded = keras.saving.load_model(tmp_path / "last_deep.keras", compile=False)
    assert loaded.deep_supervision == WEIGHT
    for found, expected in zip(loaded.weights, trainer.weights, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(found), ops.convert_to_numpy(expected), expected.path)


@pytest.mark.backend_free
def test_a_decoder_without_coarser_stages_is_refused(configured):
    with pytest.raises(InputError, match=r"model\.decoder\.deep_supervision: needs a decoder with coarser stages"):
        configured("model.depth=1")
    configured("model.depth=1", "model.decoder.deep_supervision=0")
    with pytest.raises(InputError, match=r"model\.decoder\.deep_supervision: must be ≥ 0"):
        configured("model.decoder.deep_supervision=-1")
