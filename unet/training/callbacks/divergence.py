"""Detecting a loss that has become NaN or infinite."""

import math
import time

import keras

from unet.errors import RunError
from unet.training.callbacks.checkpoint import Checkpoint

INTERVAL = 1.0
"""Seconds between two checks of the loss within an epoch; reading it waits for the device."""


class DivergenceGuard(keras.callbacks.Callback):
    """Raises :class:`RunError` with the step at which the loss diverged, and settings that may help.

    Args:
        checkpoint: Callback that knows the run and the epochs saved.
        steps_per_epoch: Number of batches.
    """

    def __init__(self, checkpoint: Checkpoint, steps_per_epoch: int):
        super().__init__()
        self.checkpoint, self.steps_per_epoch = checkpoint, steps_per_epoch

    def on_epoch_begin(self, epoch, logs=None):
        self._checked_at = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        now = time.monotonic()
        if now - self._checked_at >= INTERVAL:
            self._checked_at = now
            if not math.isfinite(float(logs["loss"])):
                self._fail()

    def on_epoch_end(self, epoch, logs=None):
        if int(self.model.finite_steps) < int(self.model.steps):
            self._fail()

    def _fail(self):
        step = int(self.model.finite_steps) + 1
        config = self.checkpoint.config
        training = config.training
        advice = [f"a lower training.learning_rate (now {training.learning_rate:g})"]
        if training.clip_norm is None:
            advice.append("training.clip_norm=1.0")
        if not training.warmup:
            advice.append("training.warmup=0.05")
        if training.precision == "mixed_float16":
            advice.append("training.precision=mixed_bfloat16")
        if config.model.normalization == "none":
            advice.append("model.normalization=batch")
        raise RunError(
            f"the loss became NaN or infinite at step {step} (epoch {(step - 1) // self.steps_per_epoch + 1}). "
            f"Try {', or '.join(advice)}, under a new name=... "
            f"Epochs saved in {self.checkpoint.run.path}: {self.checkpoint.saved_epochs}"
        )
