"""The checkpoint ``last.keras``: the whole training state, and after how many epochs it was saved."""

import json
import zipfile
from pathlib import Path

import keras
from pydantic import NonNegativeInt

from unet import records
from unet.data import Dataset
from unet.errors import InputError
from unet.files import replacing
from unet.runs import Run

MEMBER = "training.json"
"""Name of the archive member with the number of epochs; Keras ignores it."""
_REMEDY = "restore it from a copy, or delete it to start again"


def save(trainer: keras.Model, path: Path, epochs: int) -> None:
    """Write weights, optimizer, counters and the number of finished epochs to ``path``, atomically."""
    with replacing(path) as temporary:
        trainer.save(temporary)
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.writestr(MEMBER, json.dumps({"epochs": epochs}))


def saved_epochs(path: Path) -> int | None:
    """Number of epochs after which ``path`` was saved; ``None`` if an earlier version of this package wrote it.

    Raises:
        InputError: The file is damaged.
    """
    text = records.text_in(path, MEMBER)
    if text is None:
        return None
    try:
        return records.parse(text, dict[str, NonNegativeInt])["epochs"]
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: {MEMBER} is damaged ({error}); {_REMEDY}") from None


def check_data(run: Run, dataset: Dataset) -> None:
    """Refuse to resume a run on data other than those it was started on.

    Raises:
        InputError: The data have changed; the message says what.
    """
    changes = run.data_changes(dataset)
    if changes:
        raise InputError(
            f"{run.path} cannot be resumed: the data are not those it was started on.\n"
            + "\n".join(f"  {change}" for change in changes)
            + "\nIf the original data are elsewhere, give data.data_dir=NEW. To train on the present data, start a new "
            "run: name=..."
        )


def restore(run: Run, trainer: keras.Model, steps_per_epoch: int) -> int:
    """Load the run's last checkpoint into the trainer, if there is one, and return the number of finished epochs.

    Raises:
        InputError: The checkpoint is damaged, or does not belong to this run; or one of an earlier version of this
            package does not match its history.
    """
    if not run.last_file.exists():
        return 0
    epochs = saved_epochs(run.last_file)
    try:
        trainer.load_weights(run.last_file)
    except Exception as error:  # Keras and HDF5 raise many classes of errors
        raise InputError(f"{run.last_file}: cannot be loaded ({records.cause(error)}); {_REMEDY}") from error
    if epochs is not None:
        return epochs
    history, steps = run.history(), int(trainer.steps)
    recorded = int(history[-1]["epoch"]) if history else 0
    # A kill between the two files left history.csv one epoch ahead. Of two epochs, half the steps may also mean that
    # the data have doubled.
    possible = (recorded, recorded - 1) if recorded > 2 else (recorded,)
    for epochs in possible:
        if steps == epochs * steps_per_epoch:
            return epochs
    raise InputError(
        f"{run.path} cannot be resumed: history.csv has {recorded} epochs, which are {recorded * steps_per_epoch:,} "
        f"steps on the present data ({steps_per_epoch:,} per epoch), but last.keras was saved after {steps:,} "
        "steps. Restore the data the run was started on, or start a new run: name=..."
    )
