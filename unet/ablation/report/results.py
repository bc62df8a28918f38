"""What finished runs hold, side by side: scores, costs, learning curves and the statistics over them."""

import csv
import io
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unet.ablation.plan import grid
from unet.ablation.report import statistics
from unet.ablation.run import cell
from unet.errors import InputError, nearest
from unet.files import write_json
from unet.runs import Run

log = logging.getLogger("unet")


@dataclass(frozen=True)
class Variant:
    """One variant: means over its seeds, and how it compares."""

    name: str
    mean_iou: float
    """Of the data set, 0 to 1, like all scores here."""
    low: float | None
    """Interval of ``mean_iou`` over seeds; ``None`` with one seed."""
    high: float | None
    rank: int
    rank_low: int
    rank_high: int
    difference: float | None
    """To the baseline, with interval and Holm's p value; ``None`` for the baseline itself."""
    difference_low: float | None
    difference_high: float | None
    p_holm: float | None
    iou: dict[str, float]
    pet_iou: dict[str, float]
    mean_boundary_iou: float
    band_accuracy: dict[str, float]
    """By half-width of the band in pixels."""
    pixel_accuracy: float
    checkerboard_initial: float
    checkerboard_trained: float
    parameters: int
    multiply_adds: int
    surplus_parameters: int
    surplus_multiply_adds: int
    images_per_second: float
    peak_memory_mib: float
    file_mib: float
    latency: dict[str, dict[str, float]]
    """By batch size: ``median_ms``, ``p95_ms`` and ``rounds``; empty where it was not measured."""
    learning: list[list[float]] = field(repr=False)
    """Validation mean IoU by seed and epoch."""


@dataclass(frozen=True)
class Summary:
    """An ablation's results: all that its report says but the pictures of test images."""

    title: str
    baseline: str
    seeds: tuple[int, ...]
    """Those that every variant has, by which it is compared."""
    images: int
    """Test images."""
    variants: tuple[Variant, ...]
    verdict: str
    tied: tuple[str, ...]
    """The best and what is statistically tied with it, by falling mean."""
    cheapest: str
    """Of the tied, by ``cost_name``."""
    cost_name: str
    detectable: float
    detectable_holm: float
    warnings: tuple[str, ...]
    made: dict[str, Any]
    """How the runs were made: ``devices``, ``versions``, ``commits``, ``latency_device``, ``config`` (YAML)."""

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> "Summary":
        """Read what :meth:`save` wrote."""
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        lists = {key: tuple(values[key]) for key in ("seeds", "tied", "warnings")}
        return cls(**(values | lists | {"variants": tuple(Variant(**variant) for variant in values["variants"])}))

    def best_first(self) -> list[Variant]:
        """The variants by falling mean IoU."""
        return sorted(self.variants, key=lambda variant: -variant.mean_iou)

    def variant(self, name: str) -> Variant:
        """The variant of that name."""
        return next(variant for variant in self.variants if variant.name == name)


@dataclass(frozen=True)
class Table:
    """Finished runs by variant and seed."""

    runs: dict[tuple[str, int], Run]
    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    """Those that every variant has."""

    @property
    def shown(self) -> dict[str, Run]:
        """One run of each variant, of the first common seed."""
        return {variant: self.runs[variant, self.seeds[0]] for variant in self.variants}


def arrange(runs: list[Run]) -> Table:
    """Order finished runs by what distinguishes their configurations, and by seed.

    Raises:
        InputError: They cannot be compared; the message says why and what to do.
    """
    configs = [run.config for run in runs]
    labels = grid.label(configs)
    table: dict[tuple[str, int], Run] = {}
    for run, config, variant in zip(runs, configs, labels, strict=True):
        if not cell.is_finished(run):
            raise InputError(
                f"{run.path} is not finished; bring it to its end: python -m unet.ablation.run.cell {run.path}"
            )
        if other := table.get((variant, config.seed)):
            raise InputError(f"{other.path} and {run.path} have the same configuration and seed {config.seed}")
        table[variant, config.seed] = run
    variants = tuple(dict.fromkeys(labels))
    if len(variants) < 2:
        raise InputError(
            f"nothing to compare: the {len(runs)} finished runs differ in nothing but their seed; "
            "give runs of at least two variants"
        )
    seeds = [config.seed for config in configs]
    common = [seed for seed in dict.fromkeys(seeds) if all((variant, seed) in table for variant in variants)]
    if not common:
        have = "; ".join(f"{v}: {', '.join(str(s) for w, s in table if w == v)}" for v in variants)
        raise InputError(f"no seed is finished for every variant, and runs are compared seed by seed (seeds: {have})")
    return Table(table, variants, tuple(common))


