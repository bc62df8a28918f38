"""A run from configuration to files: history, schedule, averaging, stopping, and what is told when it fails."""

import json
import re
import signal

import keras
import numpy as np
import pytest
from keras import ops

from tests.helpers import BACKEND, JIT, slow_beyond_tensorflow
from unet import config, data
from unet.backend import is_out_of_memory
from unet.errors import InputError, RunError
from unet.runs import Run
from unet.training import make_optimizer, make_schedule, make_trainer, train
from unet.training.callbacks import Checkpoint, StopRequest, divergence, epoch_seeds
from unet.training.step import SegmentationTrainer
from unet.training.weights import averaged_weights

TINY = f"""
data: {{source: shapes, size: 24, shapes: {{train: 20, test: 6}}, validation: 0.2}}
model: {{width: 4, depth: 2}}
training:
  {{epochs: 3, batch_size: 4, warmup: 0.3, jit: {JIT}, checkpoint_seconds: 0, learning_rate: 0.01, ema: 0.8,
   pictures_every: 2}}
"""


@pytest.fixture
def make(tmp_path):
    """Create a run of the tiny configuration."""

    def make(*overrides, root=tmp_path / "runs"):
        path = tmp_path / "tiny.yaml"
        path.write_text(TINY)
        return Run.create(config.load(path, overrides), root)

    return make


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The tiny run, trained without an interruption."""
    root = tmp_path_factory.mktemp("reference")
    (root / "tiny.yaml").write_text(TINY)
    run = Run.create(config.load(root / "tiny.yaml"), root)
    train(run)
    return run


@pytest.mark.parametrize("jit", [True, False])
def test_jax_without_compilation_is_pointed_out(make, caplog, monkeypatch, jit):
    monkeypatch.setattr(SegmentationTrainer, "fit", lambda *_, **__: None)
    train(make(f"training.jit={jit}"))
    assert ("training.jit=true compiles the step" in caplog.text) == (BACKEND == "jax" and not jit)


def losses(run):
    return [row["loss"] for row in run.history()]


def test_a_run_directory_holds_everything(reference):
    run = reference
    files = {path.name for path in run.path.iterdir()}
    expected = {
        "config.yaml",
        "run.json",
        "data.csv",
        "environment.json",
        "history.csv",
        "last.keras",
        "best.keras",
        "log.txt",
        "tensorboard",
    }
    assert expected <= files
    assert not [name for name in files if name.startswith(".") and name != ".lock"], "temporary files are gone"
    assert config.load(run.config_file) == run.config

    history = run.history()
    assert [row["epoch"] for row in history] == [1, 2, 3]
    for key in ("loss", "mean_iou", "val_loss", "val_mean_iou", "learning_rate", "images_per_second"):
        assert all(np.isfinite(row[key]) for row in history), key
    start = json.loads(run.environment_file.read_text())["starts"][0]
    assert start["backend"] == keras.backend.backend()
    assert start["jit"] is (BACKEND == "jax")
    assert start["precision"] == "float32"
    assert start["device"]
    assert {"keras", "numpy"} <= start["versions"].keys()
    assert "epoch 3/3" in (run.path / "log.txt").read_text()


def test_best_is_the_epoch_with_the_best_validation_score(reference):
    run = reference
    best = max(row["val_mean_iou"] for row in run.history())
    dataset = data.prepare(run.config.data)
    network = keras.saving.load_model(run.best_file, compile=False)
    from unet.metrics import Tally

    tally = Tally(dataset.classes)
    tally.add(dataset.validation.names, dataset.validation.masks, network.predict_on_batch(dataset.validation.images))
    assert tally.scores()["mean_iou"]["dataset"] == pytest.approx(best, abs=1e-5)


def test_tensorboard_gets_scalars_and_pictures(reference):
    run = reference
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = event_accumulator.EventAccumulator(str(run.tensorboard)).Reload()
    assert {"loss", "val_loss", "val_mean_iou", "learning_rate"} <= set(events.Tags()["scalars"])
    recorded = [event.value for event in events.Scalars("val_mean_iou")]
    np.testing.assert_allclose(recorded, [row["val_mean_iou"] for row in run.history()], rtol=1e-6)
    pictures = events.Images("validation/image_truth_prediction")
    assert [picture.step for picture in pictures] == [1, 3]
    assert (pictures[0].width, pictures[0].height) == (4 * 24, 3 * 24)


@pytest.mark.slow
def test_another_seed_gives_another_run(make, reference):
    run = make("seed=1")  # resuming shows that the same seed gives the same
    train(run)
    assert losses(run) != losses(reference)


def test_a_finished_run_is_left_alone(reference):
    before = reference.last_file.stat().st_mtime_ns
    train(reference)
    assert reference.last_file.stat().st_mtime_ns == before
    assert "is finished after epoch 3" in (reference.path / "log.txt").read_text()


def test_a_name_that_is_taken_by_another_configuration_is_refused(make):
    make("name=a")
    make("name=a").last_file.touch()  # the same again is the same run
    with pytest.raises(InputError) as caught:
        make("name=a", "model.width=8", "training.epochs=5")
    message = str(caught.value)
    for part in ("model.width: 4 there, 8 here", "training.epochs: 3 there, 5 here", "name=..."):
        assert part in message


def test_a_run_that_has_not_begun_takes_another_configuration(tmp_path, make):
    """As after a mistake in the path of the data or weights, corrected on the command line."""
    run = make("name=a", "data.source=folder", f"data.data_dir={tmp_path}", "data.folder.classes=[cat, dog]")
    with pytest.raises(InputError, match="images"):
        train(run)
    again = make("name=a", "model.width=8")
    assert again.path == run.path
    assert (again.config.data.source, again.config.model.width) == ("shapes", 8)
    assert again.info.classes == ("pet", "background", "border")
    with again.locked(), pytest.raises(InputError, match="is being trained by another process"):
        make("name=a", "model.width=4")
    assert again.config.model.width == 8


def test_a_directory_that_is_no_run_is_told(tmp_path, make):
    (tmp_path / "runs" / "busy").mkdir(parents=True)
    (tmp_path / "runs" / "busy" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="exists but is not a run directory"):
        make("name=busy")
    with pytest.raises(InputError, match="is not a run directory"):
        Run.open(tmp_path / "runs" / "busy")
    assert (tmp_path / "runs" / "busy" / "thesis.txt").read_text() == "mine"


def test_two_processes_cannot_train_one_run(make):
    run = make()
    with run.locked(), pytest.raises(InputError, match="trained by another process"):
        train(run)


@pytest.mark.slow
def test_early_stopping_ends_a_run_that_no_longer_gains(make):
    run = make("training.early_stopping=1", "training.epochs=9", "training.learning_rate=1e-30")
    train(run)
    scores = [row["val_mean_iou"] for row in run.history()]
    assert len(scores) < 9
    assert int(np.argmax(scores)) == len(scores) - 2
    train(run)  # and stays ended
    assert len(run.history()) == len(scores)


@pytest.mark.slow
def test_without_validation_images_the_last_epoch_is_the_best(make):
    run = make("data.validation=0", "training.epochs=2", "training.ema=null")
    train(run)
    assert "val_loss" not in run.history()[0]
    last = make_trainer(run.config, ("pet", "background", "border"))
    last.compile(optimizer=make_optimizer(run.config.training, 5))
    last.optimizer.build(last.trainable_variables)
    last.load_weights(run.last_file)
    best = keras.saving.load_model(run.best_file, compile=False)
    for a, b in zip(last.network.weights, best.weights, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))


def test_a_diverged_loss_stops_the_run_and_names_the_step(make):
    run = make(
        *("name=bad", "training.optimizer=sgd", "training.learning_rate=1e30", "training.clip_norm=null"),
        *("training.warmup=0", "model.normalization=none", "training.epochs=4"),
    )
    with pytest.raises(RunError) as caught:
        train(run)
    message = str(caught.value)
    step = int(re.search(r"at step (\d+) \(epoch 1\)", message).group(1))
    assert 2 <= step <= 4  # the first step's loss is still that of the initial weights
    for part in ("training.learning_rate (now 1e+30)", "clip_norm=1.0", "training.warmup=0.05", "normalization=batch"):
        assert part in message
    assert re.search(r"Epochs saved in \S+: 0", message)
    assert not run.last_file.exists()


def test_a_loss_that_diverges_within_an_epoch_is_noticed_before_its_end(make, monkeypatch):
    monkeypatch.setattr(divergence, "INTERVAL", 0.0)
    checked = []
    original = divergence.DivergenceGuard.on_epoch_end
    monkeypatch.setattr(
        divergence.DivergenceGuard, "on_epoch_end", lambda *args: checked.append(args) or original(*args)
    )
    run = make(
        *("name=bad_within", "training.optimizer=sgd", "training.learning_rate=1e30", "training.clip_norm=null"),
        *("training.warmup=0", "model.normalization=none", "training.epochs=4"),
    )
    with pytest.raises(RunError, match=r"at step [2-4] \(epoch 1\)"):
        train(run)
    assert checked == []


def interrupt_in_epoch(monkeypatch, epoch, method="on_train_batch_end", batch=1, number=signal.SIGINT):
    """Let a signal arrive at a batch of an epoch (counted from 0)."""
    original = getattr(StopRequest, method)
    epochs = []
    monkeypatch.setattr(StopRequest, "on_epoch_begin", lambda self, index, logs=None: epochs.append(index))

    def interrupt(self, index, logs=None):
        if epochs[-1] == epoch and index == batch:
            signal.raise_signal(number)
        original(self, index, logs)

    monkeypatch.setattr(StopRequest, method, interrupt)


@pytest.mark.slow
def test_stopped_by_ctrl_c_and_by_sigterm_in_validation_a_run_ends_like_one_that_was_not(make, monkeypatch, reference):
    run = make("name=interrupted")
    with monkeypatch.context() as patched:
        interrupt_in_epoch(patched, epoch=1)
        with pytest.raises(KeyboardInterrupt):
            train(run)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert len(run.history()) == 1
    messages = (run.path / "log.txt").read_text()
    assert "stopping after this step; Ctrl-C again stops at once" in messages
    assert f"stopped by Ctrl-C; epochs saved in {run.path}: 1\n" in messages

    with monkeypatch.context() as patched:
        interrupt_in_epoch(patched, epoch=2, method="on_test_batch_end", batch=0, number=signal.SIGTERM)
        with pytest.raises(SystemExit) as caught:
            train(run)
    assert caught.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert len(run.history()) == 2
    assert f"stopped by SIGTERM; epochs saved in {run.path}: 2\n" in (run.path / "log.txt").read_text()

    train(run)
    assert losses(run) == losses(reference)
    assert len(json.loads(run.environment_file.read_text())["starts"]) == 3


@pytest.mark.slow
def test_checkpoints_are_not_written_more_often_than_configured(make, monkeypatch):
    run = make("training.checkpoint_seconds=3600")
    saves = []
    original = Checkpoint._save
    monkeypatch.setattr(Checkpoint, "_save", lambda self, epochs: saves.append(epochs) or original(self, epochs))
    train(run)
    assert saves == [3]
    assert len(run.history()) == 3
    assert run.best_file.is_file()


# === Schedule, averages, seeds ===


def test_the_schedule_warms_up_and_decays_to_nothing(make):
    training = make("training.epochs=10", "training.warmup=0.2", "training.learning_rate=0.5").config.training
    schedule = make_schedule(training, steps_per_epoch=5)
    rates = [float(ops.convert_to_numpy(schedule(step))) for step in range(51)]
    np.testing.assert_allclose(rates[:11], np.linspace(0, 0.5, 11), atol=1e-6)
    expected = 0.25 * (1 + np.cos(np.pi * np.arange(41) / 40))
    np.testing.assert_allclose(rates[10:], expected, atol=1e-6)


@pytest.mark.parametrize("warmup", [0, 0.2])
def test_the_constant_schedule_stays(make, warmup):
    training = make("training.schedule=constant", f"training.warmup={warmup}", "training.epochs=10").config.training
    schedule = make_schedule(training, steps_per_epoch=5)
    if not warmup:
        assert schedule == 0.01
        return
    rates = [float(ops.convert_to_numpy(schedule(step))) for step in range(30)]
    np.testing.assert_allclose(rates, np.minimum(np.arange(30) / 10, 1) * 0.01, atol=1e-7)


@slow_beyond_tensorflow
def test_averages_are_the_moving_averages_of_the_weights(make):
    """Weights by hand: average_1 = w_1, average_t = m·average_{t−1} + (1−m)·w_t; and they are put back exactly."""
    run = make("training.ema=0.7")
    trainer = make_trainer(run.config, ("a", "b", "c"))
    trainer.compile(optimizer=make_optimizer(run.config.training, 5), jit_compile=False)
    trainer.optimizer.build(trainer.trainable_variables)
    rng = np.random.default_rng(0)
    variable = trainer.trainable_variables[0]
    average = None
    for _ in range(4):
        gradients = [
            ops.convert_to_tensor(rng.normal(size=v.shape).astype("float32")) for v in trainer.trainable_variables
        ]
        trainer.optimizer.apply(gradients)
        weights = ops.convert_to_numpy(variable).copy()
        average = weights if average is None else 0.7 * average + 0.3 * weights
    with averaged_weights(trainer):
        np.testing.assert_allclose(ops.convert_to_numpy(variable), average, atol=1e-6)
    np.testing.assert_array_equal(ops.convert_to_numpy(variable), weights)


def test_only_kernels_decay(make):
    """With no gradient, AdamW moves a weight by decay alone."""
    run = make("training.weight_decay=0.5", "training.schedule=constant", "training.warmup=0")
    trainer = make_trainer(run.config, ("a", "b", "c"))
    trainer.compile(optimizer=make_optimizer(run.config.training, 5), jit_compile=False)
    variables = trainer.trainable_variables
    for variable in variables:
        variable.assign(ops.ones(variable.shape))
    trainer.optimizer.build(variables)
    trainer.optimizer.apply([ops.zeros(v.shape) for v in variables])
    for variable in variables:
        expected = 1 - 0.01 * 0.5 if variable.name == "kernel" else 1.0
        np.testing.assert_allclose(ops.convert_to_numpy(variable), expected, atol=1e-6, err_msg=variable.path)


def test_epoch_seeds_are_all_different_and_repeatable():
    def seeds(seed, epoch):
        return tuple(s for s, _ in zip(epoch_seeds(seed, epoch), range(30)))

    drawn = [seeds(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert len({s for group in drawn for s in group}) == 9 * 30
    assert seeds(1, 2) == drawn[1 * 3 + 2]
    assert all(0 <= s < 2**31 for group in drawn for s in group)


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="the same arithmetic, and minutes on the other backends' CPUs")
def test_one_batch_is_learned_by_heart(tmp_path, config):
    run = Run.create(config("debug/overfit.yaml"), tmp_path)
    train(run)
    assert run.history()[-1]["loss"] < 0.01
    assert run.history()[-1]["mean_iou"] > 0.99


@pytest.mark.slow  # TensorFlow tries for ten seconds
def test_exhausted_memory_is_recognized():
    """By an array that no machine has the memory for."""
    with pytest.raises(Exception, match=r"(?i)memory|OOM|RESOURCE_EXHAUSTED") as caught:
        ops.convert_to_numpy(ops.ones((2**40, 2**10), "float32"))
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(ValueError("Out of memory"))
    assert not is_out_of_memory(RuntimeError("shapes differ"))


def test_exhausted_memory_is_one_message_with_settings(make, monkeypatch):
    def fail(*arguments, **settings):
        raise MemoryError

    monkeypatch.setattr(SegmentationTrainer, "fit", fail)
    message = (
        r"out of memory with training\.batch_size=4; epochs saved: 0\. Start a new run with training\.remat=true, "
        r"which takes longer; or training\.batch_size=2 training\.accumulate=2, which updates weights as often; or "
        r"training\.precision=mixed_bfloat16; or a smaller data\.size \(now 24×24\); or a smaller "
        r"model\.width \(now 4\)"
    )
    with pytest.raises(RunError, match=message):
        train(make())
