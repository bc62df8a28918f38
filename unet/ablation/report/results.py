"""Scores, costs, learning curves and statistics of finished runs, by variant."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
import yaml
from typing_extensions import TypedDict

from unet import records
from unet.ablation.report import statistics
from unet.ablation.run.finished import SPLIT, RunsByVariant
from unet.errors import InputError
from unet.files import write_json
from unet.runs import Average


class Checkerboard(TypedDict):
    """Phase dependence of a network's logits, before and after training."""

    initial: float | None
    trained: float | None


class ReportedScores(TypedDict):
    """What a report reads of :meth:`unet.metrics.Tally.scores`."""

    mean_iou: Average
    iou: dict[str, Average]
    pet_iou: NotRequired[dict[str, Average]]
    mean_boundary_iou: Average
    band_accuracy: dict[str, Average]
    pixel_accuracy: Average
    precision: NotRequired[dict[str, Average]]
    recall: NotRequired[dict[str, Average]]


class ReportedCost(TypedDict):
    """What a report reads of :func:`unet.ablation.run.costs.measure`."""

    parameters: int
    multiply_adds: int
    surplus_parameters: int
    surplus_multiply_adds: int
    images_per_second: float | None
    peak_memory_mib: float | None
    file_mib: float | None
    checkerboard: Checkerboard


