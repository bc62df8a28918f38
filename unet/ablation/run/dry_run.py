"""What a grid would train, what that costs, and how long it would take."""

import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

from unet import cost, data
from unet.ablation.plan.grid import Cell, Grid
from unet.ablation.run import measurements
from unet.ablation.run.cells import check_weights, prepare_data
from unet.ablation.run.finished import is_finished
from unet.config import Config
from unet.model import from_config
from unet.runs import Run
from unet.tables import rows_table

STARTING_SECONDS = 15.0
"""What a cell takes in addition to training and test: loading libraries, measuring checkerboards, writing."""


@dataclass(frozen=True)
class Cost:
    """What a variant costs for one image."""

    parameters: int
    multiply_adds: int
    surplus: tuple[int, int]
    """Parameters and multiply-adds beyond the projection that all upsamplers share."""


def show(grid: Grid, root: Path, environment: dict[str, str], workers: int, time_each: bool = False) -> None:
    """Print every variant with its costs and state, and an estimate of the remaining time.

    Args:
        grid: The cells.
        root: Directory of the grid's run directories.
        environment: Environment of the process that times training steps.
        workers: Number of cells that will run at the same time.
        time_each: See :func:`seconds_left`.
    """
    costs = variant_costs(grid)
    left = seconds_left(grid, root, environment, costs, time_each)
    rows = []
    for variant in grid.variants:
        cells = [cell for cell in grid.cells if cell.variant == variant]
        states = [_state(cell, root) for cell in cells]
        of_variant = costs[variant]
        rows.append(
            [
                variant + (" (baseline)" if variant == grid.baseline else ""),
                ", ".join(f"{n} {state}" for state in ("finished", "started", "new") if (n := states.count(state))),
                f"{of_variant.parameters:,}",
                f"+{of_variant.surplus[0]:,}",
                f"{of_variant.multiply_adds / 1e6:,.1f} M",
                f"+{of_variant.surplus[1] / 1e6:,.1f} M",
                _duration(sum(left[cell.config.name] for cell in cells)),
            ]
        )
    seeds = ", ".join(map(str, grid.seeds))
    titles = ["variant", "cells", "parameters", "surplus", "multiply-adds", "surplus", "time left"]
    rows_table(titles, rows, f"{grid.name}: {len(grid.cells)} cells, seeds {seeds}")
    print("surplus: cost of the upsamplers beyond the 2×2 projection that all of them share")
    whole = _duration(sum(left.values()) / workers)
    print(f"time left: about {whole}" + (f" with {workers} workers, if none slows another" if workers > 1 else ""))
    if any(left.values()) and not time_each:
        print("time of a variant without a finished cell: one variant's, scaled by multiply-adds; --measure times each")


def seconds_left(
    grid: Grid, root: Path, environment: dict[str, str], costs: dict[str, Cost], time_each: bool = False
) -> dict[str, float]:
    """Estimate the remaining seconds of each run.

    The seconds of a training step are those of the variant's finished cells. For other variants, those of one variant
    are scaled by multiply-adds: of one with a finished cell, else of the baseline, which is timed.

    Args:
        grid: The cells.
        root: Directory of the grid's run directories.
        environment: Environment of the process that times training steps.
        costs: Cost of each variant.
        time_each: Time every variant without a finished cell instead of scaling, which takes much longer.
    """
    if all(_state(cell, root) == "finished" for cell in grid.cells):
        return {cell.config.name: 0.0 for cell in grid.cells}
    check_weights(grid, root)  # before steps are timed, so that what is missing is reported at once
    prepare_data(grid)
    first = {cell.variant: cell.config for cell in reversed(grid.cells)}
    per_step: dict[str, float] = {}
    for cell in grid.cells:
        if cell.variant not in per_step and _state(cell, root) == "finished":
            metrics = Run(root / cell.config.name).metrics()
            per_step[cell.variant] = cell.config.training.images_per_step / metrics["cost"]["images_per_second"]
    if time_each:
        per_step |= _timed([variant for variant in grid.variants if variant not in per_step], first, environment)
    elif not per_step:
        per_step |= _timed([grid.baseline], first, environment)
    reference = grid.baseline if grid.baseline in per_step else next(iter(per_step))
    work = {
        variant: costs[variant].multiply_adds * first[variant].training.images_per_step for variant in grid.variants
    }
    for variant in grid.variants:
        per_step.setdefault(variant, per_step[reference] * work[variant] / work[reference])
    return {cell.config.name: _left(cell, root, per_step[cell.variant]) for cell in grid.cells}


def variant_costs(grid: Grid) -> dict[str, Cost]:
    """Cost of each variant, from its network."""
    costs = {}
    for variant, config in {cell.variant: cell.config for cell in reversed(grid.cells)}.items():
        network = from_config(config, len(data.recorded_class_names(config.data)), fixed_size=True)
        total = cost.total(cost.stages(network))
        costs[variant] = Cost(total.parameters, total.multiply_adds, cost.surplus(network))
    return costs


def _timed(variants: list[str], configs: dict[str, Config], environment: dict[str, str]) -> dict[str, float]:
    """Seconds of a training step of each variant, measured in a process of its own."""
    if not variants:
        return {}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        runs = {variant: Run.create(configs[variant], scratch) for variant in variants}
        measurements.in_process(["steps"], runs, scratch, environment)
        return json.loads((scratch / measurements.FILES["steps"]).read_text(encoding="utf-8"))["variants"]


def _left(cell: Cell, root: Path, per_step: float) -> float:
    if _state(cell, root) == "finished":
        return 0.0
    training, dataset = cell.config.training, data.prepare(cell.config.data)
    steps = dataset.train.samples // training.images_per_step
    validation, test = (
        math.ceil(split.samples / training.images_per_step) for split in (dataset.validation, dataset.test)
    )
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
