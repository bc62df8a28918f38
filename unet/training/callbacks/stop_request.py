"""Stopping between two steps after Ctrl-C, SIGTERM or SIGHUP."""

import logging

import keras

from unet import interrupts

log = logging.getLogger("unet")


class StopRequest(keras.callbacks.Callback):
    """Ends ``fit`` after the running step of training or validation once a signal has arrived.

    It raises what :func:`unet.interrupts.stopped_by` gives. An epoch that is not validated yet is repeated when
    training resumes.
    """

    def __init__(self):
        super().__init__()
        self.signal: int | None = None

    def request(self, number: int) -> None:
        """Request a stop; ``number`` is the signal."""
        self.signal = number
        log.warning("stopping after this step; %s again stops at once", interrupts.name(number))

    def _stop(self) -> None:
        if self.signal is not None:
            raise interrupts.stopped_by(self.signal)

    def on_epoch_begin(self, epoch, logs=None):
        self._stop()

    def on_train_batch_end(self, batch, logs=None):
        self._stop()

    def on_test_batch_end(self, batch, logs=None):
        self._stop()
