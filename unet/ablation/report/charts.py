"""The charts of a report; each function returns a figure that the caller saves."""

import math

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from unet.ablation.report.results import Summary, Variant, pareto_front
from unet.colours import PALETTE
from unet.figures import STYLE

BLUE, ORANGE, GREY = PALETTE[1], PALETTE[6], "#7F7F7F"
"""Variants tied with the best; the baseline; everything else. The style sheet of the HTML page adapts them."""

WIDTH = 5.2
"""Width in inches, chosen so that the text is readable on a telephone and in a README."""

CAPTIONS = {
    "score_by_cost": "Mean IoU against cost: up is better, left is cheaper. The dashed line is the Pareto front of the "
    "points: none is both better and cheaper than those on it. Bars: 95 % intervals of the paired differences from the "
    "baseline (orange), which has none.",
    "differences": "Paired difference from the baseline with its 95 % interval over seeds and test images; filled: "
    "p < 0.05 after Holm's correction. A single comparison of this design can rarely show differences within the grey "
    "band.",
    "learning": "Validation mean IoU by epoch: mean and range over seeds; all other variants in grey.",
    "checkerboards": "The pattern that each trained network produces on an image of one colour, where there should be "
    "none: amplitude by frequency. The number is the pattern's share of the response. Bright edges are patterns with a "
    "period of two pixels.",
}


def score_by_cost(summary: Summary) -> Figure | None:
    """Mean IoU against inference time and against multiply-adds, with Pareto fronts.

    A bar is the interval of the paired difference from the baseline, so that the baseline has none. A cost that does
    not differ between variants is left out; if none differs, there is no figure.
    """
    panels: list = []
    if all(variant.latency for variant in summary.variants) and len(summary.fastest) < len(summary.variants):
        where = summary.made["latency_device"]
        if summary.fastest:
            times = summary.variant(summary.baseline).latency["1"]
            label = f"inference, one image, relative to {summary.baseline} ({times['median_ms']:.3g} ms)\n{where}"
            panels.append((label, lambda v: [v.latency["1"][key] for key in ("ratio", "ratio_low", "ratio_high")]))
        else:
            panels.append(
                (
                    f"inference, one image (ms, without intervals)\n{where}",
                    lambda v: _exact(v.latency["1"]["median_ms"]),
                )
            )
    if len({variant.multiply_adds for variant in summary.variants}) > 1:
        panels.append(("multiply-adds per image (millions)", lambda v: _exact(v.multiply_adds / 1e6)))
    if not panels:
        return None
    with matplotlib.rc_context(STYLE):
        height = 0.9 + max(2.6, 0.26 * len(summary.variants))
        figure = Figure((WIDTH, height * len(panels)), layout="constrained")
        axes = figure.subplots(len(panels), 1, squeeze=False)
        for panel, (label, cost) in zip(axes.flat, panels):
            _scatter(panel, summary, cost)
            panel.set(xlabel=label, ylabel="test mean IoU (%)")
    return figure


def differences(summary: Summary) -> Figure:
    """Forest plot: the difference of each variant from the baseline, with its interval."""
    others = sorted(
        (variant for variant in summary.variants if variant.difference is not None), key=lambda v: v.mean_iou
    )
    with matplotlib.rc_context(STYLE):
        figure = Figure((WIDTH, 1.1 + 0.3 * len(others)), layout="constrained")
        axes = figure.subplots()
        axes.axvline(0, color=GREY, linewidth=1)
        reach = 100 * summary.detectable
        axes.axvspan(-reach, reach, color=GREY, alpha=0.15, linewidth=0)
        for row, variant in enumerate(others):
            ends = (variant.difference, variant.difference_low, variant.difference_high)
            value, low, high = (100 * float(end or 0) for end in ends)
            p = float(variant.p_holm or 0)
            significant = p < 0.05
            colour = _colour(summary, variant)
            axes.plot([low, high], [row, row], color=colour, linewidth=2)
            axes.plot(value, row, "o", color=colour, markerfacecolor=colour if significant else "none", markersize=6)
            note = f"{value:+.2f}   p {_p(p)}"
            axes.text(1.02, row, note, transform=axes.get_yaxis_transform(), va="center", fontsize=9)
        axes.set_yticks(range(len(others)), [variant.name for variant in others])
        axes.set_ylim(-0.7, len(others) - 0.3)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"mean IoU minus that of {summary.baseline} (points), 95 % interval")
    return figure


