"""Statistics of differences in mean IoU between variants: paired intervals, Holm's tests, ranks and a verdict.

A difference varies with the training seed and with the test images. The usual answer is a hierarchical bootstrap that
resamples both, but three to five seeds cannot estimate the variance between seeds by themselves: where seeds dominate,
its 95 % percentile intervals cover the truth in 74 % of cases with three seeds
(``tests/ablation/test_statistics.py``), and it counts the interaction of images and seeds twice. Each source therefore
has its own method.

There are few seeds, and some variants vary more between them than others. Runs are paired by seed, and every pair of
variants has its own variance: from their differences, as in the paired t test, and, unless the other variants vary much
more, also from their sum relative to these (:func:`seed_variance`). One variance pooled over all variants would be more
certain, but wrong for some: with 6 variants and 3 seeds, intervals of a variant with three times the standard deviation
of the others would cover the truth in 81 % of cases (``docs/results/intervals.md``).

There are many images. They are resampled by a bootstrap, the same images for all runs, and of its variance only the
part shared by different seeds is used, since the residuals contain the rest. The two variances add up.

The critical value is the mean of the two t quantiles weighted by variance (Cochran and Cox 1950; Cochran 1964), which
is conservative: up to 97.1 % are covered with 2 degrees of freedom. Satterthwaite's degrees of freedom for the sum
would not be: 92 % with two variants and three seeds.
"""

import functools
import itertools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

from unet.data.heads import CLASSES, LABELS
from unet.metrics import iou, mean, overlap

POWER = 0.8
"""Probability of detecting the smallest detectable difference."""

ROUNDING = 1e-10
"""Differences of mean IoU and standard errors below this are rounding errors: one pixel of the Pets weighs 1e-9."""

SMALLEST_P = 1e-100
"""Smaller p values are reported as 0."""

SIMULATED = 10_000
"""Simulated differences from which :func:`detectable_difference` is computed."""


@dataclass(frozen=True)
class Score:
    """Dataset mean IoU of one variant, and its rank."""

    name: str
    seeds: tuple[float, ...]
    """Dataset mean IoU of the run with each seed, 0 to 1."""
    mean: float
    low: float | None
    """Interval of the mean over seeds on these test images, from this variant's own spread; ``None`` with one seed."""
    high: float | None
    rank: int
    """Rank 1 has the highest mean; equal means share the better rank."""
    rank_low: int
    """One more than the number of variants that are significantly better."""
    rank_high: int
    """Number of variants minus those that are significantly worse."""


@dataclass(frozen=True)
class Comparison:
    """Mean IoU of one variant minus that of another, 0 to 1, with its uncertainty from seeds and test images."""

    first: str
    second: str
    difference: float
    low: float
    high: float
    standard_error: float
    seed_share: float
    """Share of the variance that is due to seeds, 0 to 1; the rest is due to the choice of test images."""
    p: float
    """Two-sided p value of this comparison alone."""
    p_holm: float
    """The same, adjusted for all comparisons of its family."""


@dataclass(frozen=True)
class Analysis:
    """Result of :func:`analyse`; plain numbers, ready for ``dataclasses.asdict`` and JSON."""

    baseline: str
    images: int
    confidence: float
    variants: tuple[Score, ...]
    """Variants in the order given."""
    to_baseline: tuple[Comparison, ...]
    """Every other variant minus the baseline; Holm's correction covers these V − 1 comparisons."""
    pairs: tuple[Comparison, ...]
    """All V (V − 1) / 2 pairs, in the order given; Holm's correction covers all of them."""
    tied: tuple[str, ...]
    """The variant with the highest mean and those not significantly different from it, by decreasing mean."""
    detectable: float
    """Difference from the baseline that a single planned comparison detects with 80 % power, between variants of
    average variance."""
    detectable_holm: float
    """The same for the first step of Holm's V − 1 tests."""
    seeds_counted: bool
    """False with one seed: no interval or p value then includes the variation between runs."""
    pooled: bool | None
    """The deprecated argument of :func:`analyse`; ``None`` by default."""
    equal_spread_p: float | None
    """P value of an equal spread over seeds for all variants, which only ``pooled=True`` assumes. ``None`` with fewer
    than three seeds, and with two variants."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the variants, in the order given."""
        return tuple(variant.name for variant in self.variants)

    @property
    def scores(self) -> np.ndarray:
        """Dataset mean IoU ``(V, S)``."""
        return np.array([variant.seeds for variant in self.variants])


