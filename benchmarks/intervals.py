"""Coverage of an ablation report's intervals if variants differ in spread. ``make intervals`` runs it.

Tables of scores are simulated with known means: an effect of the seed, and normal noise whose standard deviation
differs between variants. Test images are left out; ``tests/ablation/test_statistics.py`` simulates both. Designs that
docs/results/intervals.json already contains are not simulated again; delete the file to start over. About ten
minutes of one core.
"""

import itertools
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track
from scipy import optimize, special, stats

from unet.ablation.report.statistics import seed_variance
from unet.files import write_json, write_text

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "intervals.json"
VARIANTS = (2, 3, 4, 6, 10, 15)
SEEDS = (3, 5, 10)
RATIOS = (1, 2, 3, 5)
"""Largest standard deviation over the smallest."""
TABLES = 20_000
BLOCK = 4_000
"""Tables simulated at a time."""
WIDTHS = 2_000
"""Tables for mean widths, which vary less than coverage."""


def spreads(variants: int, ratio: float) -> dict[str, np.ndarray]:
    """Standard deviations of the variants ``(V,)``, by the name of the pattern."""
    if ratio == 1:
        return {"equal": np.ones(variants)}
    found = {"one noisy": np.append(ratio, np.ones(variants - 1))}
    if variants > 2:
        found["one quiet"] = np.append(1.0, np.full(variants - 1, ratio))
        found["three levels"] = np.resize([1, np.sqrt(ratio), ratio], variants)
    if variants > 3:
        found["half noisy"] = np.resize([1.0, ratio], variants)
    return found


def pooled(scores):
    """One variance for all variants."""
    *_, variants, seeds = scores.shape
    residuals = scores - scores.mean(-1, keepdims=True) - scores.mean(-2, keepdims=True)
    residuals += scores.mean((-2, -1), keepdims=True)
    degrees = (variants - 1) * (seeds - 1)
    variance = 2 * (residuals**2).sum((-2, -1)) / degrees / seeds
    return np.broadcast_to(variance[..., None, None], (*variance.shape, variants, variants)), degrees


def paired(scores):
    """Student's paired t test of each pair."""
    seeds = scores.shape[-1]
    return (scores[..., None, :] - scores[..., None, :, :]).var(-1, ddof=1) / seeds, seeds - 1


def own_variances(scores):
    """Mean square of each variant's residuals, and its variance without bias, which can be negative (Grubbs 1948)."""
    variants = scores.shape[-2]
    residuals = scores - scores.mean(-1, keepdims=True)
    squares = (residuals - residuals.mean(-2, keepdims=True)).var(-1, ddof=1)
    return squares, variants / (variants - 2) * (squares - squares.mean(-1, keepdims=True) / (variants - 1))


def welch(scores):
    """Welch's test with own variances, which are at least the mean square of the residuals."""
    *_, variants, seeds = scores.shape
    if variants == 2:
        return paired(scores)
    own = np.maximum(*own_variances(scores))
    one, other = own[..., None], own[..., None, :]
    return (one + other) / seeds, (seeds - 1) * (one + other) ** 2 / (one**2 + other**2)


def shrunken(scores):
    """Variances shrunk towards a common one with estimated prior degrees of freedom (Smyth 2004), and Welch's test."""
    *_, variants, seeds = scores.shape
    if variants == 2:
        return paired(scores)
    own, degrees = np.maximum(*own_variances(scores)), seeds - 1
    logs = np.log(own) - special.digamma(degrees / 2) + np.log(degrees / 2)
    excess = logs.var(-1, ddof=1, keepdims=True) - special.polygamma(1, degrees / 2)
    prior = 2 * inverse_trigamma(np.maximum(excess, 1e-6))
    centre = np.exp(logs.mean(-1, keepdims=True) + special.digamma(prior / 2) - np.log(prior / 2))
    own = (prior * centre + degrees * own) / (prior + degrees)
    one, other = own[..., None], own[..., None, :]
    of_pairs = (prior + degrees)[..., None] * (one + other) ** 2 / (one**2 + other**2)
    return (one + other) / seeds, np.minimum(of_pairs, (variants - 1) * degrees)


def inverse_trigamma(values):
    """Interpolated in a table."""
    grid = np.geomspace(1e-3, 1e7, 4000)
    trigamma = special.polygamma(1, grid)
    return np.exp(np.interp(-np.log(values), -np.log(trigamma), np.log(grid)))


METHODS: dict[str, Callable] = {
    "report": seed_variance,
    "paired": paired,
    "welch": welch,
    "shrunken": shrunken,
    "pooled": pooled,
}
"""Variance ``(..., V, V)`` of mean differences and degrees of freedom from scores ``(..., V, S)``."""


