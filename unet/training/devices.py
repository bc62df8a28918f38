"""``training.devices``: every step on several devices of this machine, each with a part of the batch (JAX)."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Literal

import keras

from unet.errors import InputError

log = logging.getLogger("unet")


@contextlib.contextmanager
def parallel(devices: int | Literal["all"], batch_size: int) -> Iterator[None]:
    """Divide the batches of ``fit`` among devices, for networks that are built within this context.

    The step is the same computation as on one device: batch statistics and augmentation are those of the whole batch,
    so losses agree but for rounding, and a run can be resumed with another number of devices.

    Args:
        devices: How many; ``"all"``: all that the backend finds.
        batch_size: Images per step.

    Raises:
        InputError: There are fewer devices, the backend trains on one only, or the batch cannot be divided equally.
    """
    if devices == 1:
        yield
        return
    if keras.backend.backend() != "jax":
        raise InputError(
            f"training.devices: several devices are used with JAX only; the backend is {keras.backend.backend()}. Set "
            "KERAS_BACKEND=jax, or training.devices=1"
        )
    found = keras.distribution.list_devices()
    count = len(found) if devices == "all" else devices
    if count > len(found):
        raise InputError(f"training.devices: {count} are more than the {len(found)} found: {', '.join(found)}")
    if batch_size % count:
        raise InputError(
            f"training.batch_size: {batch_size} images cannot be divided equally among {count} devices; choose a "
            f"multiple of {count}"
        )
    log.info("training on %d devices, each with %d images of a batch", count, batch_size // count)
    with keras.distribution.DataParallel(devices=found[:count]).scope():
        yield


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Undivided batches within :func:`parallel`: they may have any number of images, and every device computes all."""
    outer = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(outer)