def learning(summary: Summary) -> Figure | None:
    """Validation mean IoU by epoch: one panel for each variant, with the range over seeds and all others in grey.

    ``None`` if a run has less than two epochs with validation.
    """
    if min(len(curve) for variant in summary.variants for curve in variant.learning) < 2:
        return None
    columns = 3
    rows = math.ceil(len(summary.variants) / columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure((WIDTH, 0.5 + 1.35 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        curves = {variant.name: _curve(variant) for variant in summary.variants}
        everything = np.concatenate([curve.ravel() for curve in curves.values()])
        for panel, variant in zip(axes.flat, summary.variants):
            for other in summary.variants:
                mean = curves[other.name].mean(0)
                panel.plot(np.arange(1, len(mean) + 1), mean, color=GREY, alpha=0.35, linewidth=0.7)
            curve, colour = curves[variant.name], _colour(summary, variant)
            epochs = np.arange(1, curve.shape[1] + 1)
            panel.fill_between(epochs, curve.min(0), curve.max(0), color=colour, alpha=0.3, linewidth=0)
            panel.plot(epochs, curve.mean(0), color=colour, linewidth=1.6)
            panel.set_title(variant.name, fontsize=9)
            panel.xaxis.get_major_locator().set_params(integer=True)
        low, high = np.nanpercentile(everything, 5), np.nanmax(everything)
        axes.flat[0].set_ylim(low - 0.1 * (high - low), high + 0.05 * (high - low))
        _hide_unused(axes, len(summary.variants))
        figure.supxlabel("epoch", fontsize=10)
        figure.supylabel("validation mean IoU", fontsize=10)
    return figure


def checkerboards(summary: Summary, spectra: dict[str, np.ndarray]) -> Figure:
    """Spectrum of the pattern that each trained network produces on an image of one colour.

    Args:
        summary: Supplies the number above each panel.
        spectra: Result of :func:`unet.checkerboard.harmonics` by variant, in the order of the panels.
    """
    columns = 4
    rows = math.ceil(len(spectra) / columns)
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure((WIDTH, 0.9 + 1.75 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        for panel, (name, spectrum) in zip(axes.flat, spectra.items()):
            decibels = 20 * np.log10(np.maximum(spectrum, 1e-6))
            period = len(spectrum)
            extent = (-0.5 - 0.5 / period, 0.5 - 0.5 / period, 0.5 - 0.5 / period, -0.5 - 0.5 / period)
            image = panel.imshow(decibels, cmap="viridis", vmin=-80, vmax=-10, extent=extent, interpolation="nearest")
            trained = summary.variant(name).checkerboard_trained
            panel.set_title(f"{name}\n{trained:.1%}", fontsize=8.5)
            panel.set(xticks=[-0.5, 0, 0.5], yticks=[-0.5, 0, 0.5])
            panel.tick_params(labelsize=8)
            panel.label_outer()
        _hide_unused(axes, len(spectra))
        figure.supxlabel("cycles per pixel, across", fontsize=9)
        figure.supylabel("cycles per pixel, down", fontsize=9)
        bar = figure.colorbar(image, ax=axes, label="amplitude (dB of the whole response)", shrink=0.8, location="top")
        bar.outline.set_visible(False)
    return figure


def _hide_unused(axes, count: int) -> None:
    """Hide all panels but the first ``count``, and label the ticks of the panels above them."""
    columns = axes.shape[1]
    for index in range(count, axes.size):
        axes.flat[index].set_visible(False)
        axes.flat[index - columns].tick_params(labelbottom=True)


def _scatter(axes, summary: Summary, cost) -> None:
    """Points with intervals, labels in the right margin, and the Pareto front.

    ``cost`` gives the cost of a variant and the ends of its interval.
    """
    variants = sorted(summary.variants, key=lambda v: v.mean_iou)
    costs = [cost(variant) for variant in variants]
    values = [value for value, _, _ in costs]
    for variant, (x, *bar) in zip(variants, costs):
        colour = _colour(summary, variant)
        if variant.difference is not None:
            base = variant.mean_iou - variant.difference
            ends = [100 * (base + float(end or 0)) for end in (variant.difference_low, variant.difference_high)]
            axes.plot([x, x], ends, color=colour, alpha=0.55, linewidth=1.4)
        axes.plot(bar, [100 * variant.mean_iou] * 2, color=colour, alpha=0.55, linewidth=1.4)
        axes.plot(x, 100 * variant.mean_iou, "o", color=colour, markersize=6, zorder=3)
    front = sorted({(values[index], 100 * variants[index].mean_iou) for index in pareto_front(variants, values)})
    xs = [front[0][0], *(x for x, _ in front[1:] for _ in (0, 1)), max(values)]
    ys = [y for _, y in front for _ in (0, 1)]
    axes.plot(xs, ys, color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.set_xlim(0)
    low, high = axes.get_ylim()
    places = _spread([100 * variant.mean_iou for variant in variants], low, high)
    for variant, x, place in zip(variants, values, places):
        axes.annotate(
            variant.name,
            (x, 100 * variant.mean_iou),
            (1.03, place),
            textcoords=axes.get_yaxis_transform(),
            fontsize=9,
            va="center",
            color=_colour(summary, variant),
            arrowprops={
                "arrowstyle": "-",
                "color": GREY,
                "alpha": 0.4,
                "linewidth": 0.7,
                "shrinkB": 4,
                "relpos": (0, 0.5),
            },
        )
    axes.set_ylim(low, high)


def _spread(values: list[float], low: float, high: float) -> list[float]:
    """Heights of labels for ascending ``values``, moved apart so that they do not overlap."""
    gap = (high - low) / max(len(values), 1)
    places: list[float] = []
    for index, value in enumerate(values):
        below = places[-1] + gap if places else low + gap / 2
        above = high - gap / 2 - gap * (len(values) - 1 - index)
        places.append(min(max(value, below), above))
    return places


def _exact(value: float) -> tuple[float, float, float]:
    """A value and the ends of its interval, which has no width."""
    return value, value, value


def _colour(summary: Summary, variant: Variant) -> str:
    if variant.name == summary.baseline:
        return ORANGE
    return BLUE if variant.name in summary.tied else GREY


def _curve(variant: Variant) -> np.ndarray:
    """Validation mean IoU ``(seeds, epochs)``, cut to the epochs that all seeds have."""
    length = min(len(curve) for curve in variant.learning)
    return np.array([curve[:length] for curve in variant.learning])


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"
