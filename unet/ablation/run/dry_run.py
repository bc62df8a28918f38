"""What a grid would train, what that costs, and how long it would take."""

import json
import math
import tempfile
from pathlib import Path

from unet import cost, data
from unet.ablation.plan.grid import Cell, Grid
from unet.ablation.run import measurements
from unet.ablation.run.cells import prepare_data
from unet.ablation.run.finished import is_finished
from unet.model import from_config
from unet.runs import Run
from unet.tables import rows_table

STARTING_SECONDS = 15.0
"""What a cell takes in addition to training and test: loading libraries, measuring checkerboards, writing."""


def show(grid: Grid, root: Path, environment: dict[str, str], workers: int) -> None:
    """Print every variant with its costs and state, and an estimate of the remaining time.

    Args:
        grid: The cells.
        root: Directory of the grid's run directories.
        environment: Environment of the process that times a few steps of the variants without a finished cell.
        workers: Number of cells that will run at the same time.
    """
    left = seconds_left(grid, root, environment)
    rows = []
    for variant in grid.variants:
        cells = [cell for cell in grid.cells if cell.variant == variant]
        config = cells[0].config
        network = from_config(config, len(data.recorded_class_names(config.data)), fixed_size=True)
        total, surplus = cost.total(cost.stages(network)), cost.surplus(network)
        states = [_state(cell, root) for cell in cells]
        rows.append(
            [
                variant + (" (baseline)" if variant == grid.baseline else ""),
                ", ".join(f"{n} {state}" for state in ("finished", "started", "new") if (n := states.count(state))),
                f"{total.parameters:,}",
                f"+{surplus[0]:,}",
                f"{total.multiply_adds / 1e6:,.1f} M",
                f"+{surplus[1] / 1e6:,.1f} M",
                _duration(sum(left[cell.config.name] for cell in cells)),
            ]
        )
    seeds = ", ".join(map(str, grid.seeds))
    titles = ["variant", "cells", "parameters", "surplus", "multiply-adds", "surplus", "time left"]
    rows_table(titles, rows, f"{grid.name}: {len(grid.cells)} cells, seeds {seeds}")
    print("surplus: cost of the upsamplers beyond the 2×2 projection that all of them share")
    whole = _duration(sum(left.values()) / workers)
    print(f"time left: about {whole}" + (f" with {workers} workers, if none slows another" if workers > 1 else ""))


def seconds_left(grid: Grid, root: Path, environment: dict[str, str]) -> dict[str, float]:
    """Estimate the remaining seconds of each run from finished cells of its variant, or from a few timed steps."""
    per_step: dict[str, float] = {}
    if any(_state(cell, root) != "finished" for cell in grid.cells):
        prepare_data(grid)  # before steps are timed, so that missing data are reported at once
    for cell in grid.cells:
        run = Run(root / cell.config.name)
        if cell.variant not in per_step and _state(cell, root) == "finished":
            per_step[cell.variant] = cell.config.training.batch_size / run.metrics()["cost"]["images_per_second"]
    unknown = {cell.variant: cell for cell in reversed(grid.cells) if cell.variant not in per_step}
    if unknown:
        with tempfile.TemporaryDirectory() as name:
            scratch = Path(name)
            runs = {variant: Run.create(cell.config, scratch) for variant, cell in unknown.items()}
            measurements.in_process(["steps"], runs, scratch, environment)
            per_step |= json.loads((scratch / measurements.FILES["steps"]).read_text(encoding="utf-8"))["variants"]
    return {cell.config.name: _left(cell, root, per_step[cell.variant]) for cell in grid.cells}


def _left(cell: Cell, root: Path, per_step: float) -> float:
    if _state(cell, root) == "finished":
        return 0.0
    training, dataset = cell.config.training, data.prepare(cell.config.data)
    steps = len(dataset.train) // training.batch_size
    validation, test = (math.ceil(len(split) / training.batch_size) for split in (dataset.validation, dataset.test))
    epochs = training.epochs - len(Run(root / cell.config.name).history())
    forward = per_step / 3  # the backward pass takes about twice as long as the forward pass
    return STARTING_SECONDS + epochs * (steps * per_step + validation * forward) + test * forward


def _state(cell: Cell, root: Path) -> str:
    run = Run(root / cell.config.name)
    if run.config_file.is_file() and is_finished(run):
        return "finished"
    return "started" if run.history() else "new"


def _duration(seconds: float) -> str:
    """``2 h 05 min``, ``3 min``, ``40 s``, ``–``."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds else "–"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 100 else f"{minutes} min"
