"""The epochs of a run in MLflow or Weights & Biases."""

import keras

from unet.tracking import Tracker
from unet.training.callbacks.checkpoint import Checkpoint


class Tracking(keras.callbacks.Callback):
    """Sends the rows of the epochs that have been saved; comes after the checkpoint.

    Args:
        tracker: The tracked run; ``None`` if there is none.
        checkpoint: Callback that knows the epochs saved.
        rows: Rows of the history.
    """

    def __init__(self, tracker: Tracker | None, checkpoint: Checkpoint, rows: list[dict[str, float]]):
        super().__init__()
        self.tracker, self.checkpoint, self.rows = tracker, checkpoint, rows

    def on_epoch_end(self, epoch, logs=None):
        if self.tracker is not None:
            self.tracker.log(self.rows[: self.checkpoint.saved_epochs])