@dataclass(frozen=True)
class Variant:
    """One variant: means over its seeds, and how it compares with the others."""

    name: str
    mean_iou: float
    """Dataset mean IoU, 0 to 1 like all scores here."""
    low: float | None
    """95 % interval of ``mean_iou`` over seeds; ``None`` with one seed."""
    high: float | None
    rank: int
    rank_low: int
    rank_high: int
    difference: float | None
    """Difference from the baseline, with its 95 % interval and Holm's p value; ``None`` for the baseline itself."""
    difference_low: float | None
    difference_high: float | None
    p_holm: float | None
    iou: dict[str, float]
    pet_iou: dict[str, float]
    mean_boundary_iou: float
    band_accuracy: dict[str, float]
    """Pixel accuracy near contours, by half-width of the band in pixels."""
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
    """By batch size: ``median_ms``, ``p95_ms`` and ``rounds``; ``ratio``, ``ratio_low`` and ``ratio_high``, the time
    over that of the baseline, paired by round, with its 95 % interval, if the time of each round is known. Empty if
    nothing was measured."""
    learning: list[list[float]] = field(repr=False)
    """Validation mean IoU by seed and epoch."""
    precision: dict[str, float] = field(default_factory=dict)
    """By class, like ``recall``; empty where a run was evaluated by an earlier version."""
    recall: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """Results of an ablation: everything its report says, except for spectra and pictures of test images."""

    title: str
    baseline: str
    seeds: tuple[int, ...]
    """Seeds that every variant has; the comparison is based on them."""
    images: int
    """Number of test images."""
    variants: tuple[Variant, ...]
    verdict: str
    tied: tuple[str, ...]
    """The best variant and those statistically tied with it, by decreasing mean."""
    cheapest: str | None
    """The tied variant that costs less than every other one, by ``cost_name``; ``None`` if no cost was shown to be the
    lowest."""
    cost_name: str
    detectable: float
    detectable_holm: float
    warnings: tuple[str, ...]
    made: dict[str, Any]
    """How the runs were made: ``devices``, ``versions``, ``commits``, ``latency_device``, ``config`` (YAML)."""
    equally_cheap: tuple[str, ...] = ()
    """The tied variants whose cost is not shown to exceed the lowest."""
    fastest: tuple[str, ...] = ()
    """All variants whose time for one image is not shown to exceed the lowest; empty if the times have no interval."""

    def save(self, path: Path) -> None:
        """Write the summary as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> "Summary":
        """Read a file written by :meth:`save`."""
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        lists = {key: tuple(values.get(key, ())) for key in ("seeds", "tied", "warnings", "equally_cheap", "fastest")}
        return cls(**(values | lists | {"variants": tuple(Variant(**variant) for variant in values["variants"])}))

    def best_first(self) -> list[Variant]:
        """Variants by decreasing mean IoU."""
        return sorted(self.variants, key=lambda variant: -variant.mean_iou)

    def variant(self, name: str) -> Variant:
        """The variant with this name."""
        return next(variant for variant in self.variants if variant.name == name)


def summarise(
    runs: RunsByVariant, title: str, baseline: str | None, latency: dict, failures: dict[str, str]
) -> Summary:
    """Compare runs by their metrics, counts and histories.

    Args:
        runs: The runs.
        title: Title of the report.
        baseline: Name of a variant; ``None`` for the first.
        latency: Result of :func:`unet.ablation.run.timing.latency`; empty if it was not measured.
        failures: Why other runs failed, by name, for the warnings.

    Raises:
        InputError: The baseline is unknown, or the runs were not tested on the same images and classes.
    """
    baseline = runs.check_baseline(baseline)
    analysis = statistics.analyse(_confusion(runs), runs.variants, baseline)
    timed = {name: _latency(latency, name, baseline) for name in analysis.names}
    variants = tuple(_variant(runs, name, analysis, timed[name]) for name in analysis.names)
    rounds = _rounds(latency, "1")
    if rounds:
        cost, cost_name = {v.name: v.latency["1"]["median_ms"] for v in variants}, "ms for one image"
        cheapest = statistics.fastest({name: rounds[name] for name in analysis.tied})
    else:  # the only exact cost
        cost, cost_name = {v.name: v.multiply_adds / 1e6 for v in variants}, "million multiply-adds"
        cheapest = statistics.lowest(analysis.tied, cost)
    return Summary(
        title=title,
        baseline=baseline,
        seeds=runs.seeds,
        images=analysis.images,
        variants=variants,
        verdict=statistics.verdict(analysis, cost, cost_name, cheapest),
        tied=analysis.tied,
        cheapest=cheapest[0] if len(cheapest) == 1 else None,
        cost_name=cost_name,
        detectable=analysis.detectable,
        detectable_holm=analysis.detectable_holm,
        warnings=tuple(_warnings(runs, analysis, failures)),
        made=_made(runs, latency),
        equally_cheap=cheapest,
        fastest=statistics.fastest(rounds) if rounds else (),
    )


def pareto_front(variants: Sequence[Variant], costs: Sequence[float]) -> list[int]:
    """Indices of the variants that no other dominates: at least as good and as cheap, and better in one of the two."""

    def dominated(index):
        return any(
            cost <= costs[index]
            and other.mean_iou >= variants[index].mean_iou
            and (cost < costs[index] or other.mean_iou > variants[index].mean_iou)
            for other, cost in zip(variants, costs)
        )

    return [index for index in range(len(variants)) if not dominated(index)]


def as_csv(runs: RunsByVariant, latency: dict) -> str:
    """One row for each run: every number in its metrics.json, and the inference time of its variant."""
    rows = []
    for (variant, seed), run in runs.runs.items():
        metrics = run.metrics()
        row = {"variant": variant, "seed": seed} | _numbers(metrics[SPLIT]) | _numbers(metrics["cost"])
        rows.append(row | _numbers({"latency": latency.get("variants", {}).get(variant, {})}))
    text = io.StringIO()
    titles = list(dict.fromkeys(title for row in rows for title in row))
    writer = csv.DictWriter(text, titles, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _confusion(runs: RunsByVariant) -> np.ndarray:
    """Confusion matrices ``(V, S, N, C, C)`` of the runs that are compared."""
    first = runs.runs[runs.variants[0], runs.seeds[0]]
    names, confusion = first.counts(SPLIT)
    shape = confusion.shape
    matrices = []
    for variant in runs.variants:
        for seed in runs.seeds:
            run = runs.runs[variant, seed]
            tested, confusion = run.counts(SPLIT)
            if tested != names or confusion.shape != shape:
                raise InputError(
                    f"{run.path} and {first.path} were tested on different images or classes; only runs on "
                    "the same data can be compared"
                )
            matrices.append(confusion)
    return np.stack(matrices).reshape(len(runs.variants), len(runs.seeds), *shape)


def _rounds(latency: dict, batch: str) -> dict[str, list[float]]:
    """Milliseconds of each round by variant; empty if they were not kept, as before intervals were reported."""
    times = {name: batches[batch].get("times_ms", []) for name, batches in latency.get("variants", {}).items()}
    return times if all(times.values()) else {}


def _latency(latency: dict, name: str, baseline: str) -> dict[str, dict[str, float]]:
    """Times of a variant by batch size, without those of single rounds but with their ratio to the baseline."""
    found = {}
    for batch, values in latency.get("variants", {}).get(name, {}).items():
        found[batch] = {key: value for key, value in values.items() if key != "times_ms"}
        rounds = _rounds(latency, batch)
        if rounds:
            ratio = statistics.time_ratio(rounds[name], rounds[baseline])
            if ratio.low is not None and ratio.high is not None:
                found[batch] |= {"ratio": ratio.value, "ratio_low": ratio.low, "ratio_high": ratio.high}
    return found


def _variant(runs: RunsByVariant, name: str, analysis: statistics.Analysis, latency: dict) -> Variant:
    repetitions = [runs.runs[name, seed] for seed in runs.seeds]
    scores = [run.metrics()[SPLIT] for run in repetitions]
    costs = [run.metrics()["cost"] for run in repetitions]
    for run, entry, cost in zip(repetitions, scores, costs, strict=True):
        records.check(entry, ReportedScores, f"{run.metrics_file}: {SPLIT}")
        records.check(cost, ReportedCost, f"{run.metrics_file}: cost")
    score = next(score for score in analysis.variants if score.name == name)
    against = [one for one in analysis.to_baseline if one.first == name]
    compared: list = [(one.difference, one.low, one.high, one.p_holm) for one in against]
    difference, difference_low, difference_high, p_holm = compared[0] if compared else (None,) * 4

    def average(*keys: str) -> float:
        values = scores if keys[0] in scores[0] else costs
        for key in keys:
            values = [value[key] for value in values]
        return float(np.mean([np.nan if value is None else value for value in values]))

    def by_class(key: str) -> dict[str, float]:
        known = all(key in score for score in scores)
        return {name: average(key, name, "dataset") for name in scores[0][key]} if known else {}

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
        iou=by_class("iou"),
        pet_iou=by_class("pet_iou"),
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
        learning=[[row["val_mean_iou"] for row in run.history() if "val_mean_iou" in row] for run in repetitions],
        precision=by_class("precision"),
        recall=by_class("recall"),
    )


def _warnings(runs: RunsByVariant, analysis: statistics.Analysis, failures: dict[str, str]) -> Iterator[str]:
    """What a reader needs to know to judge the numbers."""
    if not analysis.seeds_counted:
        yield "One seed only: the intervals cover the choice of test images, but not the variation between trainings."
    left_out = sorted({seed for _, seed in runs.runs} - set(runs.seeds))
    if left_out:
        seeds = f"seed{'s' if len(left_out) > 1 else ''} {', '.join(map(str, left_out))}"
        yield f"Runs with {seeds} are left out, because not every variant has finished them."
    devices = {start["device"] for run in runs.runs.values() for start in run.starts()}
    if len(devices) > 1:
        names = "; ".join(sorted(devices))
        yield f"The runs were trained on different devices ({names}): their speed and memory cannot be compared."
    elif any(name.startswith("CPU") for name in devices):
        yield "Measured on a CPU: the times can be compared with each other, but say little about a GPU."
    for name, reason in failures.items():
        yield f"{name} failed: {reason}"


def _made(runs: RunsByVariant, latency: dict) -> dict[str, Any]:
    starts = [start for run in runs.runs.values() for start in run.starts()]
    run = next(iter(runs.runs.values()))
    config = run.config.without_paths()
    config.pop("name")
    return {
        "runs": len(runs.runs),
        "backends": sorted({start["backend"] for start in starts}),
        "devices": sorted({start["device"] for start in starts}),
        "jit": sorted({start["jit"] for start in starts}),
        "versions": {key: value for start in starts for key, value in start["versions"].items()},
        "commits": sorted({str(start["commit"]) for start in starts}),
        "from": min(start["time"] for start in starts),
        "to": max(start["time"] for start in starts),
        "latency_device": latency.get("device"),
        "example": f"{next(iter(runs.runs))[0]}, seed {run.config.seed}",
        "config": yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
    }


def _numbers(values: dict, prefix: str = "") -> dict[str, Any]:
    """All numbers by dotted key."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{prefix}{key}"] = value
    return found
