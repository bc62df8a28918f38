"""A run directory: everything a run consists of, and all that later steps need except pixels.

config.yaml       the resolved configuration
run.json          format version, classes, colours, fingerprint of the training data: see :class:`RunInfo`
data.csv          digest of every image the run was trained on
environment.json  versions, device and commit, one entry per start
history.csv       one row per epoch
last.keras        the whole training state after the last checkpointed epoch
best.keras        the network with the best validation mean IoU, from pixels to logits
metrics.json      scores of every evaluated split
export/           the network in other formats, with their proofs
per_image_*.csv   scores of every image of an evaluated split
counts_*.npz      confusion matrices of its images
figures/          figures drawn by evaluations
tensorboard/      scalars and pictures for TensorBoard
tracking.json     which run of MLflow or Weights & Biases follows this one: see :mod:`unet.tracking`
log.txt           messages of the commands
"""

import contextlib
import csv
import dataclasses
import io
import logging
import os
import platform
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, NotRequired

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from typing_extensions import TypedDict

from unet import colours, data, records
from unet import config as configuration
from unet.config import Config
from unet.console import EscapedFormatter
from unet.data import fingerprint
from unet.errors import InputError, nearest
from unet.files import expanded, locked, remove_unfinished, temporary_folder, write_json, write_text

log = logging.getLogger("unet")

FORMAT = 1
"""Version of the run directory's format, written to run.json."""


class Start(TypedDict):
    """Entry of environment.json: what a start of the training ran on; other keys are kept as they are."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    time: str
    backend: str
    device: str
    versions: dict[str, str]
    commit: str | None
    jit: NotRequired[bool]


@dataclass(frozen=True, config=ConfigDict(strict=True))
class RunInfo:
    """Facts about a run's network and data that later steps need when the training data are gone.

    Written to run.json when the run is created; ``data`` is added by ``train`` before the first step.
    """

    version: int
    """Format version of the run directory; 0 for a run of an earlier version of this package, without run.json."""
    classes: tuple[records.Label, ...]
    """Class names, in the order of the output channels."""
    colours: tuple[colours.Colour, ...]
    """Colour of each class in pictures, ``#RRGGBB``."""
    ignore: int
    """Class id of pixels that count in neither training nor evaluation."""
    channels: int
    """Channels of an input image."""
    data_licence: records.Label | None
    """Licence of the training images, if known."""
    data: dict[str, dict[str, int | str]] | None = None
    """Number of images and digests of their names and content, by split; ``None`` before training."""
    class_weights: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] | None = None
    """Weight of each class in the loss, if they are computed from the training data (``loss.class_weights: auto``)."""

    def __post_init__(self):
        if not 1 <= len(self.classes) == len(self.colours) <= 255:
            raise ValueError(f"{len(self.classes)} classes and {len(self.colours)} colours")
        if self.class_weights is not None and len(self.class_weights) != len(self.classes):
            raise ValueError(f"{len(self.classes)} classes and {len(self.class_weights)} class weights")
        if self.data is not None and set(self.data) != set(fingerprint.SPLITS):
            raise ValueError(f"data: should have the splits {', '.join(fingerprint.SPLITS)}")
        if not all(isinstance(split.get("images"), int) for split in (self.data or {}).values()):
            raise ValueError("data: should have the number of images of every split")

    @classmethod
    def of(cls, config: Config, version: int = FORMAT) -> "RunInfo":
        """Derive the facts from a configuration, without opening its data."""
        classes = data.recorded_class_names(config.data)
        return cls(
            version=version,
            classes=classes,
            colours=colours.chosen_colours(classes, config.data.colors or {}),
            ignore=data.IGNORE,
            channels=config.data.channels,
            data_licence=data.LICENCES.get(config.data.source),
        )


class Average(TypedDict):
    """A score in metrics.json: that of all pixels of a split together; ``None`` where it is undefined."""

    dataset: float | None


