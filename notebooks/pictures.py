"""Figures of upsampled maps: labelled rows of numbers, panels of maps and photographs, curves and bars.

Boards of numbers are drawn by :mod:`drawing`.
"""

from collections.abc import Sequence
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from drawing import DPI, FAINT, Scene, shades, tint
from IPython.display import Image, display
from keras import ops
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image as Picture

from unet import resample
from unet.colours import PALETTE

ORANGE, BLUE, YELLOW, GREEN, PINK, SKY, RED, BLACK = PALETTE
WIDTH = 900
"""Width of a figure in browser pixels."""
SIGNED = LinearSegmentedColormap.from_list("signed", [RED, ORANGE, "white", SKY, BLUE])
"""Colours from negative through zero to positive."""


def heat(values: Any, low: float = 0.0, high: float = 1.0, colour: str = BLUE) -> list[list[Any]]:
    """A tint for each number, white at ``low``."""
    shares = 0.65 * np.clip((np.asarray(values, "float64") - low) / (high - low), 0, 1)
    return [[tint(colour, share) for share in row] for row in shares]


def shaded(values: Any) -> list[list[Any]]:
    """A colour for each pixel of a small image."""
    return shades(*np.shape(values))


def plain(shape: tuple[int, int], colour: Any) -> list[list[Any]]:
    """One tint for all pixels."""
    return [[tint(colour, 0.6)] * shape[1] for _ in range(shape[0])]


def cells(colours: list[list[Any]]) -> list[list[Any]]:
    """Repeat the colour of each pixel over its 2×2 cell."""
    return [[colour for colour in row for _ in (0, 1)] for row in colours for _ in (0, 1)]


def marked(mask: Any, colours: list[list[Any]] | None = None) -> list[list[Any]]:
    """A colour where ``mask`` is not zero: that of the pixel's 2×2 cell in ``colours``, else orange."""
    own = cells(colours) if colours else plain(np.shape(mask), ORANGE)
    return [[colour if value else None for value, colour in zip(*pair)] for pair in zip(np.asarray(mask), own)]


def copies(colours: list[list[Any]], kernel: np.ndarray, shape: tuple[int, ...]) -> list[list[Any]]:
    """For each pixel of a transposed convolution with stride 2, the colours of the copies that are not zero there."""
    fill: list[list[Any]] = [[[] for _ in range(shape[1])] for _ in range(shape[0])]
    for row, line in enumerate(colours):
        for column, colour in enumerate(line):
            for i, j in np.argwhere(kernel):
                if 2 * row + i < shape[0] and 2 * column + j < shape[1]:
                    fill[2 * row + i][2 * column + j].append(colour)
    return [[found or None for found in line] for line in fill]


