"""Calling the callbacks of ``fit`` without waiting for the device after every step."""

import keras


class CallbackList(keras.callbacks.CallbackList):
    """Gives callbacks the loss and metrics of a batch as arrays on the device.

    Keras converts them to numbers first. Then every step waits for the one before, and the device waits for the next.
    """

    def on_train_batch_end(self, batch, logs=None):
        for callback in self.callbacks:
            callback.on_train_batch_end(batch, logs)

    def on_test_batch_end(self, batch, logs=None):
        for callback in self.callbacks:
            callback.on_test_batch_end(batch, logs)
