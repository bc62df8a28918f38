"""A run directory: everything a run is, and all that later steps need.

config.yaml       the resolved configuration
environment.json  versions, device and commit, one entry for each start
history.csv       one row an epoch
last.keras        the whole training state after the last checkpointed epoch
best.keras        the network with the best validation mean IoU, from pixels to logits
metrics.json      scores of every evaluated split
export/           the network in other formats, with their proofs
per_image_*.csv   scores of every image of such a split
counts_*.npz      confusion matrices of its images
figures/          pictures
tensorboard/      scalars and pictures for TensorBoard
log.txt           what the commands said
"""

import contextlib
import csv
import io
import json
import logging
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from unet import config as configuration
from unet.config import Config
from unet.errors import InputError, nearest
from unet.files import temporary_name, write_json, write_text

log = logging.getLogger("unet")


class Scores:
    """Where an evaluation writes what it finds."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.metrics_file = self.path / "metrics.json"
        self.figures = self.path / "figures"

    def counts_file(self, split: str) -> Path:
        """Confusion matrices of the images of an evaluated split."""
        return self.path / f"counts_{split}.npz"

    def metrics(self) -> dict:
        """Scores by evaluated split; empty before the first evaluation."""
        return json.loads(self.metrics_file.read_text(encoding="utf-8")) if self.metrics_file.is_file() else {}

    def write_metrics(self, split: str, scores: dict) -> None:
        """Add the scores of a split to metrics.json."""
        write_json(self.metrics_file, self.metrics() | {split: scores})


class Run(Scores):
    """Paths and records of one run directory."""

    def __init__(self, path: str | Path):
        super().__init__(path)
        self.config_file = self.path / "config.yaml"
        self.environment_file = self.path / "environment.json"
        self.history_file = self.path / "history.csv"
        self.last_file = self.path / "last.keras"
        self.best_file = self.path / "best.keras"
        self.tensorboard = self.path / "tensorboard"

    @classmethod
    def create(cls, config: Config, root: str | Path = "runs") -> "Run":
        """Make ``root/<name>`` for a configuration, or return it if it is already there for the same one.

        Raises:
            InputError: The directory belongs to a different configuration; the message lists the differences.
        """
        run = cls(Path(root) / config.name)
        # The run must be found again from any directory: its paths become absolute.
        paths = {key: getattr(config.data, key) for key in ("data_dir", "cache_dir")}
        absolute = {key: path.expanduser().absolute() for key, path in paths.items() if path is not None}
        config = config.model_copy(update={"data": config.data.model_copy(update=absolute)})
        if run.config_file.is_file():
            differences = _differences(run.config.model_dump(mode="json"), config.model_dump(mode="json"))
            if differences:
                raise InputError(
                    f"{run.path} already holds a run with another configuration:\n"
                    + "\n".join(f"  {key}: {old!r} there, {new!r} here" for key, old, new in differences)
                    + f"\nGo on with that run: train {run.path}. Or start this one under another name: name=..."
                )
        elif run.path.is_file() or (run.path.is_dir() and any(run.path.iterdir())):
            raise InputError(f"{run.path} exists but is not a run directory; choose another name: name=...")
        else:
            write_text(run.config_file, config.to_yaml())
        return run

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """The run directory at ``path``.

        Raises:
            InputError: There is none.
        """
        run = cls(path)
        if not run.config_file.is_file():
            here = sorted(str(p.parent) for p in Path("runs").glob("*/config.yaml"))
            raise InputError(
                f"{path} is not a run directory (it has no config.yaml){nearest(str(path), here)} "
                f"Runs here: {', '.join(here) or 'none'}"
            )
        return run

    @property
    def name(self) -> str:
        """Of the directory."""
        return self.path.absolute().name

    def trained_network(self) -> Path:
        """``best.keras``.

        Raises:
            InputError: There is none yet.
        """
        if not self.best_file.is_file():
            raise InputError(f"{self.path} has no best.keras yet; train it first: unet train {self.path}")
        return self.best_file

    @property
    def config(self) -> Config:
        """The configuration it was made with."""
        return configuration.load(self.config_file)

    def history(self) -> list[dict[str, float]]:
        """Rows of history.csv: ``epoch`` (from 1) and what was measured."""
        if not self.history_file.is_file():
            return []
        with open(self.history_file, newline="", encoding="utf-8") as file:
            return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]

    def write_history(self, rows: list[dict[str, float]]) -> None:
        """Write history.csv; floats keep every digit."""
        text = io.StringIO()
        if rows:
            titles = list(dict.fromkeys(title for row in rows for title in row))
            writer = csv.DictWriter(text, titles, restval="nan", lineterminator="\n")
            writer.writeheader()
            writer.writerows({k: int(v) if k == "epoch" else repr(float(v)) for k, v in row.items()} for row in rows)
        write_text(self.history_file, text.getvalue())

    def record_environment(self, jit: bool) -> None:
        """Add an entry for this start to environment.json; ``jit`` says whether the step is compiled."""
        starts = []
        if self.environment_file.is_file():
            starts = json.loads(self.environment_file.read_text(encoding="utf-8"))["starts"]
        start = environment() | {"jit": jit, "precision": self.config.training.precision}
        write_json(self.environment_file, {"starts": [*starts, start]})

    def logging(self):
        """Also write what the commands say to log.txt."""
        return logging_to(self.path / "log.txt")

    @contextlib.contextmanager
    def locked(self):
        """Keep a second process from training in the same directory.

        Raises:
            InputError: Another process is at it.
        """
        try:
            import fcntl
        except ImportError:  # Windows has no such locks
            yield
            return
        with open(self.path / ".lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"{self.path} is being trained by another process") from None
            # What an earlier process was writing when it was killed.
            for file in (self.environment_file, self.history_file, self.best_file, self.last_file):
                for leftover in self.path.glob(temporary_name(file, "*")):
                    leftover.unlink()
            yield


@contextlib.contextmanager
def logging_to(path: Path):
    """Also write what the commands say to the file at ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(handler)
        handler.close()


def environment() -> dict:
    """Versions, device and commit of this process."""
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
    """Commit of the code, with ``+`` where the work tree differs from it; ``None`` outside a git checkout."""
    here = Path(__file__).parent
    try:
        commit, changes = (
            subprocess.run(["git", *args], cwd=here, capture_output=True, text=True, check=True, timeout=10).stdout
            for args in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.strip() + ("+" if changes.strip() else "")


def _differences(old: dict, new: dict, prefix: str = "") -> list[tuple]:
    """Keys whose values differ, dotted, with both values."""
    found = []
    for key in dict.fromkeys([*old, *new]):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append((f"{prefix}{key}", a, b))
    return found
