"""The story of a run: data, network, step, resume, epochs, checkpoints."""

import contextlib
import hashlib
import itertools
import logging
import math
import os
import random
import signal
import threading
import time
from collections.abc import Iterator

import keras
import numpy as np

from unet import backend, data, figures
from unet.config import Config, TrainingConfig
from unet.console import bar, console
from unet.data.augmentation import Augmentation
from unet.data.batches import Batches
from unet.errors import RunError
from unet.files import replacing
from unet.losses import SegmentationLoss
from unet.model import from_config
from unet.runs import Run
from unet.training.step import SegmentationTrainer

log = logging.getLogger("unet")

PICTURES = 8
"""Validation images whose predictions are drawn."""


def train(run: Run) -> None:
    """Train the run's configuration to its last epoch, going on from its last checkpoint if there is one.

    The random state of an epoch (data order, augmentation, dropout) is a function of the seed and the epoch, and
    ``last.keras`` holds everything else, so an interrupted run ends with the numbers of an uninterrupted one.

    Args:
        run: Directory to read the configuration from and to write to.

    Raises:
        InputError: The data cannot be used, or another process trains in the directory.
        RunError: The loss became infinite or NaN.
        KeyboardInterrupt: Ctrl-C; the run goes on from its last checkpoint when ``train`` is called again.
    """
    config = run.config
    with run.locked(), run.logging():
        run.record_environment(jit=compiles(config))
        dataset = data.prepare(config.data)
        if run.info.data is None:
            run.record_data(dataset)

        # === The step ===
        random.seed(config.seed)  # Keras draws from it the seed of whatever is not seeded by name
        trainer = make_trainer(config, dataset.classes)
        batches = Batches(dataset.train, config.training.batch_size, shuffle_seed=config.seed)
        trainer.compile(
            optimizer=make_optimizer(config.training, steps_per_epoch=len(batches)),
            jit_compile=compiles(config),
        )
        trainer.optimizer.build(trainer.trainable_variables)

        # === Resume ===
        done, history = 0, run.history()
        if run.last_file.is_file():
            trainer.load_weights(run.last_file)
            done = int(trainer.steps) // len(batches)
        history = [row for row in history if row["epoch"] <= done]
        if done:
            if done >= config.training.epochs or _patience_is_over(history, config.training):
                log.info("%s is finished: %d epochs", run.path, done)
                return
            log.info("going on after epoch %d of %d", done, config.training.epochs)
        else:
            log.info(
                "%d training, %d validation, %d test images of %d×%d; %s parameters; %d epochs of %d steps",
                len(dataset.train),
                len(dataset.validation),
                len(dataset.test),
                *config.data.size,
                f"{trainer.network.count_params():,}",
                config.training.epochs,
                len(batches),
            )

        # === Epochs ===
        with Recorder(run, batches, dataset, done, history) as recorder, _ctrl_c(recorder.interrupt):
            try:
                trainer.fit(
                    batches,
                    epochs=config.training.epochs,
                    initial_epoch=done,
                    callbacks=[recorder],
                    shuffle=False,  # the batches come shuffled; Keras would reorder them from its own random state
                    verbose=0,
                )
            except KeyboardInterrupt:
                log.warning("stopped by Ctrl-C; %d epochs are safe in %s", recorder.saved_epochs, run.path)
                raise
        log.info("finished after %d epochs", recorder.saved_epochs)


def is_trained(run: Run) -> bool:
    """Whether a run has come to its last epoch, or stopped early as its configuration wanted."""
    history, training = run.history(), run.config.training
    return bool(history) and (history[-1]["epoch"] >= training.epochs or _patience_is_over(history, training))


def make_trainer(config: Config, classes: tuple[str, ...]) -> SegmentationTrainer:
    """Network, augmentation and loss in one model for ``fit``."""
    return SegmentationTrainer(
        from_config(config, len(classes)),
        Augmentation.from_settings(config.augmentation, config.seed),
        SegmentationLoss.from_settings(config.loss, classes),
        len(classes),
        dtype=config.training.precision,
    )


