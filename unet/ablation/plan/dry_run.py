"""What a grid would train, what that costs, and how long it would take."""

import logging
import math
import tempfile
from pathlib import Path

from unet import cost, data
from unet.ablation.plan.grid import Cell, Grid
from unet.ablation.run import cell, execution
from unet.model import from_config
from unet.runs import Run
from unet.tables import rows_table

log = logging.getLogger("unet")

STARTING_SECONDS = 15.0
"""What a cell takes beside training and test: loading libraries, the checkerboard measure, writing."""


def show(grid: Grid, root: Path, environment: dict[str, str], workers: int) -> None:
    """Print every variant with its costs and state, and an estimate of the time that is left.

    Args:
        grid: The cells.
        root: Directory of the grid's run directories.
        environment: For the process that times a few steps of variants of which no cell is finished.
        workers: How many cells at once.
    """
    left = seconds_left(grid, root, environment)
    rows = []
    for variant in grid.variants:
        cells = [one for one in grid.cells if one.variant == variant]
        config = cells[0].config
        network = from_config(config, len(data.class_names(config.data)), fixed_size=True)
        total, surplus = cost.total(cost.stages(network)), cost.surplus(network)
        states = [_state(one, root) for one in cells]
        rows.append(
            [
                variant + (" (baseline)" if variant == grid.baseline else ""),
                ", ".join(f"{n} {state}" for state in ("finished", "begun", "new") if (n := states.count(state))),
                f"{total.parameters:,}",
                f"+{surplus[0]:,}",
                f"{total.multiply_adds / 1e6:,.1f} M",
                f"+{surplus[1] / 1e6:,.1f} M",
                _duration(sum(left[one.config.name] for one in cells)),
            ]
        )
    seeds = ", ".join(map(str, grid.seeds))
    titles = ["variant", "cells", "parameters", "of them surplus", "multiply-adds", "of them surplus", "time left"]
    rows_table(titles, rows, f"{grid.name}: {len(grid.cells)} cells, seeds {seeds}")
    print("surplus: what the upsamplers take beyond the 2×2 projection that all of them share")
    whole = sum(left.values()) / workers
    print(
        f"time left: about {_duration(whole)}" + (f" with {workers} workers, if each is as fast" if workers > 1 else "")
    )


def seconds_left(grid: Grid, root: Path, environment: dict[str, str]) -> dict[str, float]:
    """Seconds of work left by run name, from finished cells of the same variant or else from a few timed steps."""
    per_step: dict[str, float] = {}
    for one in grid.cells:
        run = Run(root / one.config.name)
        if one.variant not in per_step and run.config_file.is_file() and cell.is_finished(run):
            per_step[one.variant] = one.config.training.batch_size / run.metrics()["cost"]["images_per_second"]
    unknown = {one.variant: one for one in reversed(grid.cells) if one.variant not in per_step}
    if unknown:
        with tempfile.TemporaryDirectory() as scratch:
            runs = {variant: Run.create(one.config, scratch) for variant, one in unknown.items()}
            timed = execution.measure("steps", runs, Path(scratch) / "steps.json", environment)
        per_step |= timed["variants"]
    return {one.config.name: _left(one, root, per_step[one.variant]) for one in grid.cells}


def _left(one: Cell, root: Path, per_step: float) -> float:
    run = Run(root / one.config.name)
    if run.config_file.is_file() and cell.is_finished(run):
        return 0.0
    training, dataset = one.config.training, data.prepare(one.config.data)
    steps = len(dataset.train) // training.batch_size
    validation, test = (math.ceil(len(split) / training.batch_size) for split in (dataset.validation, dataset.test))
    epochs = training.epochs - len(run.history())
    forward = per_step / 3  # the backward pass takes about twice the forward pass
    return STARTING_SECONDS + epochs * (steps * per_step + validation * forward) + test * forward


def _state(one: Cell, root: Path) -> str:
    run = Run(root / one.config.name)
    if run.config_file.is_file() and cell.is_finished(run):
        return "finished"
    return "begun" if run.history() else "new"


def _duration(seconds: float) -> str:
    """``2 h 05 min``, ``3 min``, ``40 s``, ``–``."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds else "–"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 100 else f"{minutes} min"