def interleaved(fills: list[list[list[Any]]]) -> list[list[Any]]:
    """Interleave the colours of four boards into 2×2 cells."""
    height, width = len(fills[0]), len(fills[0][0])
    return [[fills[2 * (i % 2) + j % 2][i // 2][j // 2] for j in range(2 * width)] for i in range(2 * height)]


def rows_of_numbers(labels: Sequence[str], rows: Any, low: float, high: float, alt: str, cell: float = 0.46) -> None:
    """Draw labelled rows of numbers below each other; the number determines the tint."""
    room, columns = 7.2, len(rows[0])
    scene = Scene(room + columns + 0.4, 1.25 * len(rows) + 0.3, cell)
    for index, (label, row) in enumerate(zip(labels, rows)):
        top = 0.2 + 1.25 * index
        scene.text(room - 0.3, top + 0.5, label, ha="right")
        scene.grid(room, top, [[f"{value:.1f}" for value in row]], heat([row], low, high))
    scene.show(alt)


class Panel(NamedTuple):
    """A map ``(H, W)``, or a photograph ``(H, W, 3)`` with values 0 to 1, with a title and a note below."""

    title: str
    values: np.ndarray
    note: str = ""


def panels(*drawn: Panel, columns: int, alt: str, cell: tuple[int, int] | None = None) -> None:
    """Draw panels in rows; each image pixel is a whole number of screen pixels.

    Maps are coloured from orange (negative) through white (0) to blue (positive), each scaled to its largest value.

    Args:
        columns: Number of panels in a row.
        cell: Row and column of a source pixel whose 2×2 output cell is framed.
    """
    room, above = WIDTH // columns, 24
    below = 26 if any(panel.note for panel in drawn) else 8
    pixel = max((room - 6) // drawn[0].values.shape[1], 1)
    tall, wide = (n * pixel for n in drawn[0].values.shape[:2])
    height = -(-len(drawn) // columns) * (tall + above + below)
    figure = Figure(figsize=(WIDTH / 100, height / 100), dpi=100)
    for index, panel in enumerate(drawn):
        line, column = divmod(index, columns)
        left, top = column * room + (room - wide) // 2, line * (tall + above + below) + above
        axes = figure.add_axes((left / WIDTH, 1 - (top + tall) / height, wide / WIDTH, tall / height))
        if panel.values.ndim == 3:
            axes.imshow(np.clip(panel.values, 0, 1), interpolation="nearest", aspect="auto")
        else:
            largest = float(np.abs(panel.values).max()) or 1.0
            axes.imshow(panel.values, SIGNED, vmin=-largest, vmax=largest, interpolation="nearest", aspect="auto")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color(FAINT)
        axes.set_title(panel.title, fontsize=8.5 if columns > 4 else 9.5, pad=4)
        axes.set_xlabel(panel.note, fontsize=9, labelpad=4)
        if cell:
            corner = (2 * cell[1] - 0.5, 2 * cell[0] - 0.5)
            axes.add_patch(Rectangle(corner, 2, 2, fill=False, edgecolor=BLACK, linewidth=1.2))
    show(figure, alt, 100)


def positions(size: int) -> None:
    """Draw where bilinear interpolation samples for 2·size output pixels, for both values of align_corners."""
    figure = Figure(figsize=(9, 2.3), dpi=DPI)
    axes = figure.add_axes((0.2, 0.2, 0.78, 0.76))
    for pixel in range(size):
        axes.add_patch(Rectangle((pixel - 0.5, -0.5), 1, 3.0, facecolor=tint(SKY, 0.3), edgecolor="white", linewidth=3))
        axes.plot([pixel], [2], "o", color=BLUE, markersize=9)
    for line, (corners, colour) in enumerate(((True, RED), (False, ORANGE))):
        at = ops.convert_to_numpy(resample.scale_positions(size, 2 * size, corners))
        axes.plot(np.clip(at, 0, size - 1), np.full(2 * size, line), "D", color=colour, markersize=6)
        outside = (at < 0) | (at > size - 1)
        axes.plot(at[outside], np.full(int(outside.sum()), line), "D", mfc="none", color=colour, markersize=6)
    axes.set(xlim=(-0.55, size - 0.45), ylim=(-0.5, 2.5), xlabel="position in source pixels", xticks=range(size))
    axes.set_yticks([2, 1, 0], ["source pixels", "align_corners=False", "align_corners=True"])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    show(figure, "Source positions of the target pixels for align_corners False and True")


def kernels_and_steps(kernels: dict[str, np.ndarray], steps: dict[str, np.ndarray], distances: np.ndarray) -> None:
    """Draw interpolation kernels over distance, and their response to a step from 0 to 1."""
    figure = Figure(figsize=(9, 3.0), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2)
    colours, markers, lines = (BLACK, BLUE, ORANGE, RED), ("s", "o", "^", "v"), ("-", "-", "--", ":")
    styles = dict(zip(steps, zip(colours, markers, lines)))
    for name, weights in kernels.items():
        colour, _, line = styles[name]
        left.plot(distances, weights, line, color=colour, label=name)
    left.set(xlabel="distance in source pixels", ylabel="weight", title="kernel")
    for name, values in steps.items():
        colour, marker, line = styles[name]
        at = (np.arange(len(values)) + 0.5) / 2 - 0.5
        right.plot(at, values, line, marker=marker, color=colour, label=name, markersize=4, linewidth=1.2)
    right.set(xlabel="position in source pixels", ylabel="value", title="0 0 0 0 1 1 1 1, enlarged ×2")
    right.legend(frameon=False, fontsize=8.5)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    show(figure, "Linear and cubic kernels, and their response to a step")


class Bars(NamedTuple):
    """A chart of horizontal bars; ``low`` and ``high`` are the ends of a line over each bar."""

    title: str
    label: str
    values: Sequence[float]
    texts: Sequence[str]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


def bars(
    names: Sequence[str], *charts: Bars, alt: str, log: bool = False, line: tuple[float, str] | None = None
) -> None:
    """Draw charts of horizontal bars with their values side by side, with names on the left.

    Args:
        log: Whether the axis is logarithmic; zero then has no bar.
        line: Value and name of a vertical line in each chart.
    """
    figure = Figure(figsize=(9, 0.25 * len(names) + 0.9), dpi=DPI, layout="constrained")
    grid = figure.subplots(1, len(charts), sharey=True, squeeze=False)[0]
    for axes, chart, colour in zip(grid, charts, (BLUE, ORANGE)):
        values = np.asarray(chart.values, "float64")
        low, high = (values if ends is None else np.asarray(ends) for ends in (chart.low, chart.high))
        lowest = 10 ** np.floor(np.log10(values[values > 0].min())) if log else 0.0
        axes.barh(range(len(names)), np.maximum(values, lowest), color=tint(colour, 0.7))
        axes.hlines(range(len(names)), low, high, color=BLACK, linewidth=1.2)
        for index, text in enumerate(chart.texts):
            at = (max(high[index], lowest), index)
            note = axes.annotate(text, at, (4, 0), textcoords="offset points", va="center", fontsize=9)
            note.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.8})
        if log:
            axes.set_xscale("log")
            axes.set_xlim(lowest, values.max() ** 1.18 / lowest**0.18)
        else:
            axes.set_xlim(0, 1.2 * high.max())
        if line:
            axes.axvline(line[0], color=BLACK, linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(
                line[1], (line[0], 0), (-4, 0), textcoords="offset points", ha="right", va="center", fontsize=9
            )
        axes.set(xlabel=chart.label, title=chart.title, ylim=(len(names) - 0.4, -0.6))
        axes.set_yticks(range(len(names)), names)
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    show(figure, alt)


def show(figure: Figure, alt: str, dpi: int = DPI) -> None:
    """Display the figure below the cell at 100 browser pixels per inch."""
    buffer, smaller = BytesIO(), BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    picture = Picture.open(buffer).convert("RGB")
    picture.quantize(256, dither=Picture.Dither.NONE).save(smaller, "PNG", optimize=True)
    display(Image(smaller.getvalue(), format="png", width=round(figure.get_figwidth() * 100), alt=alt))
