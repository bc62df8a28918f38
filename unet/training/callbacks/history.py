"""The measurements of an epoch: one row of history.csv."""

import time

import keras

from unet import backend
from unet.data.batches import Batches


class History(keras.callbacks.Callback):
    """Appends a row per epoch with training loss and mean IoU, learning rate, speed and memory; validation adds to it.

    Args:
        batches: Training batches.
        rows: Rows of the epochs finished before; extended in place.
    """

    def __init__(self, batches: Batches, rows: list[dict[str, float]]):
        super().__init__()
        self.rows, self._images = rows, len(batches) * batches.batch_size

    def on_epoch_begin(self, epoch, logs=None):
        self._started = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        seconds = time.monotonic() - self._started
        self.rows.append(
            {
                "epoch": epoch + 1,
                "loss": float(logs["loss"]),
                "mean_iou": float(logs["mean_iou"]),
                "learning_rate": float(self.model.optimizer.learning_rate),
                "images_per_second": self._images / seconds,
                "peak_memory_mib": backend.peak_memory(),
            }
        )
