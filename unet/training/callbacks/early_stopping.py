"""Ending a run whose validation score no longer improves."""

import logging

import keras
import numpy as np

from unet.config import TrainingConfig

log = logging.getLogger("unet")


class EarlyStopping(keras.callbacks.Callback):
    """Stops training after ``early_stopping`` epochs without a better validation mean IoU.

    Args:
        config: Training section of the configuration.
        rows: Rows of the history.
    """

    def __init__(self, config: TrainingConfig, rows: list[dict[str, float]]):
        super().__init__()
        self.config, self.rows = config, rows

    def on_epoch_end(self, epoch, logs=None):
        if patience_exhausted(self.rows, self.config):
            log.info("stopping early: no better validation mean IoU for %d epochs", self.config.early_stopping)
            self.model.stop_training = True


def patience_exhausted(rows: list[dict[str, float]], config: TrainingConfig) -> bool:
    """Whether validation mean IoU has not improved in the last ``early_stopping`` epochs."""
    scores = [row["val_mean_iou"] for row in rows if "val_mean_iou" in row]
    if config.early_stopping is None or not scores:
        return False
    return len(scores) - 1 - int(np.argmax(scores)) >= config.early_stopping
