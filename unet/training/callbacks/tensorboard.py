"""Scalars and pictures for TensorBoard."""

import contextlib
import time
import uuid

import keras

from unet import figures
from unet.config import Config
from unet.data import Split
from unet.data.heads import head_of
from unet.files import writing
from unet.runs import Run
from unet.training import devices
from unet.training.weights import averaged_weights

PICTURES = 8
"""Number of validation images whose predictions are drawn."""


class TensorBoard(keras.callbacks.Callback):
    """Writes the epoch's row and, every ``pictures_every`` epochs, predictions of a few validation images.

    A context manager, which closes the event file.

    Args:
        run: Directory to write to.
        split: Validation images.
        rows: Rows of the history.
    """

    def __init__(self, run: Run, split: Split, rows: list[dict[str, float]]):
        super().__init__()
        self.run, self.split, self.rows = run, split, rows
        self.config: Config = run.config

    def __enter__(self):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        # Not tensorboardX.SummaryWriter: a full disk ends its thread, for which it then waits forever.
        with writing(self.run.tensorboard):
            self.run.tensorboard.mkdir(exist_ok=True)
            # The name contains the time in seconds, which another start may share.
            self._events = EventsWriter(str(self.run.tensorboard / "events"), f".{uuid.uuid4().hex[:8]}")
        self._write(len(self.rows) + 1, session_log=SessionLog(status=SessionLog.START))  # hides later steps
        return self

    def __exit__(self, *exception):
        with contextlib.suppress(OSError):  # every epoch has been written, or the disk is full
            self._events.close()

    def on_epoch_end(self, epoch, logs=None):
        from tensorboardX.summary import scalar

        every, last = self.config.training.pictures_every, self.config.training.epochs
        if len(self.split) and every and (epoch % every == 0 or epoch + 1 == last):
            self._write_picture(epoch + 1)
        for key, value in self.rows[-1].items():
            if key != "epoch":
                self._write(epoch + 1, summary=scalar(key, value))
        with writing(self.run.tensorboard):
            self._events.flush()

    def _write(self, epoch: int, **content) -> None:
        from tensorboardX.proto.event_pb2 import Event

        with writing(self.run.tensorboard):
            self._events.write_event(Event(wall_time=time.time(), step=epoch, **content))

    def _write_picture(self, epoch: int) -> None:
        from tensorboardX.summary import image

        head = head_of(self.config.model.head)
        images, masks = self.split.read(slice(PICTURES))
        with averaged_weights(self.model), devices.alone():
            prediction = head.mask(self.model.network.predict_on_batch(images))
        picture = figures.prediction_strip(images, masks, prediction, head.table(self.run.info.colours))
        self._write(epoch, summary=image("validation/image_truth_prediction", picture, dataformats="HWC"))
