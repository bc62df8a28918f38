"""Runs in MLflow or Weights & Biases (setting ``tracking``), in addition to TensorBoard.

A tracked run has the configuration, the epochs that are saved in history.csv, and the scores of ``unet evaluate``.
``tracking.json`` in the run directory says which tracked run it is and how far it has come, so that a resumed run
continues it and no epoch is sent twice.
"""

import contextlib
import dataclasses
import importlib
import logging
import math
import re
from collections.abc import Iterator
from typing import Any, Literal, Protocol

from pydantic import ConfigDict, NonNegativeInt
from pydantic.dataclasses import dataclass

from unet import records
from unet.config import Config
from unet.errors import InputError
from unet.files import write_json
from unet.runs import Run
from unet.settings import flattened

log = logging.getLogger("unet")

SERVICES = {"mlflow": "MLflow", "wandb": "Weights & Biases"}
"""Names of the services by the value of ``tracking``, which is also the name of the package and of the extra."""
PROJECT = "unet-upsamplers"
"""MLflow experiment, or W&B project, if the service's own environment variables name none."""

_UNUSUAL = re.compile(r"[^-\w .]|^[. ]|[. ]$")
"""Characters of class names that MLflow does not accept in the names of metrics."""

Outcome = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True, config=ConfigDict(strict=True))
class Record:
    """Contents of tracking.json."""

    labels: dict[str, str] = dataclasses.field(default_factory=dict)
    """``ablation``, ``variant`` and ``seed`` of a cell of an ablation."""
    id: str | None = None
    """Identifier of the tracked run at its service; ``None`` before training."""
    epochs: NonNegativeInt = 0
    """Number of epochs sent so far."""
    stored: NonNegativeInt = 0
    """How many of them are there even if the process is killed. W&B keeps what it is given in memory for a while."""
    finished: bool = False
    """Whether the service knows that the training has finished."""


class TrackedRun(Protocol):
    """A run of a service that can be written to."""

    id: str
    place: str
    """Where a person finds it."""
    stores_at_once: bool
    """Whether the values of an epoch are stored when :meth:`log` returns, or else when :meth:`close` does."""

    def log(self, values: dict[str, float], epoch: int) -> None:
        """Add the values of an epoch."""

    def summarize(self, values: dict[str, float]) -> None:
        """Set values of the whole run."""

    def close(self, outcome: Outcome | None) -> None:
        """Send what is left; ``None`` does not change whether the run counts as finished."""


class Service(Protocol):
    """What the module of a service contains; its package is imported with the module."""

    def prepare(self) -> None:
        """Check that runs can be tracked, before several processes do."""

    def open_run(self, run: Run, record: Record, parameters: dict[str, Any], trains: bool) -> TrackedRun:
        """Begin a tracked run, or continue the one whose identifier is in the record."""


def prepare(config: Config) -> None:
    """Check that a run can be tracked as configured, before anything that takes long.

    Raises:
        InputError: The package of the service is not installed, or its server cannot be reached.
    """
    if config.tracking != "none":
        with _explained(config.tracking):
            _service(config.tracking).prepare()


def label(run: Run, **labels: object) -> None:
    """Record the labels under which a run will be tracked, if its tracking has not begun."""
    if run.config.tracking != "none" and _record(run).id is None:
        _write(run, Record({key: str(value) for key, value in labels.items()}))


@contextlib.contextmanager
def following(run: Run, continues: bool) -> Iterator["Tracker | None"]:
    """Track a run while it trains; yields ``None`` if it is not to be tracked.

    Args:
        run: The run.
        continues: Whether it continues the training that has been tracked before, or begins again. Then so does the
            tracked run, unless no epoch has been sent to it.

    Raises:
        InputError: The service cannot be used; the message says what to do.
    """
    if run.config.tracking == "none":
        yield None
        return
    record = _record(run)
    same = continues or not record.epochs
    tracker = Tracker(run, record if same else Record(record.labels), trains=True)
    try:
        yield tracker
    except (KeyboardInterrupt, SystemExit):
        tracker.close("stopped")
        raise
    except BaseException:
        tracker.close("failed")
        raise
    tracker.close("finished")


def complete(run: Run, rows: list[dict[str, float]]) -> None:
    """Send what is missing of a run whose training has finished, if its process could not send it.

    Args:
        run: The run.
        rows: The rows of its history.

    Raises:
        InputError: The service cannot be used.
    """
    record = _record(run)
    if record.id is not None and not record.finished:
        with following(run, continues=True) as tracker:
            if tracker is not None:
                tracker.log(rows)