def analyse(
    confusion: np.ndarray,
    names: Sequence[str],
    baseline: str,
    *,
    draws: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
    pooled: bool | None = None,
) -> Analysis:
    """Compare variants that were trained with the same seeds and tested on the same images.

    Args:
        confusion: Integers ``(V, S, N, C, C)``: pixels of true class (row) by predicted class (column), for each
            variant, seed and test image. One image gives no information on the variation between images. Where a pixel
            may have several labels, ``(V, S, N, L, 2, 2)``: pixels where each label is not set, and is.
        names: Names of the V variants.
        baseline: Name of the variant that the others are compared with.
        draws: Number of bootstrap resamples of the images; at least 100.
        seed: Seed of the resampling; the same seed gives the same numbers.
        confidence: Confidence level of intervals; tests are significant below 1 − ``confidence``.
        pooled: Deprecated. ``True``: one variance over seeds for all variants, with (V − 1) (S − 1) degrees of
            freedom, which is too small for variants of larger spread. ``False``: a paired t test for each pair, with
            S − 1.

    Raises:
        ValueError: An argument is invalid; the message names it.
    """
    names = tuple(names)
    _check(confusion, names, baseline, draws, confidence)
    if pooled is not None:
        message = "analyse(): the argument 'pooled' is deprecated; by default every pair has its own variance"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
    variants, seeds, images = confusion.shape[:3]
    alpha = 1 - confidence
    scores = _scores(*(counts.sum(2) for counts in _overlap(confusion)))
    if not np.isfinite(scores).all():
        variant, run = np.argwhere(~np.isfinite(scores))[0]
        raise ValueError(f"confusion of {names[variant]}, seed number {run}, counts no pixel")

    means = scores.mean(1)
    difference = means[:, None] - means
    from_seeds, seed_degrees = seed_variance(scores, pooled)
    from_images = _variance_from_images(confusion, draws, seed)
    variance = from_seeds + from_images
    variance[variance < ROUNDING**2] = 0
    seed_share = _divide(from_seeds, variance, seeds > 1)
    error = np.sqrt(variance)
    margin = _Distribution(seed_share, seed_degrees, images - 1).quantile(1 - alpha / 2) * error
    t = np.divide(abs(difference), error, where=error > 0, out=np.where(abs(difference) < ROUNDING, 0, np.inf))
    pairs = list(itertools.combinations(range(variants), 2))
    p = np.ones((variants, variants))
    for i, j in pairs:
        p[i, j] = p[j, i] = _Distribution(seed_share[i, j], seed_degrees[i, j], images - 1).p_value(t[i, j])
    low, high = difference - margin, difference + margin

    def compare(pairs: list[tuple[int, int]]) -> tuple[Comparison, ...]:
        return tuple(
            Comparison(
                first=names[pair[0]],
                second=names[pair[1]],
                difference=float(difference[pair]),
                low=float(low[pair]),
                high=float(high[pair]),
                standard_error=float(error[pair]),
                seed_share=float(seed_share[pair]),
                p=float(p[pair]),
                p_holm=float(adjusted),
            )
            for pair, adjusted in zip(pairs, holm(np.array([p[pair] for pair in pairs])))
        )

    base = names.index(baseline)
    to_baseline = [(other, base) for other in range(variants) if other != base]
    compared = compare(pairs)
    significant = np.zeros((variants, variants), bool)
    for (i, j), comparison in zip(pairs, compared):
        significant[i, j] = significant[j, i] = comparison.p_holm < alpha
    best = int(means.argmax())
    order = sorted(range(variants), key=lambda index: -means[index])  # the best comes first, also among equals
    against = tuple(np.array(to_baseline).T)
    residuals = _residuals(scores)
    noise = (residuals**2).sum() / max(1, (variants - 1) * (seeds - 1))
    smallest_detectable = functools.partial(
        detectable_difference, variants, seeds, noise, float(np.median(from_images[against])), images, pooled=pooled
    )

    return Analysis(
        baseline=baseline,
        images=images,
        confidence=confidence,
        variants=_describe(names, scores, significant, confidence),
        to_baseline=compare(to_baseline),
        pairs=compared,
        tied=tuple(names[index] for index in order if not significant[best, index]),
        detectable=smallest_detectable(level=alpha),
        detectable_holm=smallest_detectable(level=alpha / (variants - 1)),
        seeds_counted=seeds > 1,
        pooled=pooled,
        equal_spread_p=_equal_spread(residuals),
    )


