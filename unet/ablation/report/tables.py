"""The tables of a report as data, and as Markdown; the HTML page renders the same data."""

from dataclasses import dataclass

from unet.ablation.report.results import Summary, Variant

FEW_CLASSES = 6
"""Up to this many classes have a column in the table of scores; more have a table of their own."""


@dataclass(frozen=True)
class Entry:
    """Numbers in one cell of a table, and their format."""

    form: str
    """Format string of the numbers, such as ``"{:,.1f} M"``."""
    values: tuple[float | str, ...] = ()
    interval: tuple[float, float] | None = None
    """Interval of the only number, in the same format."""

    @property
    def text(self) -> str:
        """The formatted numbers, without the interval."""
        return self.form.format(*self.values)

    @property
    def interval_text(self) -> str:
        """The formatted interval, such as ``[56.66, 58.34]``; empty without one."""
        return f"[{', '.join(map(self.form.format, self.interval))}]" if self.interval else ""

    def __str__(self):
        return f"{self.text} {self.interval_text}".rstrip()


@dataclass(frozen=True)
class Row:
    """One variant."""

    entries: tuple[Entry, ...]
    emphasis: str = ""
    """``"baseline"``, ``"tied"`` (with the best) or empty."""


@dataclass(frozen=True)
class Table:
    """Titles and rows; the first column holds names, the others numbers."""

    titles: tuple[str, ...]
    rows: tuple[Row, ...]

    def as_markdown(self) -> str:
        """Lines of a Markdown table."""
        rule = ["---", *["---:"] * (len(self.titles) - 1)]
        rows = [self.titles, rule, *(map(str, row.entries) for row in self.rows)]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def quality(summary: Summary) -> Table:
    """Scores of every variant, best first."""
    first = summary.variants[0]
    pets = [f"pet ({rule.replace('_', ' ')})" for rule in first.pet_iou]
    bands = [f"band {width} px" for width in first.band_accuracy]
    classes = first.iou if len(first.iou) <= FEW_CLASSES else ()
    titles = ["upsampler", "mean IoU", f"minus {summary.baseline}", "p", "rank", *classes, *pets]
    titles += ["Boundary IoU", "pixel accuracy", *bands, "checkerboard"]
    return _table(titles, summary, _quality)


def classes(summary: Summary) -> Table | None:
    """IoU of every class by variant, best first, where the classes are too many for the table of scores."""
    variants = summary.best_first()
    names = list(variants[0].iou)
    if len(names) <= FEW_CLASSES:
        return None
    rows = [(Entry("{}", (name,)), *(Entry("{:.1f}", (100 * one.iou[name],)) for one in variants)) for name in names]
    return Table(("class", *(one.name for one in variants)), tuple(Row(row) for row in rows))


def costs(summary: Summary) -> Table:
    """Costs of every variant, best first."""
    titles = ["upsampler", "parameters", "surplus", "multiply-adds", "surplus"]
    titles += ["training images/s", "peak MiB", "file MiB"]
    for batch, times in summary.variants[0].latency.items():
        images = "1 image" if batch == "1" else f"{batch} images"
        titles += [f"{images}, ms (p95)", *([f"{images}, × {summary.baseline}"] if "ratio" in times else [])]
    return _table(titles, summary, _costs)


def cost_notes(summary: Summary) -> list[str]:
    """What the costs do not show, as sentences."""
    notes = []
    if len({one.multiply_adds for one in summary.variants}) == 1:
        notes.append("All variants have the same number of multiply-adds.")
    if len(summary.fastest) == len(summary.variants):
        notes.append("The times for one image do not differ by more than their 95 % intervals.")
    if summary.variants[0].latency and not summary.fastest:
        notes.append("The times were measured without intervals: small differences may be noise.")
    return notes


def overview(summary: Summary) -> Table:
    """The most important scores and costs of every variant, best first."""
    titles = ["upsampler", "mean IoU, %", f"minus {summary.baseline}", "rank", "parameters", "multiply-adds", "1 image"]
    return _table(titles, summary, _overview)


def _table(titles: list[str], summary: Summary, entries) -> Table:
    def emphasis(one: Variant) -> str:
        return "baseline" if one.name == summary.baseline else "tied" if one.name in summary.tied else ""

    return Table(tuple(titles), tuple(Row(tuple(entries(one)), emphasis(one)) for one in summary.best_first()))


def _quality(one: Variant) -> list[Entry]:
    p = Entry("–") if one.p_holm is None else Entry("{:.3f}", (one.p_holm,))
    ranks = (one.rank_low, one.rank_high)
    classes = one.iou.values() if len(one.iou) <= FEW_CLASSES else ()
    scores = [*classes, *one.pet_iou.values(), one.mean_boundary_iou, one.pixel_accuracy]
    return [
        Entry("{}", (one.name,)),
        mean_iou(one),
        difference(one),
        Entry("<0.001") if one.p_holm is not None and one.p_holm < 0.001 else p,
        Entry("{} ({}–{})", (one.rank, *ranks)) if one.rank_low < one.rank_high else Entry("{}", (one.rank,)),
        *(Entry("{:.1f}", (100 * score,)) for score in [*scores, *one.band_accuracy.values()]),
        Entry("{:.2f} → {:.4f}", (one.checkerboard_initial, one.checkerboard_trained)),
    ]


def _costs(one: Variant) -> list[Entry]:
    return [
        Entry("{}", (one.name,)),
        Entry("{:,}", (one.parameters,)),
        Entry("+{:,}", (one.surplus_parameters,)),
        Entry("{:,.1f} M", (one.multiply_adds / 1e6,)),
        Entry("+{:,.1f} M", (one.surplus_multiply_adds / 1e6,)),
        Entry("{:,.0f}", (one.images_per_second,)),
        Entry("{:,.0f}", (one.peak_memory_mib,)),
        Entry("{:.2f}", (one.file_mib,)),
        *(entry for times in one.latency.values() for entry in _times(times)),
    ]


def _times(times: dict[str, float]) -> list[Entry]:
    """A time, and its ratio to the baseline with its interval if it was measured."""
    time = Entry("{:.1f} ({:.1f})", (times["median_ms"], times["p95_ms"]))
    if "ratio" not in times:
        return [time]
    if times["ratio_low"] == times["ratio_high"] == 1:  # the baseline itself
        return [time, Entry("–")]
    return [time, Entry("{:.2f}", (times["ratio"],), (times["ratio_low"], times["ratio_high"]))]


def _overview(one: Variant) -> list[Entry]:
    return [
        Entry("`{}`", (one.name,)),
        mean_iou(one),
        difference(one),
        Entry("{}–{}", (one.rank_low, one.rank_high)),
        Entry("{:,}", (one.parameters,)),
        Entry("{:.1f} M", (one.multiply_adds / 1e6,)),
        Entry("{:.1f} ms", (one.latency["1"]["median_ms"],)) if one.latency else Entry("–"),
    ]


def mean_iou(one: Variant) -> Entry:
    """Mean IoU in per cent, with its interval."""
    return Entry("{:.2f}", (100 * one.mean_iou,), _points(one.low, one.high))


def difference(one: Variant) -> Entry:
    """Difference from the baseline in percentage points, with its interval; a dash for the baseline."""
    if one.difference is None:
        return Entry("–")
    return Entry("{:+.2f}", (100 * one.difference,), _points(one.difference_low, one.difference_high))


def _points(low: float | None, high: float | None) -> tuple[float, float] | None:
    """An interval of shares, in points."""
    return None if low is None or high is None else (100 * low, 100 * high)
