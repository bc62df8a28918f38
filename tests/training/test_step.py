"""The compiled step: upsamplers of every kind under XLA in three precisions, its metrics, its counters."""

import keras
import numpy as np
import pytest
from keras import ops
from sklearn.metrics import jaccard_score

from tests.helpers import BACKEND, JIT, slow_beyond_tensorflow
from unet import config
from unet.data.batches import Batches
from unet.data.cache import Split
from unet.data.sources import IGNORE
from unet.training import make_optimizer, make_trainer
from unet.training.callbacks import CallbackList

CLASSES = ("pet", "background", "border")


@pytest.fixture
def split(rng):
    """Images whose left part is dark and of class 0, the middle of class 2; some pixels are ignored."""
    masks = np.ones((8, 17, 22), "uint8")
    for mask in masks:
        edge = rng.integers(5, 16)
        mask[:, :edge] = 0
        mask[:, edge : edge + 3] = 2
    images = (masks * 100)[..., None] + rng.integers(0, 40, (8, 17, 22, 3))
    masks[:, :3] = IGNORE
    return Split(images.astype("uint8"), masks, [str(i) for i in range(8)])


@pytest.fixture
def build(tmp_path):
    """A small trainer for a configuration, compiled."""

    def build(*overrides):
        path = tmp_path / "t.yaml"
        path.write_text(
            "data: {size: [17, 22]}\nmodel: {width: 4, depth: 2}\n"
            f"training: {{epochs: 3, batch_size: 4, warmup: 0, jit: {JIT}}}\n"
        )
        loaded = config.load(path, overrides)
        trainer = make_trainer(loaded, CLASSES)
        trainer.compile(optimizer=make_optimizer(loaded.training, 2), jit_compile=loaded.training.jit)
        trainer.optimizer.build(trainer.trainable_variables)
        return trainer

    return build


def fit(trainer, split, epochs=1):
    before = [ops.convert_to_numpy(v) for v in trainer.network.trainable_variables]
    history = trainer.fit(Batches(split, 4, 0), epochs=epochs, shuffle=False, verbose=0).history
    after = [ops.convert_to_numpy(v) for v in trainer.network.trainable_variables]
    return history, [np.abs(a - b).max() for a, b in zip(after, before, strict=True)]


