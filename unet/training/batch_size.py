"""``training.batch_size: auto``: the largest batch whose training step fits in memory, found by trying.

``python -m unet.training.batch_size RUN FILE`` takes steps with 1, 2, 4, … images and writes to FILE each number that
fits. It is a process of its own: when memory runs out, or the system ends the process for that, nothing else ends, and
nothing of it remains on the device.
"""

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from unet import backend, data, processes
from unet import config as configuration
from unet.config import DataConfig
from unet.data.batches import Batches
from unet.data.cache import Split
from unet.data.resident import resident
from unet.errors import InputError, RunError
from unet.runs import Run

UPDATES = 10
"""Fewest updates of the weights that a batch leaves in an epoch."""
SHARE = 0.8
"""Share of the machine's available memory that the process may take."""
EXHAUSTED = 75
"""Exit code of the process when it has taken its share."""
KILLED = -9
"""Exit code of a process that Linux has ended because the memory of the machine, or of its container, is exhausted."""


def find(run: Run, overrides: tuple[str, ...] | list[str] = ()) -> int:
    """Find the largest power of two whose training step fits in memory and that leaves ``UPDATES`` in an epoch.

    Args:
        run: The run, which is only read.
        overrides: As in :func:`unet.training.train`.

    Returns:
        Images per step; 0 if not even one fits.

    Raises:
        InputError: The configuration or the data cannot be used.
        RunError: A step fails for another reason.
    """
    import keras

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "fitting"
        done = subprocess.run(
            processes.command("unet.training.batch_size", str(run.path), str(file), *overrides),
            env=os.environ | {"KERAS_BACKEND": keras.backend.backend()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        fitting = file.read_text().split() if file.exists() else []
    if done.returncode not in (0, EXHAUSTED, KILLED):
        kind = InputError if done.returncode == 2 else RunError
        raise kind(f"training.batch_size: auto: {processes.reason(done.stderr, done.returncode)}")
    return int(fitting[-1]) if fitting else 0


def fitting_sizes(run: Run, overrides: tuple[str, ...] | list[str] = ()) -> Iterator[int]:
    """Take training steps with 1, 2, 4, … images on this process's device, and yield each number that fits."""
    from unet.training.optimizer import make_optimizer
    from unet.training.step import compiles, make_trainer

    config = configuration.with_data_at(run.config, overrides)
    dataset = data.prepare(config.data)
    in_memory = resident(dataset.train)  # of the accelerator, as in training
    accumulate, classes = config.training.accumulate, dataset.classes
    trainer = make_trainer(config.with_class_weights(dict.fromkeys(classes, 1.0)), classes)
    trainer.compile(optimizer=make_optimizer(config.training, steps_per_epoch=UPDATES), jit_compile=compiles(config))
    size, largest = 1, in_memory.samples // accumulate // UPDATES
    while size <= max(1, largest):
        try:
            # A second step, as the first may not have all that the optimizer keeps.
            batches = Batches(_grey(config.data, size * max(2, accumulate)), size, 0, accumulate)
            trainer.fit(batches, shuffle=False, verbose=0)
        except Exception as error:
            if not backend.is_out_of_memory(error):
                raise
            return
        yield size
        size *= 2


def _grey(data: DataConfig, count: int) -> Split:
    """Grey images, as the configuration describes them, that take no memory."""
    images = np.broadcast_to(np.array(127, data.dtype), (count, *data.size, data.channels))
    return Split(images, np.broadcast_to(np.uint8(0), (count, *data.size)), [str(index) for index in range(count)])


def _end_beyond(most: float) -> None:
    """End this process as soon as it has more than ``most`` MiB in RAM, so that the machine need not swap."""

    def watch():
        while backend.resident_memory() <= most:
            time.sleep(0.02)
        os._exit(EXHAUSTED)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    from typing import Annotated

    import typer

    from unet import console

    def main(run: Path, file: Path, overrides: Annotated[list[str] | None, typer.Argument()] = None):
        """Write to FILE the numbers of images whose training step fits, one per line."""
        _end_beyond(SHARE * backend.available_memory())
        backend.use_backend()
        for size in fitting_sizes(Run.open(run), overrides or ()):
            with file.open("a") as written:
                written.write(f"{size}\n")

    console.run(lambda: typer.run(main))