def simulate(variants: int, seeds: int, spread: np.ndarray, tables: int) -> dict[str, dict[str, float]]:
    """Coverage of 95 % intervals, false claims and width, by method.

    ``lowest`` and ``highest`` are the coverage of the pairs that are covered least and most, where pairs of the same
    two standard deviations count together. ``false_claims`` is the share of tables with a p value below 0.05 after
    Holm's correction over all pairs although all means are equal, and ``of_half`` the same if every second variant is
    so much better that all comparisons with the others are rejected first. ``width`` is the mean over pairs, relative
    to intervals for known variances, and ``widest`` that of the pairs with the widest intervals.
    """
    rng = np.random.default_rng([variants, seeds, zlib.crc32(spread.tobytes())])
    pairs = np.array(list(itertools.combinations(range(variants), 2)))
    i, j = pairs.T
    kinds = np.unique(np.sort(spread[pairs]), axis=0, return_inverse=True)[1].ravel()
    alike = i % 2 == j % 2
    known = stats.norm.ppf(0.975) * np.hypot(spread[i], spread[j]) / np.sqrt(seeds)
    found: dict[str, dict[str, list]] = {name: {} for name in METHODS}
    for start in range(0, tables, BLOCK):
        scores = rng.normal(size=(min(BLOCK, tables - start), variants, seeds))
        scores = scores * spread[:, None] + rng.normal(size=(len(scores), 1, seeds))
        means = scores.mean(-1)
        difference = abs(means[:, i] - means[:, j])
        for name, method in METHODS.items():
            variance, degrees = method(scores)
            degrees = degrees[:, i, j] if isinstance(degrees, np.ndarray) else degrees
            error = np.sqrt(variance[:, i, j])
            p = 2 * special.stdtr(degrees, -difference / error)
            values = {"covered": p >= 0.05, "false_claims": p.min(1) * len(i) < 0.05}
            if alike.any():
                values["of_half"] = p[:, alike].min(1) * alike.sum() < 0.05
            if start < WIDTHS:
                values["width"] = special.stdtrit(degrees, 0.975) * error / known
            for key, value in values.items():
                found[name].setdefault(key, []).append(value.mean(0))
    summary = {}
    for name, values in found.items():
        averages = {key: np.mean(value, 0) for key, value in values.items()}
        covered, width = (np.bincount(kinds, averages[key]) / np.bincount(kinds) for key in ("covered", "width"))
        summary[name] = {"lowest": covered.min(), "highest": covered.max(), "widest": width.max()}
        summary[name] |= {key: value.mean() for key, value in averages.items() if key != "covered"}
    return {name: {key: round(float(value), 4) for key, value in one.items()} for name, one in summary.items()}


def least_width(seeds: int) -> float:
    """Least mean width, at equal spread, of any interval that covers 95 % for every ratio up to 5.

    It is relative to intervals for known variances, and for the easiest case: all variances are known except that of
    one variant, which is estimated with S − 1 degrees of freedom. The half-width as a function of the estimate is
    chosen by convex optimization; methods that have to estimate more cannot be narrower.
    """
    degrees, ratios = seeds - 1, np.array([1, 1.5, 2, 2.5, 3, 4, 5])
    estimates = np.geomspace(0.02, 60, 150)
    edges = np.concatenate([[0], np.sqrt(estimates[1:] * estimates[:-1]), [np.inf]])
    probability = np.diff(stats.chi2.cdf(edges * degrees / ratios[:, None] ** 2, degrees))
    sigma = np.sqrt(1 + ratios**2)[:, None]
    slope = probability[0] / sigma[0] / stats.norm.ppf(0.975)
    constraint = {
        "type": "ineq",
        "fun": lambda half: (probability * special.erf(half / sigma / np.sqrt(2))).sum(1) - 0.95,
        "jac": lambda half: probability * 2 * stats.norm.pdf(half / sigma) / sigma,
    }
    start = stats.t.ppf(0.975, degrees) * np.sqrt(1 + estimates)
    found = optimize.minimize(
        lambda half: slope @ half,
        start,
        jac=lambda _: slope,
        constraints=constraint,
        bounds=[(0.01, 100)] * len(start),
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-8},
    )
    return round(float(found.fun), 3)


def measure() -> dict:
    """Simulate the designs that intervals.json lacks."""
    found: dict[str, Any] = {"tables": TABLES, "designs": []}
    if RESULTS.is_file():
        found = json.loads(RESULTS.read_text(encoding="utf-8"))
    found["least_width"] = {str(seeds): least_width(seeds) for seeds in SEEDS}
    known = {(one["variants"], one["seeds"], one["spread"], one["ratio"]) for one in found["designs"]}
    designs = [
        (variants, seeds, name, ratio, spread)
        for variants, seeds, ratio in itertools.product(VARIANTS, SEEDS, RATIOS)
        for name, spread in spreads(variants, ratio).items()
        if (variants, seeds, name, ratio) not in known
    ]
    for variants, seeds, name, ratio, spread in track(designs, "simulating"):
        design = {"variants": variants, "seeds": seeds, "spread": name, "ratio": ratio}
        found["designs"].append(design | {"methods": simulate(variants, seeds, spread, TABLES)})
        write_json(RESULTS, found)
    return found


