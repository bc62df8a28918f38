"""Writing the run's files at the end of an epoch."""

import time

import keras

from unet.files import replacing
from unet.runs import Run
from unet.training import checkpoints, devices
from unet.training.callbacks.stop_request import StopRequest
from unet.training.callbacks.validation import Validation
from unet.training.weights import holding


class Checkpoint(keras.callbacks.Callback):
    """Writes best.keras, history.csv and last.keras every ``checkpoint_seconds`` and after the last epoch.

    Args:
        run: Directory to write to.
        validation: Callback that holds the best weights.
        stop: Callback that knows whether training is about to stop.
        saved_epochs: Number of epochs saved before.

    Attributes:
        saved_epochs: Number of epochs saved so far.
    """

    def __init__(self, run: Run, validation: Validation, stop: StopRequest, saved_epochs: int):
        super().__init__()
        self.run, self.config = run, run.config
        self.validation, self.stop = validation, stop
        self.saved_epochs = saved_epochs
        self._saved_at = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        training = self.config.training
        last = self.model.stop_training or epoch + 1 == training.epochs
        stopping = self.stop.signal is not None
        if last or stopping or time.monotonic() - self._saved_at >= training.checkpoint_seconds:
            with devices.alone():
                self._save(epoch + 1)

    def _save(self, epochs: int) -> None:
        """Write the files; last.keras is the last, as its number of epochs tells how many rows of history.csv count."""
        if self.validation.best_weights is not None:
            network = self.model.network
            with (
                holding(network.variables, self.validation.best_weights),
                replacing(self.run.best_file) as temporary,
            ):
                network.save(temporary)
            self.validation.best_weights = None
        self.run.write_history(self.validation.rows)
        checkpoints.save(self.model, self.run.last_file, epochs)
        self.saved_epochs = epochs
        self._saved_at = time.monotonic()