def summarise(table: Table, title: str, baseline: str, latency: dict, failures: dict[str, str]) -> Summary:
    """Compare what the runs' metrics, counts and histories say.

    Args:
        table: The runs.
        title: Of the report.
        baseline: Name of a variant.
        latency: From :func:`unet.ablation.run.timing.latency`; empty: not measured.
        failures: Reasons by run that failed, to be told.

    Raises:
        InputError: The baseline is unknown, or the runs were not tested on the same images and classes.
    """
    if baseline not in table.variants:
        choices = list(table.variants)
        raise InputError(f"baseline: {baseline!r} is not one of {', '.join(choices)}{nearest(baseline, choices)}")
    confusion = _confusion(table)
    analysis = statistics.analyse(confusion, table.variants, baseline)
    timed = latency.get("variants", {})
    variants = tuple(_variant(table, score.name, analysis, timed.get(score.name, {})) for score in analysis.variants)
    if timed:
        cost, cost_name = {v.name: v.latency["1"]["median_ms"] for v in variants}, "ms for one image"
    else:
        cost, cost_name = {v.name: v.multiply_adds / 1e6 for v in variants}, "million multiply-adds"
    return Summary(
        title=title,
        baseline=baseline,
        seeds=table.seeds,
        images=analysis.images,
        variants=variants,
        verdict=statistics.verdict(analysis, cost, cost_name),
        tied=analysis.tied,
        cheapest=min(analysis.tied, key=lambda name: cost[name]),
        cost_name=cost_name,
        detectable=analysis.detectable,
        detectable_holm=analysis.detectable_holm,
        warnings=tuple(_warnings(table, analysis, failures)),
        made=_made(table, latency),
    )


def pareto_front(variants: Sequence[Variant], costs: Sequence[float]) -> list[int]:
    """Indices of the variants than which no other is at least as good and as cheap, and one of both more so."""

    def beaten(index):
        return any(
            cost <= costs[index]
            and other.mean_iou >= variants[index].mean_iou
            and (cost < costs[index] or other.mean_iou > variants[index].mean_iou)
            for other, cost in zip(variants, costs)
        )

    return [index for index in range(len(variants)) if not beaten(index)]