def seed_variance(scores: np.ndarray, pooled: bool | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Estimate how much of the variance of each pair's mean difference is due to seeds.

    Two estimates are combined for a pair whose variances between seeds add up to σ²:

    - Their difference has the variance σ², as in the paired t test.
    - Their sum, minus twice the mean of the other variants, which removes what a seed does to all, has the variance
      σ² + β. The excess β = 4 Σ w_k² σ_k² comes from the others, which have the weights w_k in this mean. It is
      subtracted, with variances σ_k² estimated without bias (Grubbs 1948).

    The average is weighted by precision, 1/σ⁴ and 1/(σ² + β)², so that the second counts little if the others vary
    much more. The weights need σ², which is first the variance of the difference, then the average that this gives:
    with the first alone, variances that happen to be small would be averaged least. The degrees of freedom are
    Satterthwaite's (1946), between S − 1 and 2 (S − 1). The two estimates are correlated if the variances in the pair
    differ; for β = 0 the result is Welch's test (1947).

    With two or three variants the result is the paired t test: a single other variant says too little about β.

    Variances are not shrunk towards a common value: with few seeds, a variant that varies more than the others often
    does not look like it, and intervals would be too narrow for it. docs/results/intervals.md compares.

    Args:
        scores: Array ``(..., V, S)``; more dimensions are more tables.
        pooled: The deprecated argument of :func:`analyse`.

    Returns:
        Variance and degrees of freedom, ``(..., V, V)`` each; 0 with one seed.
    """
    *tables, variants, seeds = scores.shape
    shape = (*tables, variants, variants)
    if seeds == 1:
        return np.zeros(shape), np.zeros(shape)
    residuals = _residuals(scores)
    i, j = np.triu_indices(variants, 1)
    of_pairs = _mean_square(residuals[..., i, :] - residuals[..., j, :])
    degrees_of_pairs = np.full(of_pairs.shape, seeds - 1.0)
    if pooled:
        of_pairs = np.broadcast_to(of_pairs.mean(-1, keepdims=True), of_pairs.shape)
        degrees_of_pairs *= variants - 1
    elif pooled is None and variants > 3:
        of_pairs, degrees_of_pairs = _from_difference_and_sum(residuals, i, j)
    variance, degrees = np.zeros(shape), np.full(shape, seeds - 1.0)
    variance[..., i, j] = variance[..., j, i] = of_pairs / seeds
    degrees[..., i, j] = degrees[..., j, i] = degrees_of_pairs
    return variance, degrees


def detectable_difference(
    variants: int,
    seeds: int,
    variance: float,
    image_variance: float,
    images: int,
    level: float = 0.05,
    pooled: bool | None = None,
) -> float:
    """Simulate a design, and find the difference of two variants that it detects with 80 % power.

    Args:
        variants: Number of variants.
        seeds: Number of seeds.
        variance: Variance of a run within a seed, the same for all variants.
        image_variance: Variance of a difference that is due to the choice of test images.
        images: Number of test images.
        level: A difference is detected if its p value is below.
        pooled: The deprecated argument of :func:`analyse`.

    Returns:
        The difference, in the unit of the square roots of the variances.
    """
    rng = np.random.default_rng(0)
    scores = np.sqrt(variance) * rng.normal(size=(max(1, SIMULATED // (variants - 1)), variants, seeds))
    means = scores.mean(2)
    found, degrees = (values[:, 0, 1:] for values in seed_variance(scores, pooled))
    total = found + image_variance
    share = _divide(found, total, 1)
    margin = _Distribution(share, degrees, images - 1).quantile(1 - level / 2) * np.sqrt(total)
    error = means[:, 1:] - means[:, :1] + np.sqrt(image_variance) * rng.normal(size=found.shape)
    return float(np.quantile(margin - error, POWER))


def holm(p: np.ndarray) -> np.ndarray:
    """Adjust p values ``(m,)`` for m tests: the probability of any false positive stays below α (Holm 1979)."""
    order = np.argsort(p)
    stepped = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


@dataclass(frozen=True)
class Ratio:
    """Time of one variant over that of another, measured in the same rounds."""

    value: float
    """Median of the ratios of all rounds."""
    low: float | None
    """Interval of the median; ``None`` with too few rounds for the confidence level."""
    high: float | None


def time_ratio(times: Sequence[float], others: Sequence[float], confidence: float = 0.95) -> Ratio:
    """Compare times measured in the same rounds.

    Slow rounds affect both times, so their ratio varies less than either. The interval consists of two order statistics
    of the ratios: it holds for any distribution if the rounds are independent (the interval of the sign test).

    Args:
        times: Time of one variant in each round.
        others: Time of the other in each round.
        confidence: Least confidence level of the interval.
    """
    ratios = np.sort(np.divide(times, others))
    rounds = len(ratios)
    # P values of the sign test if 0, 1, 2, ... ratios are on one side.
    left_out = int((2 * special.bdtr(np.arange((rounds + 1) // 2), rounds, 0.5) <= 1 - confidence).sum())
    ends = (float(ratios[left_out - 1]), float(ratios[rounds - left_out])) if left_out else (None, None)
    return Ratio(float(np.median(ratios)), *ends)


def fastest(times: Mapping[str, Sequence[float]], confidence: float = 0.95) -> tuple[str, ...]:
    """The variant with the lowest median time, and those that are not shown to be slower.

    The confidence level covers all comparisons with the fastest (Bonferroni's correction).

    Args:
        times: Time of each variant in each round, by name.
        confidence: Probability that no variant as fast as the fastest is left out.
    """
    first = min(times, key=lambda name: np.median(times[name]))
    single = 1 - (1 - confidence) / max(1, len(times) - 1)

    def is_slower(name: str) -> bool:
        low = time_ratio(times[name], times[first], single).low
        return low is not None and low > 1

    return tuple(name for name in times if name == first or not is_slower(name))


def verdict(analysis: Analysis, cost: dict[str, float], cost_name: str, cheapest: Sequence[str] | None = None) -> str:
    """State the result in words: the best variant, those tied with it, and the cheapest of them.

    Args:
        analysis: From :func:`analyse`.
        cost: Cost of each variant, by name; leave it empty to omit the cost.
        cost_name: Unit of the cost, as it follows a number: ``"ms per image"``.
        cheapest: The tied variants that are not shown to cost more than another; ``None``, for exact costs: those of
            the lowest cost.

    Raises:
        ValueError: ``cost`` lacks a variant.
    """
    if cost and (missing := [name for name in analysis.names if name not in cost]):
        raise ValueError(f"cost lacks {', '.join(missing)}")
    means = {variant.name: variant.mean for variant in analysis.variants}
    best, *others = analysis.tied
    count = len(means)
    leader = f"{best} (mean IoU {means[best]:.3f})"
    if not analysis.seeds_counted:
        return (
            "No verdict on training: with one seed, differences between variants cannot be distinguished from chance. "
            f"The highest of these {count} runs: {leader}."
        )
    if len(others) + 1 == count:
        words = [
            f"No difference from the best was shown: all {count} variants are statistically tied.",
            f"Highest mean: {leader}.",
            f"With {POWER:.0%} power this design detects a difference from {analysis.baseline} of "
            f"{_points(analysis.detectable)} in one planned comparison"
            + (f", and of {_points(analysis.detectable_holm)} as one of {count - 1}." if count > 2 else "."),
        ]
    elif others:
        words = [f"Best: {leader}.", f"Statistically tied with it: {', '.join(others)}."]
    else:
        words = [f"Best: {leader}.", "Every other variant is significantly worse."]
    if cost:
        words.append(cost_in_words(analysis.tied, cost, cost_name, cheapest))
    return " ".join(words)


def cost_in_words(
    tied: Sequence[str], cost: dict[str, float], cost_name: str, cheapest: Sequence[str] | None = None
) -> str:
    """Name the cheapest of the tied variants, or those that their cost does not distinguish.

    Args:
        tied: Names of the variants.
        cost: As in :func:`verdict`.
        cost_name: As in :func:`verdict`.
        cheapest: As in :func:`verdict`.
    """
    if cheapest is None:
        cheapest = lowest(tied, cost)
    ends = [_number(end(cost[name] for name in cheapest)) for end in (min, max)]
    price = f"{' to '.join(dict.fromkeys(ends))} {cost_name}"
    if len(tied) == 1:
        return f"It costs {price}."
    if len(cheapest) == 1:
        return f"Cheapest among the tied: {cheapest[0]} ({price})."
    names = f"{', '.join(cheapest[:-1])} and {cheapest[-1]}"
    if len(cheapest) == len(tied):
        return f"Cost does not distinguish {names} ({price})."
    return f"Cheapest among the tied, with no measurable difference in cost: {names} ({price})."


def lowest(names: Sequence[str], cost: dict[str, float]) -> tuple[str, ...]:
    """The names of the lowest cost."""
    least = min(cost[name] for name in names)
    return tuple(name for name in names if cost[name] == least)


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


@dataclass(frozen=True)
class _Distribution:
    """Distribution of a difference over its standard error: quantiles of two t distributions, weighted by variance.

    With one seed or one image (0 degrees of freedom) only the other distribution is used.
    """

    seed_share: np.ndarray
    seed_degrees: np.ndarray
    image_degrees: int

    @property
    def _parts(self):
        parts = ((self.seed_share, self.seed_degrees), (1 - self.seed_share, self.image_degrees))
        return [(share, degrees) for share, degrees in parts if np.all(degrees)]

    def quantile(self, level):
        return sum(share * special.stdtrit(degrees, level) for share, degrees in self._parts)

    def p_value(self, t):
        """Two-sided p value of a number ``t`` ≥ 0, for one difference: the level whose critical value it is."""
        if t == 0:
            return 1.0
        own = [2 * special.stdtr(degrees, -t) for _, degrees in self._parts]
        if np.isinf(t) or max(own) < SMALLEST_P:
            return 0.0

        def excess(log_p):
            return -self.quantile(np.exp(log_p) / 2) - t

        low, high = np.log(max(min(own), SMALLEST_P)) - 1e-6, np.log(max(own)) + 1e-6  # bracket of the root
        return float(min(1, np.exp(optimize.brentq(excess, low, high)))) if excess(low) > 0 else 0.0


def _check(confusion, names, baseline, draws, confidence):
    if not (isinstance(confusion, np.ndarray) and np.issubdtype(confusion.dtype, np.integer)):
        raise ValueError("confusion must be an array of integers of shape (V, S, N, C, C)")
    if confusion.ndim != 5 and not (confusion.ndim == 6 and confusion.shape[-2:] == (2, 2)):
        raise ValueError("confusion must be an array of integers of shape (V, S, N, C, C)")
    variants, seeds, images, *_, rows, columns = confusion.shape
    if rows != columns or not confusion.size:
        raise ValueError(f"confusion must have shape (V, S, N, C, C), all at least 1, received {confusion.shape}")
    if variants < 2:
        raise ValueError("confusion must hold at least two variants")
    if seeds * images < 2:
        raise ValueError("confusion must hold at least two seeds or two images")
    if confusion.min() < 0:
        raise ValueError("confusion must not be negative")
    if len(names) != variants or len(set(names)) != variants:
        raise ValueError(f"names must be {variants} different names, as confusion has variants; received {names}")
    if baseline not in names:
        raise ValueError(f"baseline must be one of {', '.join(names)}; received {baseline!r}")
    if draws < 100:
        raise ValueError(f"draws must be at least 100, received {draws}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, received {confidence}")


def _scores(intersection, union):
    """Mean IoU ``(...)`` from counts ``(..., C)``; NaN where no class has a score."""
    return mean(iou(intersection, union), axis=-1)


def _residuals(scores):
    """Scores ``(..., V, S)`` without the means of variants and of seeds."""
    scores = scores - scores.mean(-1, keepdims=True)
    return scores - scores.mean(-2, keepdims=True)


def _mean_square(residuals):
    """Mean square ``(...)`` of residuals ``(..., S)`` whose sum over seeds is 0."""
    return (residuals**2).sum(-1) / (residuals.shape[-1] - 1)


def _from_difference_and_sum(residuals, i, j):
    """Variance and degrees of freedom ``(..., P)`` for P pairs (i, j), as :func:`seed_variance` describes."""
    variants, seeds = residuals.shape[-2:]
    squares = _mean_square(residuals)
    average = squares.mean(-1, keepdims=True)
    # Subtracting the mean of a seed removes 2/V of a variance and adds 1/V of the mean variance of all variants.
    unbiased = variants / (variants - 2) * (squares - average / (variants - 1))
    weights = 1 / (1 + _divide(squares, average, 0))

    def over_others(values, axis):
        return values.sum(axis, keepdims=True) - values.take(i, axis) - values.take(j, axis)

    weight = over_others(weights, -1)
    others = over_others(weights[..., None] * residuals, -2) / weight[..., None]
    excess = 4 * over_others(weights**2 * unbiased, -1) / weight**2
    difference = residuals[..., i, :] - residuals[..., j, :]
    total = residuals[..., i, :] + residuals[..., j, :] - 2 * others

    first, second = _mean_square(difference), np.maximum(_mean_square(total) - excess, 0)
    covariance = (difference * total).sum(-1) / (seeds - 1)
    excess = np.maximum(excess, 0)  # as an unbiased estimate, it can be negative
    variance = first
    for _ in range(2):
        share = _divide(variance**2, variance**2 + (variance + excess) ** 2, 0)  # of the second estimate
        variance = (1 - share) * first + share * second
    uncertainty = ((1 - share) * variance) ** 2 + (share * (variance + excess)) ** 2
    uncertainty += 2 * share * (1 - share) * np.minimum(covariance**2, variance**2)
    return variance, (seeds - 1) * np.clip(_divide(variance**2, uncertainty, 1), 1, 2)


def _divide(numerator, denominator, otherwise):
    """Quotient where the denominator is positive, and the number ``otherwise`` elsewhere."""
    return np.divide(numerator, denominator, where=denominator > 0, out=np.full(numerator.shape, float(otherwise)))


def _variance_from_images(confusion, draws, seed):
    """Variance ``(V, V)`` of each pair's difference that is due to the choice of test images, for any seeds.

    It is the covariance, over resamples of the images, of the differences obtained with two seeds, averaged over all
    pairs of seeds. This equals the variance V_m of the mean difference without the contribution of the interaction of
    images and seeds, which the residuals already contain: V_m − (V_s − V_m) / (S − 1), where V_s is the mean variance
    of the difference with one seed.
    """
    variants, seeds, images = confusion.shape[:3]
    if images == 1:
        return np.zeros((variants, variants))
    scores = _bootstrap(confusion, draws, seed)
    scores = scores - scores.mean(1, keepdims=True)  # keeps the differences, and their precision
    scores = scores - scores.mean(0)
    total = scores.sum(2)
    shared = total.T @ total
    if seeds > 1:
        shared = (shared - np.tensordot(scores, scores, ((0, 2), (0, 2)))) / (seeds * (seeds - 1))
    # The variance over resamples of n images is too small by (n − 1) / n, like a sample variance without Bessel's
    # correction.
    shared = shared / (len(scores) - 1) * images / (images - 1)
    own = np.diagonal(shared)
    return np.maximum(own[:, None] + own - 2 * shared, 0)


def _overlap(confusion):
    """Intersection and union ``(V, S, N, C)`` of classes, or of labels."""
    return overlap(confusion, CLASSES if confusion.ndim == 5 else LABELS)


def _bootstrap(confusion, draws, seed):
    """Dataset mean IoU ``(draws, V, S)`` on resamples of the images, with the same images for every run."""
    rng = np.random.default_rng(seed)
    images = confusion.shape[2]
    counts = [np.moveaxis(part, 2, 0).astype("float64") for part in _overlap(confusion)]  # (N, V, S, C)
    block = max(1, 2**22 // images)  # 32 MiB of weights at a time
    blocks = []
    for start in range(0, draws, block):
        weights = rng.multinomial(images, np.full(images, 1 / images), size=min(block, draws - start))
        blocks.append(_scores(*(np.tensordot(weights.astype("float64"), part, 1) for part in counts)))
    scores = np.concatenate(blocks)
    return scores[np.isfinite(scores).all((1, 2))]  # a resample of only unlabelled images has no score


def _describe(names, scores, significant, confidence):
    """Compute the :class:`Score` of each variant, with rank intervals by Mogstad, Romano, Shaikh and Wilhelm (2024)."""
    variants, seeds = scores.shape
    means = scores.mean(1)
    margins: list[float | None] = [None] * variants
    if seeds > 1:
        quantile = special.stdtrit(seeds - 1, (1 + confidence) / 2)
        margins = (quantile * scores.std(1, ddof=1) / np.sqrt(seeds)).tolist()
    described = []
    for index, (name, margin) in enumerate(zip(names, margins)):
        value = float(means[index])
        better = means > value
        described.append(
            Score(
                name,
                tuple(scores[index].tolist()),
                value,
                None if margin is None else value - margin,
                None if margin is None else value + margin,
                rank=1 + int(better.sum()),
                rank_low=1 + int((significant[index] & better).sum()),
                rank_high=variants - int((significant[index] & ~better).sum()),
            )
        )
    return tuple(described)


def _equal_spread(residuals):
    """P value of the largest share of one variant in the squared residuals (Cochran 1941).

    The residuals of a table are not independent, so Levene's test is wrong for them: with three seeds it almost never
    rejects when based on the median, and too often when based on the mean. The share has no unit, so its distribution
    can be simulated with normally distributed tables.
    """
    variants, seeds = residuals.shape
    if variants < 3 or seeds < 3 or abs(residuals).max() < ROUNDING:
        return None
    shares = _largest_shares(variants, seeds)
    return float((1 + (shares >= _largest_share(residuals)).sum()) / (1 + len(shares)))


def _largest_share(residuals):
    squares = (residuals**2).sum(-1)
    return squares.max(-1) / squares.sum(-1)


@functools.cache
def _largest_shares(variants, seeds):
    tables = np.random.default_rng(0).normal(size=(4999, variants, seeds))
    tables -= tables.mean(1, keepdims=True)
    tables -= tables.mean(2, keepdims=True)
    return _largest_share(tables)


def _points(value):
    return f"{100 * value:.2f} points"