class Scores:
    """Directory that an evaluation writes its scores and figures to."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.metrics_file = self.path / "metrics.json"
        self.figures = self.path / "figures"

    def counts_file(self, split: str) -> Path:
        """Path of the confusion matrices of an evaluated split's images."""
        return self.path / f"counts_{split}.npz"

    def prepare(self) -> None:
        """Make the directory, check that it can be written to, and delete what a killed process has left there.

        Raises:
            RunError: It cannot be written to.
        """
        with temporary_folder(self.path):
            pass
        for folder in (self.path, self.figures):
            remove_unfinished(folder)

    def metrics(self) -> dict:
        """Scores by evaluated split; empty before the first evaluation.

        Raises:
            InputError: metrics.json is damaged.
        """
        return records.read_json(self.metrics_file, dict[str, dict[str, Any]]) if self.metrics_file.exists() else {}

    def counts(self, split: str) -> tuple[list[str], np.ndarray]:
        """Names of an evaluated split's images, and their confusion matrices ``(N, C, C)``, of labels ``(N, L, 2, 2)``.

        Raises:
            InputError: The file is damaged.
        """
        path = self.counts_file(split)
        arrays = records.arrays_of(path)
        names, confusion = arrays.get("names"), arrays.get("confusion")
        if (
            names is None
            or confusion is None
            or (names.ndim, names.dtype.kind, confusion.dtype.kind) != (1, "U", "i")
            or confusion.shape
            not in ((len(names), *confusion.shape[-1:] * 2), (len(names), *confusion.shape[1:2], 2, 2))
            or confusion.min(initial=0) < 0
        ):
            raise InputError(f"{path}: does not hold names and confusion matrices; evaluate the network again")
        return names.tolist(), confusion

    def write_metrics(self, split: str, scores: dict) -> None:
        """Add the scores of a split to metrics.json.

        The lock is not the one that training holds, so that a run can be evaluated while it is trained, and two
        evaluations at once both find their scores in the file.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.path / ".metrics.lock"):
            write_json(self.metrics_file, self.metrics() | {split: scores})


class Run(Scores):
    """Paths and records of one run directory."""

    def __init__(self, path: str | Path):
        super().__init__(path)
        self.config_file = self.path / "config.yaml"
        self.info_file = self.path / "run.json"
        self.data_file = self.path / "data.csv"
        self.environment_file = self.path / "environment.json"
        self.history_file = self.path / "history.csv"
        self.last_file = self.path / "last.keras"
        self.best_file = self.path / "best.keras"
        self.tensorboard = self.path / "tensorboard"
        self.tracking_file = self.path / "tracking.json"

    @classmethod
    def create(cls, config: Config, root: str | Path = "runs") -> "Run":
        """Make ``root/<name>`` for a configuration, or return it if it already exists for the same one.

        The data are not opened: ``train`` completes run.json with their fingerprint before the first step. A run that
        has not come that far, because its data were not found, for example, takes the new configuration.

        Raises:
            InputError: The directory belongs to a different configuration that has been trained, or is being trained;
                the message lists the differences.
        """
        run = cls(Path(root) / config.name)
        remove_unfinished(run.path)  # of a process that was killed while it made the directory
        config = _with_absolute_paths(config)
        if run.config_file.is_file():
            there = run.config
            if config.training.batch_size == "auto":  # has been found for this run
                config = config.with_training(batch_size=there.training.batch_size)
            if config.data.normalization == "auto":  # likewise
                config = config.with_data(normalization=there.data.normalization)
            differences = _differences(there.model_dump(mode="json"), config.model_dump(mode="json"))
            if differences and not run.has_begun:
                with run.locked():
                    run.info_file.unlink(missing_ok=True)  # describes the former configuration
                    run._write(config)
            elif differences:
                raise InputError(
                    f"{run.path} already holds a run with another configuration:\n"
                    + "\n".join(f"  {key}: {old!r} there, {new!r} here" for key, old, new in differences)
                    + f"\nTo resume that run: unet train {run.path}. To start this one under another name: name=..."
                )
        elif run.path.is_file() or (run.path.is_dir() and any(run.path.iterdir())):
            raise InputError(f"{run.path} exists but is not a run directory; choose another name: name=...")
        else:
            run._write(config)
        return run

    def _write(self, config: Config) -> None:
        write_text(self.config_file, config.to_yaml())
        write_json(self.info_file, dataclasses.asdict(RunInfo.of(config)))

    @property
    def has_begun(self) -> bool:
        """Whether training has come to its first step."""
        return self.info.data is not None or self.last_file.exists() or self.history_file.exists()

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """Open the run directory at ``path``.

        Raises:
            InputError: There is none.
        """
        run = cls(path)
        if not run.config_file.is_file():
            here = sorted(str(p.parent) for p in Path("runs").glob("*/config.yaml"))
            raise InputError(
                f"{path} is not a run directory: it has no config.yaml{nearest(str(path), here)} "
                f"(runs here: {', '.join(here) or 'none'})"
            )
        return run

    @property
    def name(self) -> str:
        """Name of the directory."""
        return self.path.absolute().name

    def trained_network(self) -> Path:
        """Path of ``best.keras``.

        Raises:
            InputError: The run has not been trained yet.
        """
        if not self.best_file.is_file():
            raise InputError(f"{self.path} has no best.keras yet; train it first: unet train {self.path}")
        return self.best_file

    @property
    def config(self) -> Config:
        """The configuration the run was created with; its data may have been moved since (:meth:`record_config`).

        Raises:
            InputError: config.yaml is damaged.
        """
        if self.config_file.is_file() and not self.config_file.stat().st_size:  # would be the default configuration
            raise InputError(f"{self.config_file}: is empty; restore it from a copy")
        return configuration.load(self.config_file)

    @property
    def info(self) -> RunInfo:
        """Classes, colours and the other facts in run.json; derived from the configuration for runs without one.

        Raises:
            InputError: run.json is damaged, or was written by a later version of this package.
        """
        if not self.info_file.exists():
            return RunInfo.of(self.config, version=0)
        version = records.read_json(self.info_file, dict[str, Any]).get("version")
        if isinstance(version, int) and version > FORMAT:
            raise InputError(
                f"{self.info_file}: format version {version} is newer than this package reads ({FORMAT}); "
                "upgrade it: pip install --upgrade unet-upsamplers"
            )
        return records.read_json(self.info_file, RunInfo)

    def record_data(self, dataset: data.Dataset, class_weights: list[float] | None = None) -> None:
        """Add what depends on the training data to run.json, and the digest of every image to data.csv."""
        listing = fingerprint.listing_of(dataset)
        write_text(self.data_file, fingerprint.to_csv(listing))
        weights = None if class_weights is None else tuple(class_weights)
        known = dataclasses.replace(self.info, version=FORMAT, data=fingerprint.of(listing), class_weights=weights)
        write_json(self.info_file, dataclasses.asdict(known))

    def data_changes(self, dataset: data.Dataset) -> list[str]:
        """Differences between recorded and present data, one line per changed split; empty if nothing is recorded."""
        before = self.info.data
        if before is None:
            return []
        try:
            old = fingerprint.from_csv(records.text_of(self.data_file)) if self.data_file.exists() else None
        except (KeyError, csv.Error):
            raise InputError(f"{self.data_file}: is damaged; restore it from a copy, or delete it") from None
        return fingerprint.changes(before, old, fingerprint.listing_of(dataset))

    def record_config(self, config: Config) -> None:
        """Record in config.yaml what has been decided since: where the data are now, or the batch size."""
        write_text(self.config_file, _with_absolute_paths(config).to_yaml())

    def history(self) -> list[dict[str, float]]:
        """Rows of history.csv: ``epoch`` (from 1) and the values measured in it.

        Raises:
            InputError: The file is damaged.
        """
        if not self.history_file.exists():
            return []
        try:
            reader = csv.DictReader(io.StringIO(records.text_of(self.history_file), newline=""))
            rows = [{key: float(value) for key, value in row.items()} for row in reader]
            if [row["epoch"] for row in rows] != list(range(1, len(rows) + 1)):
                raise ValueError("its epochs are not 1, 2, 3 and so on")
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise InputError(
                f"{self.history_file}: is damaged ({records.cause(error)}); restore it from a copy"
            ) from None
        return rows

    def write_history(self, rows: list[dict[str, float]]) -> None:
        """Write history.csv; floats keep every digit."""
        text = io.StringIO()
        if rows:
            titles = list(dict.fromkeys(title for row in rows for title in row))
            writer = csv.DictWriter(text, titles, restval="nan", lineterminator="\n")
            writer.writeheader()
            writer.writerows({k: int(v) if k == "epoch" else repr(float(v)) for k, v in row.items()} for row in rows)
        write_text(self.history_file, text.getvalue())

    def starts(self) -> list[Start]:
        """Entries of environment.json, one per start.

        Raises:
            InputError: The file is missing or damaged.
        """
        starts = records.read_json(self.environment_file, dict[str, list[Start]]).get("starts")
        if not starts:
            raise InputError(f"{self.environment_file}: has no entry; restore it from a copy, or delete it")
        return starts

    def record_environment(self, jit: bool) -> None:
        """Add an entry for this start to environment.json; ``jit`` says whether the step is compiled."""
        before = self.starts() if self.environment_file.exists() else []
        start = environment() | {"jit": jit, "precision": self.config.training.precision}
        write_json(self.environment_file, {"starts": [*before, start]})

    def logging(self) -> contextlib.AbstractContextManager[None]:
        """Also write messages to log.txt."""
        return logging_to(self.path / "log.txt")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second process from training in the same directory.

        Raises:
            InputError: Another process is training in it.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(self.path / ".lock", wait=False))
            except BlockingIOError:
                raise InputError(
                    f"{self.path} is being trained by another process; wait until it ends, or stop it"
                ) from None
            remove_unfinished(self.path)
            yield


@contextlib.contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Also write messages to the file at ``path``, if it can be written; the terminal shows them in any case."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _LogFile(path, encoding="utf-8")
    except OSError:
        yield
        return
    handler.setFormatter(EscapedFormatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(handler)
        with contextlib.suppress(OSError):  # the disk is still full
            handler.close()


class _LogFile(logging.FileHandler):
    """A log file that drops messages while the disk is full."""

    def handleError(self, record):
        pass


def environment() -> dict:
    """Collect versions, device and commit of this process."""
    import keras

    from unet import backend

    packages = ("keras", "tensorflow", "tensorflow-cpu", "jax", "torch", "numpy", "unet-upsamplers")
    versions = {}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "backend": keras.backend.backend(),
        "device": backend.device_name(),
        "cpu_count": os.cpu_count(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "commit": _commit(),
    }


def _commit() -> str | None:
    """Commit of the code, with ``+`` if the work tree differs from it; ``None`` outside a git checkout."""
    here = Path(__file__).parent
    try:
        commit, changes = (
            subprocess.run(["git", *args], cwd=here, capture_output=True, text=True, check=True, timeout=10).stdout
            for args in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.strip() + ("+" if changes.strip() else "")


def _with_absolute_paths(config: Config) -> Config:
    """Make the paths of data and initial weights absolute, so that the run finds them from any directory."""
    paths = {key: getattr(config.data, key) for key in ("data_dir", "cache_dir")}
    config = config.with_data(**{key: _absolute(path) for key, path in paths.items() if path is not None})
    if config.init_from is not None:
        config = config.model_copy(update={"init_from": _absolute(config.init_from)})
    weights = config.model.weights_file
    return config if weights is None else config.with_model(weights=str(_absolute(weights)))


def _absolute(path: Path) -> Path:
    return expanded(path).absolute()


def _differences(old: dict, new: dict, prefix: str = "") -> list[tuple]:
    """List the dotted keys whose values differ, with both values."""
    found = []
    for key in dict.fromkeys([*old, *new]):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append((f"{prefix}{key}", a, b))
    return found
