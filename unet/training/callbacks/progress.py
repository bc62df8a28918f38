"""The progress bar, and one log line per epoch."""

import contextlib
import logging
import time

import keras

from unet.console import bar, console

log = logging.getLogger("unet")

INTERVAL = 0.3
"""Seconds between two updates of the bar; reading the loss waits for the device."""


class Progress(keras.callbacks.Callback):
    """Shows the steps of the whole run and the time left. A context manager, which removes the bar at the end.

    Args:
        epochs: Number of epochs of the run.
        steps_per_epoch: Number of batches.
        rows: Rows of the history.
    """

    def __init__(self, epochs: int, steps_per_epoch: int, rows: list[dict[str, float]]):
        super().__init__()
        self.epochs, self.steps_per_epoch, self.rows = epochs, steps_per_epoch, rows
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        self._bar = self._stack.enter_context(bar(transient=True, disable=not console.is_terminal))
        steps = self.steps_per_epoch
        self._task = self._bar.add_task("", total=steps * self.epochs, completed=steps * len(self.rows))
        return self

    def __exit__(self, *exception):
        self._stack.close()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._shown_at = epoch, time.monotonic()
        self._bar.update(self._task, description=self._description())

    def on_train_batch_end(self, batch, logs=None):
        now = time.monotonic()
        if self._bar.disable or now - self._shown_at < INTERVAL:
            return
        self._shown_at = now
        completed = self._epoch * self.steps_per_epoch + batch + 1
        self._bar.update(self._task, completed=completed, description=self._description(float(logs["loss"])))

    def on_epoch_end(self, epoch, logs=None):
        row = self.rows[-1]
        validation = "  validation {val_loss:.4f}  mean IoU {val_mean_iou:.4f}" if "val_loss" in row else ""
        text = "epoch {epoch:.0f}/{epochs}  loss {loss:.4f}" + validation + "  ({images_per_second:.0f} images/s)"
        log.info(text.format(epochs=self.epochs, **row))

    def _description(self, loss: float | None = None) -> str:
        text = f"epoch {self._epoch + 1}/{self.epochs}"
        if loss is not None:
            text += f"  loss {loss:.4f}"
        if self.rows and "val_mean_iou" in self.rows[-1]:
            text += f"  validation mean IoU {self.rows[-1]['val_mean_iou']:.4f}"
        return text