def as_csv(table: Table, latency: dict) -> str:
    """One row a run, every number that its metrics.json has, and its variant's inference time."""
    rows = []
    for (variant, seed), run in table.runs.items():
        metrics = run.metrics()
        row = {"variant": variant, "seed": seed} | _numbers(metrics[cell.SPLIT]) | _numbers(metrics["cost"])
        rows.append(row | _numbers({"latency": latency.get("variants", {}).get(variant, {})}))
    text = io.StringIO()
    titles = list(dict.fromkeys(title for row in rows for title in row))
    writer = csv.DictWriter(text, titles, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def bracket(low: float | None, high: float | None, form: str) -> str:
    """An interval of shares in points, as it follows its estimate: `` [56.66, 58.34]``; nothing where there is none."""
    return "" if low is None or high is None else f" [{100 * low:{form}}, {100 * high:{form}}]"


def markdown_table(titles: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a Markdown table; all columns but the first are numbers."""
    rule = ["---", *["---:"] * (len(titles) - 1)]
    return [f"| {' | '.join(row)} |" for row in (titles, rule, *rows)]


def _confusion(table: Table) -> np.ndarray:
    """Confusion matrices ``(V, S, N, C, C)`` of the runs that are compared."""
    first = table.runs[table.variants[0], table.seeds[0]]
    with np.load(first.counts_file(cell.SPLIT)) as counts:
        names, shape = counts["names"].tolist(), counts["confusion"].shape
    matrices = []
    for variant in table.variants:
        for seed in table.seeds:
            run = table.runs[variant, seed]
            with np.load(run.counts_file(cell.SPLIT)) as counts:
                if counts["names"].tolist() != names or counts["confusion"].shape != shape:
                    raise InputError(
                        f"{run.path} and {first.path} were tested on different images or classes; compare runs of the "
                        "same data"
                    )
                matrices.append(counts["confusion"])
    return np.stack(matrices).reshape(len(table.variants), len(table.seeds), *shape)


def _variant(table: Table, name: str, analysis: statistics.Analysis, latency: dict) -> Variant:
    runs = [table.runs[name, seed] for seed in table.seeds]
    scores = [run.metrics()[cell.SPLIT] for run in runs]
    costs = [run.metrics()["cost"] for run in runs]
    score = next(score for score in analysis.variants if score.name == name)
    against = [one for one in analysis.to_baseline if one.first == name]
    compared: list = [(one.difference, one.low, one.high, one.p_holm) for one in against]
    difference, difference_low, difference_high, p_holm = compared[0] if compared else (None,) * 4

    def average(*keys: str) -> float:
        values = scores if keys[0] in scores[0] else costs
        for key in keys:
            values = [value[key] for value in values]
        return float(np.mean([np.nan if value is None else value for value in values]))

    return Variant(
        name=name,
        mean_iou=score.mean,
        low=score.low,
        high=score.high,
        rank=score.rank,
        rank_low=score.rank_low,
        rank_high=score.rank_high,
        difference=difference,
        difference_low=difference_low,
        difference_high=difference_high,
        p_holm=p_holm,
        iou={key: average("iou", key, "dataset") for key in scores[0]["iou"]},
        pet_iou={key: average("pet_iou", key, "dataset") for key in scores[0].get("pet_iou", {})},
        mean_boundary_iou=average("mean_boundary_iou", "dataset"),
        band_accuracy={key: average("band_accuracy", key, "dataset") for key in scores[0]["band_accuracy"]},
        pixel_accuracy=average("pixel_accuracy", "dataset"),
        checkerboard_initial=average("checkerboard", "initial"),
        checkerboard_trained=average("checkerboard", "trained"),
        parameters=costs[0]["parameters"],
        multiply_adds=costs[0]["multiply_adds"],
        surplus_parameters=costs[0]["surplus_parameters"],
        surplus_multiply_adds=costs[0]["surplus_multiply_adds"],
        images_per_second=average("images_per_second"),
        peak_memory_mib=average("peak_memory_mib"),
        file_mib=average("file_mib"),
        latency=latency,
        learning=[[row["val_mean_iou"] for row in run.history() if "val_mean_iou" in row] for run in runs],
    )


def _warnings(table: Table, analysis: statistics.Analysis, failures: dict[str, str]):
    """What a reader must know to judge the numbers."""
    if not analysis.seeds_counted:
        yield "One seed only: the intervals are about the choice of test images and say nothing about luck in training."
    left_out = sorted({seed for _, seed in table.runs} - set(table.seeds))
    if left_out:
        yield f"Left out, because not every variant has finished them: runs of seed {', '.join(map(str, left_out))}."
    if analysis.equal_spread_p is not None and analysis.equal_spread_p < 0.05:
        yield (
            f"Over seeds the variants spread unequally (p = {analysis.equal_spread_p:.3f}), which the comparisons take "
            "to be equal: intervals of the variant that spreads most are too narrow, the others' too wide."
        )
    devices = {start["device"] for run in table.runs.values() for start in _starts(run)}
    if len(devices) > 1:
        names = "; ".join(sorted(devices))
        yield f"The runs were trained on different devices ({names}): speed and memory do not compare."
    elif any(name.startswith("CPU") for name in devices):
        yield "Measured on a CPU: times compare with each other, and say little about a GPU."
    for name, reason in failures.items():
        yield f"{name} failed: {reason}"


def _made(table: Table, latency: dict) -> dict[str, Any]:
    import yaml

    starts = [start for run in table.runs.values() for start in _starts(run)]
    run = next(iter(table.runs.values()))
    config = run.config.model_dump(mode="json")
    for key in ("data_dir", "cache_dir"):
        config["data"].pop(key)
    config.pop("name")
    return {
        "runs": len(table.runs),
        "backends": sorted({start["backend"] for start in starts}),
        "devices": sorted({start["device"] for start in starts}),
        "jit": sorted({start["jit"] for start in starts}),
        "versions": {key: value for start in starts for key, value in start["versions"].items()},
        "commits": sorted({str(start["commit"]) for start in starts}),
        "from": min(start["time"] for start in starts),
        "to": max(start["time"] for start in starts),
        "latency_device": latency.get("device"),
        "example": f"{next(iter(table.runs))[0]}, seed {run.config.seed}",
        "config": yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
    }


def _starts(run: Run) -> list[dict]:
    return json.loads(run.environment_file.read_text(encoding="utf-8"))["starts"]


def _numbers(values: dict, prefix: str = "") -> dict[str, Any]:
    """Dotted keys of all numbers."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{prefix}{key}"] = value
    return found
