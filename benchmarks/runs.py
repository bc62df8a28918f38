"""Runs of a measurement: every variant trained with several seeds and scored on the test images."""

import re
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

from unet import config
from unet.backend import use_backend
from unet.benchmark.measuring import markdown_table
from unet.files import write_json, write_text
from unet.runs import Run, environment


def measure(
    base: str, variants: dict[str, tuple[str, ...]], shared: Iterable[str], seeds: int, root: Path, native: bool
) -> dict[str, list[dict]]:
    """Train and score all runs. What an interrupted call has finished is not repeated.

    Args:
        base: Configuration of all runs.
        variants: ``KEY=VALUE`` of each variant, by name.
        shared: ``KEY=VALUE`` of all of them, which take precedence.
        seeds: Number of seeds; every variant has its first run before any has its second.
        root: Directory of the runs.
        native: Whether to score at the images' own sizes.

    Returns:
        Scores of the test images by variant, one for each seed, as :func:`unet.evaluation.evaluate` returns them.
    """
    use_backend()
    import keras

    from unet.evaluation import evaluate
    from unet.training import train

    split = "test_native" if native else "test"
    found: dict[str, list[dict]] = {name: [] for name in variants}
    for seed in range(seeds):
        for name, settings in variants.items():
            label = "name=" + re.sub(r"\W+", "_", f"{name} {seed}")
            run = Run.create(config.load(base, [*settings, *shared, f"seed={seed}", label]), root)
            if split not in run.metrics():
                keras.utils.clear_session()
                train(run)
                evaluate(run, native=native)
            found[name].append(run.metrics()[split])
    return found


def spread(values: Iterable[float]) -> str:
    """Mean of a score over seeds, and its lowest and highest value, as ``0.712 (0.705–0.719)``."""
    values = list(values)
    shown = f"{statistics.mean(values):.3f}"
    return shown if len(values) == 1 else f"{shown} ({min(values):.3f}–{max(values):.3f})"


def seeds_text(seeds: int) -> str:
    """What the figures of :func:`score_table` are."""
    return f"Mean over {seeds} seeds, with the lowest and the highest value." if seeds > 1 else "One seed."


def score_table(columns: dict[str, Callable[[dict], float]], scores: dict[str, list[dict]]) -> str:
    """A table in Markdown with a row for each variant.

    Args:
        columns: Score in each column, taken from the scores of a run.
        scores: Scores of the runs of each variant, by what stands in its row.
    """
    rows = [[name, *(spread(map(value, runs)) for value in columns.values())] for name, runs in scores.items()]
    return "\n".join(markdown_table(["training", *columns], rows, left=1))


def write_results(path: Path, found: dict, text: str) -> None:
    """Write the results of a finished measurement as ``path``.json and ``path``.md."""
    write_json(path.with_suffix(".json"), found | {"environment": environment()})
    write_text(path.with_suffix(".md"), text)
