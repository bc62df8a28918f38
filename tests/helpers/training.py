"""Training that ends early."""

from contextlib import contextmanager

import pytest

from unet.training.callbacks import Checkpoint


class Stopped(Exception):
    """Ends a training after an epoch."""


@contextmanager
def stopping_after_an_epoch(error=Stopped):
    """Expect the training in this context to end with an error that is raised when its first checkpoint is written."""
    original = Checkpoint.on_epoch_end

    def stop(self, epoch, logs=None):
        original(self, epoch, logs)
        raise error

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Checkpoint, "on_epoch_end", stop)
        with pytest.raises(error):
            yield