def test_callbacks_get_losses_that_are_still_on_the_device(build, split):
    """Converting them to numbers, as Keras does, waits for every step."""
    found = []

    class Collect(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            found.append(logs["loss"])

        on_test_batch_end = on_train_batch_end

    trainer = build()
    callbacks = CallbackList([Collect()], add_history=True, model=trainer)
    history = trainer.fit(Batches(split, 4, 0), callbacks=callbacks, shuffle=False, verbose=0).history
    assert len(found) == 2
    trainer.evaluate(Batches(split, 4), callbacks=CallbackList([Collect()], model=trainer), verbose=0)
    assert len(found) == 4
    assert all(ops.is_tensor(loss) for loss in found)
    assert isinstance(history["loss"][0], float)
    assert history["loss"][0] == pytest.approx(float(found[1]))


def test_the_state_of_a_step_is_kept_as_it_is(build):
    """Keras' tracking of it would take longer than the rest of a step's work on the host."""
    trainer, state = build(), {"trainable_variables": [1, 2]}
    trainer._jax_state = state
    assert trainer._jax_state is state
    assert type(trainer._jax_state["trainable_variables"]) is list


@slow_beyond_tensorflow
def test_mixed_precision_does_not_round_images(build, monkeypatch, rng):
    trainer = build("training.precision=mixed_bfloat16")
    seen = []
    monkeypatch.setattr(trainer.augmentation, "call", lambda image, mask: (seen.append(image), (image, mask))[1])
    pixels = rng.normal(1000, 1, (1, 17, 22, 3)).astype("float32")
    trainer({"image": pixels, "mask": np.zeros((1, 17, 22), "uint8")}, training=True)
    np.testing.assert_array_equal(ops.convert_to_numpy(seen[0]), pixels)


@pytest.mark.skipif(BACKEND == "torch", reason="torch runs eagerly: there is no XLA to compile with")
@pytest.mark.parametrize(
    ("upsampler", "precision"),
    [
        # Each upsampler alone compiles in all three precisions: the contract test.
        ("max_unpool", "float32"),
        *(
            pytest.param(name, "mixed_bfloat16", marks=pytest.mark.slow)
            for name in ("max_unpool", "conv_transpose", "pixel_shuffle", "dysample", "sapa")
        ),
        *(
            pytest.param(name, precision, marks=pytest.mark.slow)
            for name, precision in (
                ("max_unpool", "mixed_float16"),
                ("conv_transpose", "float32"),
                ("conv_transpose", "mixed_float16"),
            )
        ),
    ],
)
def test_the_whole_step_compiles_and_learns(build, split, upsampler, precision):
    trainer = build(
        f"model.upsampler={upsampler}",
        f"training.precision={precision}",
        "training.jit=true",
        "training.ema=0.9",
        "model.depth=1",
        "model.dropout=0.1",
        "augmentation.hue=0.05",
    )
    history, moved = fit(trainer, split)
    assert np.isfinite(history["loss"]).all()
    assert min(moved) > 0, "every weight moves"
    assert int(trainer.steps) == int(trainer.finite_steps) == 2
    assert type(trainer.optimizer).__name__ == ("LossScaleOptimizer" if precision == "mixed_float16" else "AdamW")
    scores = trainer.evaluate(Batches(split, 3), verbose=0, return_dict=True)
    assert np.isfinite(scores["loss"])


@pytest.mark.skipif(BACKEND == "torch", reason="torch runs eagerly: there is no XLA to compile with")
@pytest.mark.slow
def test_every_loss_and_augmentation_compiles(build, split):
    trainer = build(
        *("loss.hardest=0.5", "augmentation.rotation=20", "augmentation.elastic=0.05", "augmentation.translation=0.1"),
        *("augmentation.blur=1", "augmentation.noise=0.1", "augmentation.gamma=0.5", "augmentation.grayscale=0.5"),
        *("loss.focal=1", "loss.dice=1", "loss.tversky=1", "loss.lovasz=1", "loss.class_weights={pet: 2.0}"),
        *("training.jit=true", "model.block=residual", "model.normalization=group", "training.optimizer=sgd"),
    )
    history, moved = fit(trainer, split)
    assert np.isfinite(history["loss"]).all()
    assert min(moved) > 0


@pytest.mark.parametrize(
    "optimizer", ["adamw", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sgd", "adam"))]
)
def test_every_optimizer_learns_eagerly_compiled_or_not(build, split, optimizer):
    rate = 0.05 if optimizer == "sgd" else 0.01
    trainer = build(f"training.optimizer={optimizer}", f"training.learning_rate={rate}", "training.schedule=constant")
    history, _ = fit(trainer, split, epochs=6)
    assert history["loss"][-1] < 0.9 * history["loss"][0]


@slow_beyond_tensorflow
def test_mean_iou_of_validation_equals_sklearn(build, split):
    trainer = build()
    fit(trainer, split, epochs=3)
    scores = trainer.evaluate(Batches(split, 3), verbose=0, return_dict=True)
    prediction = trainer.network.predict_on_batch(split.images).argmax(-1)
    valid = split.masks != IGNORE
    expected = jaccard_score(split.masks[valid], prediction[valid], average="macro", labels=[0, 1, 2])
    assert scores["mean_iou"] == pytest.approx(expected, abs=1e-5)


def test_validation_is_not_augmented(build, split):
    trainer = build()
    first, second = (trainer.evaluate(Batches(split, 8), verbose=0) for _ in range(2))
    assert first == second


def test_the_step_of_the_first_bad_loss_is_known(build, split):
    trainer = build("training.learning_rate=1e30", "training.clip_norm=null", "training.optimizer=sgd")
    fit(trainer, split, epochs=3)
    assert int(trainer.steps) == 6
    assert 1 <= int(trainer.finite_steps) < 6


def test_reseeding_repeats_augmentation_and_dropout(build, split):
    trainer = build("model.dropout=0.5")
    batch = Batches(split, 4, 0)[0]

    def output(*seeds):
        trainer.reseed(iter(seeds * 20))
        return ops.convert_to_numpy(trainer(batch, training=True)["logits"])

    np.testing.assert_array_equal(output(1, 2), output(1, 2))
    assert np.abs(output(1, 2) - output(3, 4)).max() > 1e-3


def test_the_whole_training_state_survives_saving(build, split, tmp_path):
    """Weights, batch statistics, optimizer, loss scale, averages and counters: bit for bit."""
    settings = ("training.precision=mixed_float16", "training.ema=0.9")
    trainer = build(*settings)
    fit(trainer, split)
    trainer.save(tmp_path / "last.keras")
    other = build(*settings)
    other.load_weights(tmp_path / "last.keras")
    names = [v.path for v in trainer.weights + trainer.optimizer.variables]
    assert any("dynamic_scale" in name for name in names)
    assert any("average" in name for name in names)
    assert any("steps" in name for name in names)
    for a, b in zip(
        trainer.weights + trainer.optimizer.variables, other.weights + other.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b), err_msg=a.path)


def test_a_saved_trainer_is_an_ordinary_keras_model(build, split, tmp_path):
    trainer = build()
    trainer.save(tmp_path / "last.keras")
    loaded = keras.saving.load_model(tmp_path / "last.keras")
    before, after = (ops.convert_to_numpy(model.network(split.images)) for model in (trainer, loaded))
    np.testing.assert_array_equal(before, after)