def add_scores(run: Run, split: str, scores: dict) -> None:
    """Add the scores of a split to a run that is tracked; problems are a warning, as the scores are on the disk.

    Args:
        run: The run.
        split: Name of the split in metrics.json.
        scores: As in :meth:`unet.metrics.Tally.scores`; those of all pixels of the data set are added.
    """
    if run.config.tracking == "none":
        return
    try:
        with run.locked():  # two processes cannot write to a tracked run
            record = _record(run)
            if record.id is None:
                return
            tracker = Tracker(run, record, trains=False)
            tracker.log(run.history())
            tracker.summarize(dataset_scores(scores, split))
            tracker.close(None)
    except InputError as error:
        log.warning("the scores are not tracked: %s", error)


class Tracker:
    """The tracked run of a run directory. A service that fails is left alone after a warning: training goes on.

    Args:
        run: The run directory.
        record: Contents of its tracking.json.
        trains: Whether the run is being trained.

    Raises:
        InputError: The service cannot be used.
    """

    def __init__(self, run: Run, record: Record, trains: bool):
        self._run, self._record, self._sent = run, record, record.stored
        service = run.config.tracking
        with _explained(service, run if record.id else None):
            parameters = flattened(run.config.without_paths())
            self._tracked: TrackedRun | None = _service(service).open_run(run, record, parameters, trains)
        self._update(id=self._tracked.id)
        log.info("tracked by %s: %s", SERVICES[service], self._tracked.place)

    def log(self, rows: list[dict[str, float]]) -> None:
        """Send the epochs that have not been sent yet, or may have been lost when a process was killed.

        Args:
            rows: The saved rows of the history, from the first epoch on.
        """
        for row in rows[self._sent :]:
            values = {key: value for key, value in row.items() if key != "epoch" and math.isfinite(value)}
            epoch = int(row["epoch"])
            with self._warning() as tracked:
                if tracked is None:
                    return
                tracked.log(values, epoch)
                self._sent = epoch
                self._update(epochs=epoch, stored=epoch if tracked.stores_at_once else self._record.stored)

    def summarize(self, values: dict[str, float]) -> None:
        """Set values of the whole run."""
        with self._warning() as tracked:
            if tracked is not None:
                tracked.summarize(values)

    def close(self, outcome: Outcome | None) -> None:
        """Send what is left, and say how the training ended; ``None`` outside training."""
        with self._warning() as tracked:
            if tracked is not None:
                tracked.close(outcome)
                self._update(stored=self._sent, finished=self._record.finished or outcome == "finished")

    def _update(self, **changes) -> None:
        self._record = dataclasses.replace(self._record, **changes)
        _write(self._run, self._record)

    @contextlib.contextmanager
    def _warning(self) -> Iterator[TrackedRun | None]:
        try:
            yield self._tracked
        except Exception as error:  # of the service or of its network
            self._tracked = None
            log.warning(
                "%s fails and is left alone (%s); what is missing is sent when the run is resumed or evaluated",
                SERVICES[self._run.config.tracking],
                _cause(error),
            )


def dataset_scores(scores: dict, prefix: str) -> dict[str, float]:
    """Scores of all pixels of a data set, by names such as ``test/iou/pet``; undefined ones are left out."""
    found: dict[str, float] = {}
    for key, value in scores.items():
        name = f"{prefix}/{_UNUSUAL.sub('_', key)}"
        if isinstance(value, dict) and "dataset" not in value:
            found |= dataset_scores(value, name)
        elif isinstance(value, dict) and value["dataset"] is not None:
            found[name] = float(value["dataset"])
    return found


def _service(name: str) -> Service:
    return importlib.import_module(f"unet.tracking.{name}")


def _record(run: Run) -> Record:
    return records.read_json(run.tracking_file, Record) if run.tracking_file.exists() else Record()


def _write(run: Run, record: Record) -> None:
    write_json(run.tracking_file, dataclasses.asdict(record))


def _cause(error: Exception) -> str:
    """Message of a service's error on one line; it often ends with the remedy."""
    return " ".join(str(error).split())[:1000] or type(error).__name__


@contextlib.contextmanager
def _explained(service: str, continued: Run | None = None) -> Iterator[None]:
    """Report every error of a service as one message."""
    try:
        yield
    except ImportError as error:
        raise InputError(
            f"tracking: {service} needs {error.name or service}, which is not installed: pip install '.[{service}]'; "
            "or set tracking=none"
        ) from None
    except Exception as error:
        advice = f"; to track it as a new run, delete {continued.tracking_file}" if continued else ""
        raise InputError(f"tracking: {SERVICES[service]} cannot be used: {_cause(error)}{advice}") from error