def make_optimizer(config: TrainingConfig, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Optimiser with its learning-rate schedule, clipping and weight averaging."""
    shared = {
        "learning_rate": make_schedule(config, steps_per_epoch),
        "global_clipnorm": config.clip_norm,
        "use_ema": config.ema is not None,
        "ema_momentum": config.ema or 0.99,
    }
    if config.optimizer == "sgd":
        return keras.optimizers.SGD(momentum=config.momentum, nesterov=config.momentum > 0, **shared)
    if config.optimizer == "adam":
        return keras.optimizers.Adam(**shared)
    optimizer = keras.optimizers.AdamW(weight_decay=config.weight_decay, **shared)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def make_schedule(config: TrainingConfig, steps_per_epoch: int):
    """Learning rate by step: linear warm-up from 0, then a cosine down to 0, or constant."""
    warmup = round(config.warmup * config.epochs * steps_per_epoch)
    if config.schedule == "constant":
        if not warmup:
            return config.learning_rate
        return keras.optimizers.schedules.PolynomialDecay(0.0, warmup, config.learning_rate)
    remaining = config.epochs * steps_per_epoch - warmup
    if not warmup:
        return keras.optimizers.schedules.CosineDecay(config.learning_rate, remaining)
    return keras.optimizers.schedules.CosineDecay(
        0.0, remaining, warmup_target=config.learning_rate, warmup_steps=warmup
    )


def compiles(config: Config) -> bool:
    """Whether the step is compiled. On PyTorch it never is: ``fit`` crashes under torch.compile (keras #22282)."""
    return config.training.jit and keras.backend.backend() != "torch"


def epoch_seeds(seed: int, epoch: int) -> Iterator[int]:
    """Endless seeds for the random number generators of one epoch."""
    for index in itertools.count():
        digest = hashlib.sha256(f"{seed}/{epoch}/{index}".encode()).digest()
        yield int.from_bytes(digest[:4], "big") >> 1


class Recorder(keras.callbacks.Callback):
    """What happens around the steps: progress, validation, history, checkpoints, TensorBoard, the watch for NaN.

    Args:
        run: Directory to write to.
        batches: Training batches, put in order at each epoch's start.
        dataset: For validation.
        done: Number of epochs done before.
        history: Their rows.
    """

    def __init__(self, run: Run, batches: Batches, dataset: data.Dataset, done: int, history: list[dict[str, float]]):
        super().__init__()
        self.run, self.config = run, run.config
        self.batches, self.dataset = batches, dataset
        self.history = history
        self.epoch = self.saved_epochs = done
        self._interrupted = False
        self._best_weights: list[np.ndarray] | None = None
        self._saved_at = time.monotonic()
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        from tensorboardX import SummaryWriter

        self._board = SummaryWriter(str(self.run.tensorboard), purge_step=self.epoch + 1)
        self._stack.callback(self._board.close)
        self._bar = self._stack.enter_context(bar(transient=True, disable=not console.is_terminal))
        steps = len(self.batches)  # the bar counts the steps of the whole run, so that it shows the time left
        self._task = self._bar.add_task("", total=steps * self.config.training.epochs, completed=steps * self.epoch)
        return self

    def __exit__(self, *exception):
        self._stack.close()

    def interrupt(self) -> None:
        """Stop after the step that is running; in an epoch's last step or its validation, after its checkpoint."""
        self._interrupted = True
        log.warning("stopping after this step; Ctrl-C again stops at once")

    # === Called by fit ===

    def on_epoch_begin(self, epoch, logs=None):
        """Bring data order and random numbers into the state that belongs to this epoch."""
        if self._interrupted:
            raise KeyboardInterrupt
        self.epoch = epoch
        self.batches.start_epoch(epoch)
        self.model.reseed(epoch_seeds(self.config.seed, epoch))
        self._epoch_started = self._shown_at = time.monotonic()
        self._bar.update(self._task, description=self._describe())

    def on_train_batch_end(self, batch, logs=None):
        """Show progress a few times a second; reading the loss waits for the device, so not every step."""
        if self._interrupted and batch + 1 < len(self.batches):
            raise KeyboardInterrupt
        now = time.monotonic()
        if now - self._shown_at < 0.3:
            return
        self._shown_at = now
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            self._diverged()
        completed = self.epoch * len(self.batches) + batch + 1
        self._bar.update(self._task, completed=completed, description=self._describe(loss))

    def on_epoch_end(self, epoch, logs=None):
        """Validate, record, and checkpoint if it is time."""
        if int(self.model.finite_steps) < int(self.model.steps):
            self._diverged()
        seconds = time.monotonic() - self._epoch_started
        images = len(self.batches) * self.batches.batch_size
        row = {
            "epoch": epoch + 1,
            "loss": float(logs["loss"]),
            "mean_iou": float(logs["mean_iou"]),
            "learning_rate": float(self.model.optimizer.learning_rate),
            "images_per_second": images / seconds,
            "peak_memory_mib": backend.peak_memory(),
        }
        with averaged_weights(self.model):
            row |= self._validate(epoch)
            if self._is_best(row):
                self._best_weights = [np.array(v) for v in self.model.network.variables]
        self.history.append(row)
        self._report(row)
        if _patience_is_over(self.history, self.config.training):
            log.info("no better validation mean IoU for %d epochs", self.config.training.early_stopping)
            self.model.stop_training = True
        last = self.model.stop_training or epoch + 1 == self.config.training.epochs
        if last or self._interrupted or time.monotonic() - self._saved_at >= self.config.training.checkpoint_seconds:
            self._save()

    # === Parts ===

    def _validate(self, epoch: int) -> dict[str, float]:
        split = self.dataset.validation
        if not len(split):
            return {}
        batches = Batches(split, self.config.training.batch_size)
        scores = self.model.evaluate(batches, verbose=0, return_dict=True)
        every = self.config.training.pictures_every
        if every and (epoch % every == 0 or epoch + 1 == self.config.training.epochs):
            images, masks = split.images[:PICTURES], split.masks[:PICTURES]
            prediction = self.model.network.predict_on_batch(images).argmax(-1)
            picture = figures.prediction_strip(images, masks, prediction, len(self.dataset.classes))
            self._board.add_image("validation/image_truth_prediction", picture, epoch + 1, dataformats="HWC")
        return {"val_loss": float(scores["loss"]), "val_mean_iou": float(scores["mean_iou"])}

    def _is_best(self, row: dict[str, float]) -> bool:
        """Better validation mean IoU than every epoch before; without validation the latest is the best."""
        if "val_mean_iou" not in row:
            return True
        return row["val_mean_iou"] > max((old["val_mean_iou"] for old in self.history), default=-1.0)

    def _report(self, row: dict[str, float]) -> None:
        for key, value in row.items():
            if key != "epoch":
                self._board.add_scalar(key, value, int(row["epoch"]))
        validation = "  validation {val_loss:.4f}  mean IoU {val_mean_iou:.4f}" if "val_loss" in row else ""
        text = "epoch {epoch:.0f}/{epochs}  loss {loss:.4f}" + validation + "  ({images_per_second:.0f} images/s)"
        log.info(text.format(epochs=self.config.training.epochs, **row))

    def _save(self) -> None:
        """Write best.keras, history.csv and, last of all, last.keras, which says how far the others count."""
        if self._best_weights is not None:
            network = self.model.network
            with holding(network.variables, self._best_weights), replacing(self.run.best_file) as temporary:
                network.save(temporary)
            self._best_weights = None
        self.run.write_history(self.history)
        with replacing(self.run.last_file) as temporary:
            self.model.save(temporary)
        self.saved_epochs = self.epoch + 1
        self._saved_at = time.monotonic()

    def _describe(self, loss: float | None = None) -> str:
        text = f"epoch {self.epoch + 1}/{self.config.training.epochs}"
        if loss is not None:
            text += f"  loss {loss:.4f}"
        if self.history and "val_mean_iou" in self.history[-1]:
            text += f"  validation mean IoU {self.history[-1]['val_mean_iou']:.4f}"
        return text

    def _diverged(self):
        if hasattr(self.model, "jax_state_sync"):  # within an epoch JAX keeps the variables in the step's state
            self.model.jax_state_sync()
        step = int(self.model.finite_steps) + 1
        training = self.config.training
        advice = [f"a lower training.learning_rate (now {training.learning_rate:g})"]
        if training.clip_norm is None:
            advice.append("training.clip_norm=1.0")
        if not training.warmup:
            advice.append("training.warmup=0.05")
        if training.precision == "mixed_float16":
            advice.append("training.precision=mixed_bfloat16")
        if self.config.model.normalization == "none":
            advice.append("model.normalization=batch")
        raise RunError(
            f"the loss became NaN or infinite at step {step} (epoch {(step - 1) // len(self.batches) + 1}). "
            f"Try {', or '.join(advice)}, under a new name=... "
            f"The {self.saved_epochs} epochs before are safe in {self.run.path}"
        )


@contextlib.contextmanager
def averaged_weights(model: keras.Model):
    """Put the moving averages of the weights into the model for a while, if the optimiser keeps them."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if not optimizer.use_ema:
        yield
        return
    variables = model.trainable_variables
    weights = [np.array(variable) for variable in variables]
    optimizer.finalize_variable_values(variables)
    averages = [np.array(variable) for variable in variables]
    for variable, weight in zip(variables, weights, strict=True):
        variable.assign(weight)
    with holding(variables, averages):
        yield


@contextlib.contextmanager
def holding(variables, values):
    """Give variables other values for a while; values are numpy arrays, so that no device buffer gets two owners."""
    before = [np.array(variable) for variable in variables]
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    try:
        yield
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)


@contextlib.contextmanager
def _ctrl_c(obey):
    """Call ``obey`` at the first Ctrl-C, for a stop between two steps; the second one ends the process at once.

    An exception in the midst of a step would find Keras' variables without values on JAX. Nothing is lost by ending at
    once, as every file appears whole or not at all.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return

    def strike(number, frame):
        console.show_cursor()  # the bar has hidden it
        os._exit(130)

    def listen(number, frame):
        signal.signal(signal.SIGINT, strike)
        obey()

    signal.signal(signal.SIGINT, listen)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _patience_is_over(history: list[dict[str, float]], config: TrainingConfig) -> bool:
    """No better validation mean IoU for ``early_stopping`` epochs."""
    scores = [row["val_mean_iou"] for row in history if "val_mean_iou" in row]
    if config.early_stopping is None or not scores:
        return False
    return len(scores) - 1 - int(np.argmax(scores)) >= config.early_stopping