def as_markdown(found: dict) -> str:
    """The text of docs/results/intervals.md."""
    designs = found["designs"]

    def select(method, key, **wanted):
        chosen = [one for one in designs if all(one[name] == value for name, value in wanted.items())]
        return [one["methods"][method][key] for one in chosen if key in one["methods"][method]]

    def percent(value):
        return f"{100 * value:.1f}"

    def span(method, **wanted):
        return f"{percent(min(select(method, 'lowest', **wanted)))}–{percent(max(select(method, 'highest', **wanted)))}"

    def most(method, key, **wanted):
        return max(select(method, key, **wanted), default=None)

    def claims(method, **wanted):
        found = (most(method, key, **wanted) for key in ("false_claims", "of_half"))
        return ["–" if value is None else percent(value) for value in found]

    def width(method, **wanted):
        return f"{np.mean(select(method, 'width', ratio=1, **wanted)):.2f}"

    def table(titles, rows):
        lines = [titles, ["---"] + ["---:"] * (len(titles) - 1), *rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    names = {
        "report": "difference and sum (the report)",
        "paired": "paired t test of each pair",
        "welch": "own variances, Welch",
        "shrunken": "variances shrunk towards a common one",
        "pooled": "one pooled variance",
    }
    methods = [
        [
            label,
            span(name),
            *claims(name),
            *(width(name, seeds=seeds) for seeds in SEEDS),
            f"{most(name, 'widest'):.2f}",
        ]
        for name, label in names.items()
    ]
    bound = ["least possible", "", "", "", *(f"{found['least_width'][str(seeds)]:.2f}" for seeds in SEEDS), ""]
    example = [
        [str(ratio), *(span(name, variants=6, seeds=3, ratio=ratio, spread=spread) for name in names)]
        for ratio, spread in zip(RATIOS, ["equal", *["one noisy"] * (len(RATIOS) - 1)])
    ]
    details = [
        [
            *(str(seeds), str(variants)),
            *(span("report", seeds=seeds, variants=variants), *claims("report", seeds=seeds, variants=variants)),
            *(width(name, seeds=seeds, variants=variants) for name in ("report", "paired", "pooled")),
        ]
        for seeds, variants in itertools.product(SEEDS, VARIANTS)
    ]
    return f"""# Intervals if variants differ in spread

Written by `make intervals`. The score of a run is simulated as the sum of its variant's mean, an effect of its seed,
and normal noise whose standard deviation differs between variants by a ratio of {", ".join(map(str, RATIOS))}: for one
variant (noisier or quieter than the others), for half of them, or in three levels. There are {len(designs)} designs
with {VARIANTS[0]} to {VARIANTS[-1]} variants and {SEEDS[0]} to {SEEDS[-1]} seeds, and {found["tables"]:,} tables of
scores for each. Test images are left out.

## Methods

- *Coverage* of 95 % intervals in %: of the pair that is covered least in any design, and of the one covered most.
- *False claims* in %: share of studies with any significant difference after Holm's correction over all pairs, although
  all variants are equal; the largest of all designs. *Of half*: every second variant is so much better that its
  comparisons with the others are all significant, which leaves fewer comparisons for the correction.
- *Width*: mean width at equal spread, averaged over numbers of variants, relative to intervals for known variances.
  *Widest*: the same for the pair with the widest intervals in any design.

{
        table(
            ["method", "coverage", "false claims", "of half", *(f"width, {seeds} seeds" for seeds in SEEDS), "widest"],
            [*methods, bound],
        )
    }

The last row is a limit: no method that covers 95 % for every ratio up to 5 can be narrower at equal
spread, even if all variances but one are known. Methods that borrow more from other variants are narrower because they
cover less: with three seeds, a variant that varies more than the others often does not look like it. Own variances
cover enough, but the mean of a seed, which is subtracted from all variants, carries the noise of the others, so that
intervals of quiet variants are up to three times as wide as for known variances.

## Six variants, three seeds, one noisy variant

Coverage in % of the pairs that are covered least and most, by the ratio of the standard deviations:

{table(["ratio", *names.values()], example)}

## The method of the report by design

Ranges and largest values over ratios and patterns:

{
        table(
            ["seeds", "variants", "coverage", "false claims", "of half", "width", "width, paired", "width, pooled"],
            details,
        )
    }

With two or three variants the method is the paired t test, whose false claims exceed 5 % by chance of the simulation
alone. The least coverage is that of pairs with one noisy variant. Where such a pair alone is left to test, because all
others differ significantly, the share of false claims is 100 % minus its coverage.
"""


if __name__ == "__main__":
    write_text(RESULTS.with_suffix(".md"), as_markdown(measure()))
