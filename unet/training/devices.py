"""``training.devices``: every step on several devices, each with a part of the batch, with JAX.

They may belong to several processes that :mod:`unet.cluster` has joined: each reads and contributes its own rows of
every batch, and all of them have the same weights.
"""

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator
from typing import Literal

import keras
import numpy as np

from unet.data import Dataset, fingerprint
from unet.errors import InputError

log = logging.getLogger("unet")


@contextlib.contextmanager
def parallel(devices: int | Literal["all"], batch_size: int) -> Iterator[None]:
    """Divide the batches of ``fit`` among devices, for networks that are built within this context.

    The step is the same computation as on one device: batch statistics and augmentation are those of the whole batch,
    so losses agree but for rounding, and a run can be resumed with another number of devices.

    Args:
        devices: How many; ``"all"``: all that the backend finds, in all processes.
        batch_size: Images per step.

    Raises:
        InputError: There are fewer devices, or more in several processes; the backend trains on one only; or the batch
            cannot be divided equally.
    """
    if devices == 1:
        yield
        return
    if keras.backend.backend() != "jax":
        raise InputError(
            f"training.devices: several devices are used with JAX only; the backend is {keras.backend.backend()}, with "
            "which results would not be those of one device. Set KERAS_BACKEND=jax, or training.devices=1"
        )
    import jax

    found = keras.distribution.list_devices()
    count = len(found) if devices == "all" else devices
    if count > len(found):
        raise InputError(f"training.devices: {count} are more than the {len(found)} found: {', '.join(found)}")
    processes = jax.process_count()
    if processes > 1 and count < len(found):
        raise InputError(
            f"training.devices: {count} are fewer than the {len(found)} of all {processes} processes; set "
            "training.devices=all"
        )
    if batch_size % count:
        raise InputError(
            f"training.batch_size: {batch_size} images cannot be divided equally among {count} devices; choose a "
            f"multiple of {count}"
        )
    where = f" of {processes} processes" if processes > 1 else ""
    log.info("training on %d devices%s, each with %d images of a batch", count, where, batch_size // count)
    with keras.distribution.DataParallel(devices=found[:count], auto_shard_dataset=False).scope():
        yield


def check_data(dataset: Dataset) -> None:
    """Check that all processes have the same data.

    Raises:
        InputError: This one has others than the first.
    """
    if not _several_processes():
        return
    from jax.experimental.multihost_utils import broadcast_one_to_all

    text = json.dumps(fingerprint.of(fingerprint.listing_of(dataset)), sort_keys=True)
    own = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    if not np.array_equal(broadcast_one_to_all(own), own):
        raise InputError("the images or masks are not those of the first process; copy its data, or share them")


def own_rows(batch: np.ndarray) -> np.ndarray:
    """The rows of an array that this process's devices compute: all, but for :func:`parallel` in several processes."""
    if not _several_processes():
        return batch
    import jax

    places = keras.distribution.distribution().device_mesh.backend_mesh.devices.flat
    own = [index for index, device in enumerate(places) if device.process_index == jax.process_index()]
    return batch.reshape(len(places), -1, *batch.shape[1:])[own].reshape(-1, *batch.shape[1:])


def copied(variable: keras.Variable):
    """A copy of a variable's value, on its device if this process has it for itself; else an array of NumPy."""
    if _is_shared(variable):
        return np.array(variable)
    return keras.ops.stop_gradient(keras.ops.copy(variable.value))


def replicated(value, variable: keras.Variable):
    """A value to assign to a variable without the other processes, which assign the same one at another time.

    Assigning an array of numpy, Keras would wait for the others, to compare theirs.
    """
    if not _is_shared(variable):
        return value
    import jax

    value, layout = np.asarray(value, variable.dtype), variable._layout.backend_layout
    return jax.make_array_from_callback(value.shape, layout, lambda index: value[index])


def _is_shared(variable: keras.Variable) -> bool:
    """Whether several processes hold a variable together."""
    layout = variable._layout  # not the sharding of its value: after a validation that was interrupted it has none
    return layout is not None and not layout.backend_layout.is_fully_addressable


def _several_processes() -> bool:
    distribution = keras.distribution.distribution()
    return distribution is not None and distribution.num_processes > 1


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Undivided batches within :func:`parallel`: they may have any number of images, and every device computes all.

    A model that is saved is in such a block, too: Keras would wait for the other processes.
    """
    outer = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(outer)
