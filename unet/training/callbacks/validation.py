"""Validation at the end of every epoch, and the best weights so far."""

import keras
import numpy as np

from unet.data import Split
from unet.data.batches import Batches
from unet.training import devices
from unet.training.callbacks.callback_list import CallbackList
from unet.training.callbacks.stop_request import StopRequest
from unet.training.weights import averaged_weights


class Validation(keras.callbacks.Callback):
    """Adds ``val_loss`` and ``val_mean_iou`` to the epoch's row, and keeps the weights of the best epoch.

    Without validation images the latest epoch is the best. With weight averaging the averages are validated and kept.

    Args:
        split: Validation images; may be empty.
        batch_size: Images per batch.
        rows: Rows of the history; the last one is the epoch's own.
        stop: Callback that can interrupt the validation.

    Attributes:
        best_weights: Values of all variables of the best network since the last checkpoint; ``None`` if no epoch since
            then was better than all before.
    """

    def __init__(self, split: Split, batch_size: int, rows: list[dict[str, float]], stop: StopRequest):
        super().__init__()
        self.split, self.batch_size, self.rows, self.stop = split, batch_size, rows, stop
        self.best_weights: list[np.ndarray] | None = None

    def on_epoch_end(self, epoch, logs=None):
        row = self.rows[-1]
        with averaged_weights(self.model):
            if len(self.split):
                batches = Batches(self.split, self.batch_size)
                with batches.raising_own_errors(), devices.alone():
                    callbacks = CallbackList([self.stop], model=self.model)
                    scores = self.model.evaluate(batches, verbose=0, return_dict=True, callbacks=callbacks)
                row |= {"val_loss": float(scores["loss"]), "val_mean_iou": float(scores["mean_iou"])}
            if self._is_best(row):
                self.best_weights = [np.array(variable) for variable in self.model.network.variables]

    def _is_best(self, row: dict[str, float]) -> bool:
        if "val_mean_iou" not in row:
            return True
        return row["val_mean_iou"] > max((old["val_mean_iou"] for old in self.rows[:-1]), default=-1.0)
