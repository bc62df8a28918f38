"""Scalars and pictures for TensorBoard."""

import keras

from unet import figures
from unet.config import Config
from unet.data import Split
from unet.runs import Run
from unet.training.weights import averaged_weights

PICTURES = 8
"""Number of validation images whose predictions are drawn."""


class TensorBoard(keras.callbacks.Callback):
    """Writes the epoch's row and, every ``pictures_every`` epochs, predictions of a few validation images.

    A context manager, which closes the event file.

    Args:
        run: Directory to write to.
        split: Validation images.
        classes: Number of classes.
        rows: Rows of the history.
    """

    def __init__(self, run: Run, split: Split, classes: int, rows: list[dict[str, float]]):
        super().__init__()
        self.run, self.split, self.classes, self.rows = run, split, classes, rows
        self.config: Config = run.config

    def __enter__(self):
        from tensorboardX import SummaryWriter

        self._board = SummaryWriter(str(self.run.tensorboard), purge_step=len(self.rows) + 1)
        return self

    def __exit__(self, *exception):
        self._board.close()

    def on_epoch_end(self, epoch, logs=None):
        every, last = self.config.training.pictures_every, self.config.training.epochs
        if len(self.split) and every and (epoch % every == 0 or epoch + 1 == last):
            self._write_picture(epoch + 1)
        for key, value in self.rows[-1].items():
            if key != "epoch":
                self._board.add_scalar(key, value, epoch + 1)

    def _write_picture(self, epoch: int) -> None:
        images, masks = self.split.images[:PICTURES], self.split.masks[:PICTURES]
        with averaged_weights(self.model):
            prediction = self.model.network.predict_on_batch(images).argmax(-1)
        picture = figures.prediction_strip(images, masks, prediction, self.classes)
        self._board.add_image("validation/image_truth_prediction", picture, epoch, dataformats="HWC")
