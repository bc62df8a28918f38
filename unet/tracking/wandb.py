"""Runs in Weights & Biases. Its own environment variables, such as WANDB_MODE=offline and WANDB_PROJECT, apply."""

import os
import uuid
from typing import Any

import wandb

from unet.runs import Run
from unet.tracking import PROJECT, Outcome, Record

MAX_LABEL = 64
"""Most characters of a tag."""


class TrackedRun:
    """A run of a W&B project."""

    stores_at_once = False

    def __init__(self, tracked: wandb.Run):
        self.id, self._tracked = tracked.id, tracked
        self.place = os.path.dirname(tracked.dir) if tracked.offline else str(tracked.url)

    def log(self, values: dict[str, float], epoch: int) -> None:
        self._tracked.log(values, step=epoch)

    def summarize(self, values: dict[str, float]) -> None:
        self._tracked.summary.update(values)

    def close(self, outcome: Outcome | None) -> None:
        self._tracked.finish(exit_code=0 if outcome in ("finished", None) else 1)


def prepare() -> None:
    """Nothing: the package is installed, and W&B asks for its key when the run begins."""


def open_run(run: Run, record: Record, parameters: dict[str, Any], trains: bool) -> TrackedRun:
    """Begin a run, or continue one; see :class:`unet.tracking.Service`."""
    ablation, variant, seed = (record.labels.get(key, "") for key in ("ablation", "variant", "seed"))
    labels = [ablation, variant, f"seed {seed}"] if ablation else []
    tracked = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        name=run.name,
        id=record.id or uuid.uuid4().hex,
        resume="allow",
        group=ablation or None,
        job_type=variant[:MAX_LABEL] or None,
        tags=[text[:MAX_LABEL] for text in labels] or None,
        config=None if record.stored else parameters,
        dir=None if os.environ.get("WANDB_DIR") else str(run.path),
        reinit="create_new",  # a program that trains may have a run of its own
        settings=wandb.Settings(console="off", silent=True),
    )
    return TrackedRun(tracked)
