"""Figures of convolution arithmetic: pixels as squares with numbers, coloured by where each number comes from.

Every figure is a :class:`Scene`, a sheet measured in pixels of the drawn image, so that its squares have one size.
The functions below it draw what their arguments say: change a kernel or a stride and run the cell again.
"""

from collections.abc import Sequence
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from IPython.display import Image, display
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike
from PIL import Image as Picture
from PIL import ImageOps

from unet import arithmetic
from unet.colours import PALETTE

ORANGE, BLUE, YELLOW, GREEN, PINK, SKY, RED, BLACK = PALETTE
LINE, FAINT, ZERO = "#606060", "#B0B0B0", "#EDEDED"
"""Edges of pixels, edges of absent pixels, fill of padding zeros."""
WIDEST = 9.0
"""Largest width of a figure in inches; 900 pixels in a browser."""
DPI = 150
MARGIN = 12
"""Width of the white margin around a figure, in pixels."""


def tint(colour: Any, share: float) -> tuple[float, ...]:
    """Mix a colour with white; ``share`` 1 is the colour itself."""
    return tuple(1 - share * (1 - value) for value in to_rgb(colour))


def shades(height: int, width: int) -> list[list[Any]]:
    """Colours for the cells of a small grid: distinct hues for up to five, else hue by row and lightness by column."""
    hues = [ORANGE, SKY, GREEN, PINK, YELLOW]
    if height * width <= len(hues):
        return [[tint(hues[row * width + column], 0.6) for column in range(width)] for row in range(height)]
    steps = np.linspace(0.8, 0.25, width)
    return [[tint(hues[row % len(hues)], step) for step in steps] for row in range(height)]


def written(value: Any) -> str:
    """Format a number without trailing zeros and with a proper minus sign; leave a text unchanged."""
    return value if isinstance(value, str) else f"{value:.3g}".replace("-", "−")


class Scene:
    """A sheet measured in pixels of the drawn image: ``width`` × ``height``, x to the right, y downwards."""

    def __init__(self, width: float, height: float, cell: float = 0.36):
        cell = min(cell, WIDEST / width)
        self.cell = cell
        self.figure = Figure(figsize=(width * cell, height * cell), dpi=DPI)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(height, 0))
        self.axes.set_axis_off()

    def text(self, x: float, y: float, text: str, size: float = 9.5, **options: Any) -> None:
        """Draw text centred on a point."""
        placed: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": size} | options
        self.axes.text(x, y, text, **placed)

    def grid(
        self, x: float, y: float, values: Any, fill: Any = None, edge: Any = LINE, title: str = "", note: str = ""
    ):
        """Draw a board of squares with its top left corner at (x, y).

        Args:
            values: Rows of numbers or texts, one per square.
            fill: Rows of colours; a list of colours is drawn as stripes, ``None`` is white.
            title: Text above the board.
            note: Text below it.
        """
        rows, columns = len(values), len(values[0])
        longest = max(len(written(value)) for row in values for value in row)
        size = min(10.0, 72 * self.cell * 0.36, 72 * self.cell * 1.25 / max(longest, 1))
        for row in range(rows):
            for column in range(columns):
                colours = fill[row][column] if fill is not None else None
                stripes = colours if isinstance(colours, list) else [colours or "white"]
                for index, colour in enumerate(stripes or ["white"]):
                    part = 1 / max(len(stripes), 1)
                    self.box(x + column + index * part, y + row, part, 1, facecolor=colour, linewidth=0)
                self.box(x + column, y + row, 1, 1, fill=False, edgecolor=edge, linewidth=0.8)
                self.text(x + column + 0.5, y + row + 0.53, written(values[row][column]), size)
        if title:
            self.text(x + columns / 2, y - 0.25, title, va="bottom")
        if note:
            self.text(x + columns / 2, y + rows + 0.25, note, va="top")

    def frame(self, x: float, y: float, width: float, height: float, colour: Any = BLACK, **options: Any) -> None:
        """Draw an outline around squares."""
        self.box(x, y, width, height, **({"fill": False, "edgecolor": colour, "linewidth": 2.2, "zorder": 5} | options))

    def cross_out(self, x: float, y: float) -> None:
        """Draw an unused square."""
        self.box(x, y, 1, 1, facecolor="white", edgecolor=FAINT, hatch="xxxx", linewidth=0.8)

    def arrow(self, x: float, y: float, length: float, text: str = "", down: float = 0.0, colour: Any = BLACK) -> None:
        """Draw an arrow from (x, y) by ``length`` to the right and ``down``, with text above it."""
        style = {"arrowstyle": "-|>", "linewidth": 1.3, "color": colour, "shrinkA": 0, "shrinkB": 0}
        self.axes.annotate("", (x + length, y + down), (x, y), arrowprops=style)
        self.text(x + length / 2, y - 0.25, text, va="bottom")

    def show(self, alt: str) -> None:
        """Display the figure below the cell; ``alt`` describes it for readers who cannot see it."""
        buffer, smaller = BytesIO(), BytesIO()
        self.figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight")
        picture = Picture.open(buffer).convert("RGB")
        picture = ImageOps.expand(picture.crop(ImageOps.invert(picture).getbbox()), MARGIN, "white")
        picture = picture.quantize(128, dither=Picture.Dither.NONE)
        picture.save(smaller, "PNG", optimize=True)
        display(Image(smaller.getvalue(), format="png", width=picture.width * 100 // DPI, alt=alt))

    def box(self, x: float, y: float, width: float, height: float, **options: Any) -> None:
        """Draw a rectangle."""
        self.axes.add_patch(Rectangle((x, y), width, height, **options))


def boards(*items: Any, alt: str, cell: float = 0.36, fills: Sequence[Any] = (), notes: Sequence[str] = ()) -> None:
    """Draw boards and symbols in a row: ``("title", array)`` is a board, a plain text is the symbol between two."""
    shapes = [None if isinstance(item, str) else np.shape(item[1]) for item in items]
    sizes = [max(1.6, 0.36 * len(item)) if shape is None else shape[1] for item, shape in zip(items, shapes)]
    tall = max(shape[0] for shape in shapes if shape)
    scene = Scene(sum(sizes) + 0.7 * (len(items) - 1) + 1, tall + 2.6, cell)
    x, board = 0.5, 0
    for item, shape, size in zip(items, shapes, sizes):
        if shape is None:
            scene.text(x + size / 2, 1.3 + tall / 2, item, 13)
        else:
            fill = fills[board] if board < len(fills) else None
            note = notes[board] if board < len(notes) else ""
            scene.grid(x, 1.3 + (tall - shape[0]) / 2, item[1], fill, title=item[0], note=note)
            board += 1
        x += size + 0.7
    scene.show(alt)


def encoder_decoder(sizes: Sequence[int], channels: Sequence[int]) -> None:
    """Draw the feature maps of a U-Net, with heights in proportion to their sizes, and the skip connections."""
    scene = Scene(26, 9.2)
    depth, y = len(sizes), 1.7
    steps = [*range(depth), *range(depth - 2, -1, -1)]
    lefts = np.linspace(1, 23.4, len(steps))
    for index, (step, left) in enumerate(zip(steps, lefts)):
        tall = 6 * sizes[step] / sizes[0]
        down = index < depth
        colour = tint(BLUE if down else ORANGE, 0.55)
        scene.box(left, y, 1.5, tall, facecolor=colour, edgecolor=LINE, linewidth=1)
        scene.text(left + 0.75, y + tall + 0.2, f"{sizes[step]}×{sizes[step]}\n{channels[step]} channels", va="top")
        if index:
            name = "pool\n2×2" if down else "upsample\n×2"
            scene.arrow(lefts[index - 1] + 1.7, y + 0.75, left - lefts[index - 1] - 1.9)
            scene.text((lefts[index - 1] + left + 1.5) / 2, y + 1.05, name, va="top")
        if step < depth - 1 and down:
            height = 0.55 + 0.5 * (depth - 2 - step)
            other = lefts[len(steps) - 1 - index] + 0.75
            scene.axes.plot([left + 0.75, left + 0.75, other], [y, y - height, y - height], color=GREEN, linewidth=1.3)
            scene.arrow(other, y - height, 0, down=height, colour=GREEN)
    scene.text(13, 0.3, "skip connections: the encoder's maps, concatenated", color=GREEN)
    scene.text(7.2, 7.2, "encoder", 12, color=BLUE, weight="bold")
    scene.text(18.8, 7.2, "decoder", 12, color=RED, weight="bold")
    scene.show("Feature maps of an encoder-decoder network, shrinking by pooling and growing by upsampling")


def sliding_window(x: ArrayLike, kernel: ArrayLike) -> None:
    """Draw a kernel sliding over an image without padding; each window has the colour of its output pixel."""
    x, kernel = np.asarray(x), np.asarray(kernel)
    y = arithmetic.convolve(x, kernel)
    colours = shades(*y.shape)
    across, reach = x.shape[1] + 1.2, kernel.shape[1]
    scene = Scene(reach + 1.6 + y.size * across + y.shape[1] + 1, x.shape[0] + 3)
    middle = 1.4 + x.shape[0] / 2
    scene.grid(0.5, middle - len(kernel) / 2, kernel, title="kernel")
    left = reach + 1.7
    for row, column in np.ndindex(y.shape):
        fill: list[list[Any]] = [[None] * x.shape[1] for _ in range(x.shape[0])]
        for i, j in np.ndindex(kernel.shape):
            fill[row + i][column + j] = colours[row][column]
        note = f"sum: {written(y[row, column])}"
        scene.grid(left, 1.4, x, fill, title=f"window ({row}, {column})", note=note)
        scene.frame(left + column, 1.4 + row, reach, len(kernel))
        left += across
    scene.grid(left + 0.3, middle - y.shape[0] / 2, y, colours, title="output")
    scene.show("A kernel at its positions over an image, and the output")


def weight_names(kernel_size: int) -> np.ndarray:
    """Numbers 1, 2, … in place of the weights of a kernel, to show which weight appears where in a matrix."""
    return np.arange(1, kernel_size**2 + 1).reshape(kernel_size, kernel_size)


class Matrix(NamedTuple):
    """A matrix to be drawn, whose entries are numbers from :func:`weight_names`."""

    title: str
    entries: np.ndarray
    rows: tuple[int, int]
    """Height and width of the image whose pixels are the rows."""
    columns: tuple[int, int]
    wrong: np.ndarray | None = None
    """Entries to outline."""


def matrices(*drawn: Matrix, kernel_size: int, alt: str, below: bool = False, cell: float = 0.36) -> None:
    """Draw convolution matrices; colour and name of an entry show its weight, row and column labels show the pixels.

    Args:
        below: Whether to arrange them vertically.
    """
    colours = shades(kernel_size, kernel_size)
    lefts, tops, left, top = [], [], 2.0, 2.2
    for matrix in drawn:
        lefts.append(left)
        tops.append(top)
        rows, columns = matrix.entries.shape
        left, top = (left, top + rows + 2.8) if below else (left + columns + 3.2, top)
    width = max(x + m.entries.shape[1] for x, m in zip(lefts, drawn)) + 0.4
    height = max(y + m.entries.shape[0] for y, m in zip(tops, drawn)) + 0.4
    scene = Scene(width, height, cell)
    for matrix, left, top in zip(drawn, lefts, tops):
        entries = matrix.entries.astype(int)
        position = [[divmod(entry - 1, kernel_size) for entry in row] for row in entries]
        texts = [["" if r < 0 else f"w{r}{c}" for r, c in row] for row in position]
        fill = [[None if r < 0 else colours[r][c] for r, c in row] for row in position]
        scene.grid(left, top, texts, fill, edge=FAINT)
        for index, (r, c) in enumerate(np.ndindex(matrix.rows)):
            scene.text(left - 0.2, top + index + 0.5, f"{r},{c}", 7.5, ha="right", color=LINE)
        for index, (r, c) in enumerate(np.ndindex(matrix.columns)):
            scene.text(left + index + 0.5, top - 0.2, f"{r},{c}", 7.5, va="bottom", color=LINE)
        if matrix.wrong is not None:
            for r, c in np.argwhere(matrix.wrong):
                scene.frame(left + c + 0.06, top + r + 0.06, 0.88, 0.88, RED, linewidth=1.8)
        scene.text(left + entries.shape[1] / 2, top - 1.0, matrix.title, va="bottom")
    scene.show(alt)


class Windows(NamedTuple):
    """A convolution or pooling of a square image, drawn by its windows."""

    title: str
    size: int
    kernel_size: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    ceil: bool = False


def windows(*drawn: Windows, alt: str) -> None:
    """Draw the positions of windows: the first in orange, the next to the right in blue; unused pixels are crossed out.

    Rounded up, the last window is drawn too, in green.
    """
    sides = []
    for w in drawn:
        o = arithmetic.pool_size(*w[1:]) if w.ceil else arithmetic.conv_size(*w[1:6])
        reach = arithmetic.extent(w.kernel_size, w.dilation)
        sides.append((o, reach, max(w.size + 2 * w.padding, (o - 1) * w.stride + reach)))
    room = [max(side, 4.4) for *_, side in sides]
    tall = max(side for *_, side in sides)
    scene = Scene(sum(room) + 1.2 * (len(drawn) - 1) + 1, tall + 4.2)
    x = 0.5
    for w, (o, reach, side), width in zip(drawn, sides, room):
        left, top = x + (width - side) / 2, 2.3
        starts = [np.arange(o) * w.stride]
        taps = w.dilation * np.arange(w.kernel_size)
        used = np.isin(np.arange(side), np.add.outer(starts[0], taps))
        first, second = np.isin(np.arange(side), taps), np.isin(np.arange(side), taps + w.stride) & (o > 1)
        for row, column in np.ndindex(side, side):
            inside = all(w.padding <= value < w.padding + w.size for value in (row, column))
            beyond = max(row, column) >= w.size + 2 * w.padding
            chosen = [ORANGE] * int(first[row] and first[column]) + [SKY] * int(first[row] and second[column])
            if not ((used[row] and used[column]) or beyond):
                scene.cross_out(left + column, top + row)
                continue
            fill: Any = [tint(colour, 0.6 if inside else 0.35) for colour in chosen]
            fill = fill or ("white" if inside or beyond else ZERO)
            text = "" if inside or beyond else "0"
            scene.grid(left + column, top + row, [[text]], [[fill]], edge=LINE if inside else FAINT)
        scene.frame(left + w.padding, top + w.padding, w.size, w.size, BLACK, linewidth=1.3)
        scene.frame(left + 0.07, top + 0.07, reach - 0.14, reach - 0.14, ORANGE)
        if o > 1:
            scene.frame(left + w.stride + 0.07, top + 0.16, reach - 0.14, reach - 0.32, BLUE, linestyle=(0, (3, 1.5)))
        if w.ceil:
            last = (o - 1) * w.stride + 0.07
            scene.frame(left + last, top + last, reach - 0.14, reach - 0.14, GREEN, linestyle=(0, (1, 1)))
        middle = x + width / 2
        scene.text(middle, top - 0.25, w.title, va="bottom")
        scene.text(middle, top + side + 0.25, f"i = {w.size} → o = {o}", va="top", weight="bold")
        x += width + 1.2
    scene.show(alt)


class Transposed(NamedTuple):
    """Parameters of a transposed convolution besides its kernel size."""

    stride: int = 1
    padding: int = 0
    output_padding: int = 0
    dilation: int = 1


def overlap_add(x: ArrayLike, kernel: ArrayLike, stride: int = 1) -> None:
    """Draw each pixel of x times the kernel on its own board, and the sum with stripes in the colours of the copies."""
    x, kernel = np.asarray(x), np.asarray(kernel)
    colours = shades(*x.shape)
    parts = []
    for pixel in np.ndindex(x.shape):
        alone = np.zeros(x.shape)
        alone[pixel] = 1
        parts.append((pixel, arithmetic.transpose_by_overlap_add(alone, np.ones(kernel.shape), stride) > 0))
    tall, wide = parts[0][1].shape
    width = x.size * wide + (x.size - 1) * 1.2 + 1
    scene = Scene(width, 2 * tall + 5)
    left = 0.5
    for index, (pixel, covered) in enumerate(parts):
        texts = np.full(covered.shape, "", object)
        texts[covered] = [written(value) for value in (x[pixel] * kernel).ravel()]
        fill = [[colours[pixel[0]][pixel[1]] if c else None for c in row] for row in covered]
        title = f"pixel ({pixel[0]}, {pixel[1]}):\n{written(x[pixel])} · kernel"
        scene.grid(left, 2, texts, fill, edge=FAINT, title=title)
        scene.frame(left + pixel[1] * stride, 2 + pixel[0] * stride, kernel.shape[1], kernel.shape[0], linewidth=1.5)
        if index:
            scene.text(left - 0.6, 2 + tall / 2, "+", 14)
        left += wide + 1.2
    y = arithmetic.transpose_by_overlap_add(x, kernel, stride)
    top = tall + 3.8
    middle = top + tall / 2
    left = width / 2 - (x.shape[1] + kernel.shape[1] + wide + 5.6) / 2
    scene.grid(left, middle - x.shape[0] / 2, x, colours, title="input")
    left += x.shape[1] + 1.8
    scene.grid(left, middle - kernel.shape[0] / 2, kernel, title="kernel")
    left += kernel.shape[1] + 1
    scene.arrow(left, middle, 1.8, "sum")
    scene.grid(left + 2.8, top, y, _shares(x.shape, kernel.shape, Transposed(stride)), title="output")
    scene.show("Copies of the kernel, one for each input pixel, and their sum")


def _shares(shape: tuple[int, ...], kernel_shape: tuple[int, ...], parameters: Transposed) -> list[list[list[Any]]]:
    """For each pixel of the full output, the colours of the input pixels that contribute to it."""
    colours = shades(*shape)
    full = parameters._replace(padding=0, output_padding=0)
    matrix = arithmetic.conv_transpose_matrix(np.ones(kernel_shape), (shape[0], shape[1]), *full) > 0
    size = [arithmetic.conv_transpose_size(n, k, *full) for n, k in zip(shape, kernel_shape)]
    flat = [colour for row in colours for colour in row]
    cells = [[flat[index] for index in np.flatnonzero(row)] for row in matrix]
    return [cells[row * size[1] : (row + 1) * size[1]] for row in range(size[0])]


def crops(x: ArrayLike, kernel: ArrayLike, *drawn: Transposed, alt: str) -> None:
    """Draw the full overlap-add, with a black frame around the part that padding and output padding keep."""
    x, kernel = np.asarray(x), np.asarray(kernel)
    boards = []
    for parameters in drawn:
        full = parameters._replace(padding=0, output_padding=0)
        y = arithmetic.transpose_by_overlap_add(x, kernel, *full)
        kept = arithmetic.transpose_by_overlap_add(x, kernel, *parameters).shape
        boards.append((parameters, y, _shares(x.shape, kernel.shape, parameters), kept))
    beyond = [max(p.output_padding - p.padding, 0) for p in drawn]
    room = [max(y.shape[1] + more, 6) for (_, y, *_), more in zip(boards, beyond)]
    tall = max(y.shape[0] + more for (_, y, *_), more in zip(boards, beyond))
    letters = {"stride": "s", "padding": "p", "output_padding": "op", "dilation": "d"}
    shown = [name for name in letters if name == "stride" or len({getattr(p, name) for p in drawn}) > 1]
    scene = Scene(sum(room) + 1.4 * (len(boards) - 1) + 1, tall + 4.2)
    left = 0.5
    for (p, y, fill, kept), width, more in zip(boards, room, beyond):
        top, first = 1.5, p.padding
        x0 = left + (width - y.shape[1] - more) / 2
        inside = np.zeros(y.shape, bool)
        inside[first : first + kept[0], first : first + kept[1]] = True
        for row, column in np.argwhere(~inside):
            fill[row][column] = []
        texts = np.where(inside, np.vectorize(written)(y), "")
        scene.grid(x0, top, texts, [[stripes or ZERO for stripes in row] for row in fill], edge=FAINT)
        for row, column in np.argwhere(~inside):
            scene.cross_out(x0 + column, top + row)
        for row, column in np.ndindex(kept):  # output padding beyond all kernel copies
            if first + row >= y.shape[0] or first + column >= y.shape[1]:
                scene.grid(x0 + first + column, top + first + row, [["0"]], [[ZERO]], edge=FAINT)
        scene.frame(x0 + first, top + first, kept[1], kept[0])
        title = ", ".join(f"{letters[name]} = {getattr(p, name)}" for name in shown)
        scene.text(left + width / 2, top - 0.25, title, va="bottom")
        note = f"i = {len(x)} → o = {kept[0]}"
        scene.text(left + width / 2, top + y.shape[0] + more + 0.25, note, va="top", weight="bold")
        left += width + 1.4
    scene.show(alt)


def zero_insertion(
    x: ArrayLike, kernel: ArrayLike, stride: int = 1, padding: int = 0, output_padding: int = 0, dilation: int = 1
) -> None:
    """Draw the steps of the equivalent convolution: insert zeros, pad, slide the flipped kernel with stride 1."""
    x, kernel = np.asarray(x), np.asarray(kernel)
    step = arithmetic.zero_insertion(len(x), len(kernel), stride, padding, output_padding, dilation)
    y = arithmetic.transpose_by_zero_insertion(x, kernel, stride, padding, output_padding, dilation)
    colours = shades(*x.shape)
    spread = np.full((step.inserted_size,) * 2, "0", object)
    spread_fill: Any = np.full(spread.shape, None, object)
    for row, column in np.ndindex(x.shape):
        spread[row * stride, column * stride] = written(x[row, column])
        spread_fill[row * stride, column * stride] = colours[row][column]
    spread_fill = [[cell or ZERO for cell in row] for row in spread_fill]
    around = (step.padding, step.padding + step.output_padding)
    padded = np.pad(np.full(spread.shape, "", object), around, constant_values="0")
    tall = len(padded)
    flipped = kernel[::-1, ::-1]
    below = len(x) + 2.0 + len(flipped)
    height = max(tall, below)
    width = max(len(x), len(flipped), 3) + len(spread) + tall + len(y) + 3 * 2.6 + 2.4
    scene = Scene(width, height + 3)
    middle, first = 1.5 + height / 2, max(len(x), len(flipped), 3)
    top = middle - below / 2
    scene.grid(1 + (first - len(x)) / 2, top, x, colours, title="input")
    corner = 1 + (first - len(flipped)) / 2
    scene.grid(corner, top + len(x) + 2, flipped, title="flipped kernel")
    scene.frame(corner, top + len(x) + 2, len(flipped), len(flipped), BLUE)
    left = 1 + first + 0.3
    scene.arrow(left, middle, 2, f"z = {step.zeros}")
    left += 2.3
    scene.grid(left, middle - len(spread) / 2, spread, spread_fill, title="spread")
    left += len(spread) + 0.3
    scene.arrow(left, middle, 2, f"p' = {step.padding}")
    left += 2.3
    y0 = middle - tall / 2
    scene.grid(left, y0, padded, [[ZERO] * tall for _ in range(tall)], edge=FAINT, title="padded")
    scene.grid(left + step.padding, y0 + step.padding, spread, spread_fill)
    reach = arithmetic.extent(len(kernel), dilation)
    scene.frame(left, y0, reach, reach, BLUE)
    if output_padding:
        scene.text(left + tall / 2, y0 + tall + 0.2, f"{output_padding} more at the bottom and right", va="top")
    left += tall + 0.3
    scene.arrow(left, middle, 2, "s' = 1")
    left += 2.3
    full = _shares(x.shape, kernel.shape, Transposed(stride, dilation=dilation))
    fill = [[full[r][c] if max(r, c) < len(full) else ZERO for c in _kept(padding, y)] for r in _kept(padding, y)]
    scene.grid(left, middle - len(y) / 2, y, fill, title="output")
    scene.frame(left, middle - len(y) / 2, 1, 1, BLUE)
    scene.show("Steps of a transposed convolution by zero insertion")


def _kept(padding: int, y: np.ndarray) -> range:
    return range(padding, padding + len(y))


def overlap_maps(*combinations: tuple[int, int], size: int = 4) -> None:
    """Draw how many kernel copies cover each output pixel for pairs (kernel size, stride); darker is more."""
    maps = [arithmetic.overlap_count(size, k, s) for k, s in combinations]
    tall, most = max(len(counts) for counts in maps), max(counts.max() for counts in maps)
    scene = Scene(sum(len(counts) for counts in maps) + 1.6 * (len(maps) - 1) + 1, tall + 3.4)
    left = 0.5
    for (k, s), counts in zip(combinations, maps):
        taps = arithmetic.taps_per_phase(k, s)
        even = "even" if np.ptp(taps) == 0 else "uneven"
        top = 1.5
        fill = [[tint(BLUE, 0.6 * count / most) for count in row] for row in counts]
        scene.grid(left, top, counts, fill, edge=FAINT, title=f"k = {k}, s = {s}: {even}")
        scene.text(left + len(counts) / 2, top + len(counts) + 0.25, f"copies inside: {_between(taps**2)}", va="top")
        left += len(counts) + 1.6
    scene.show("Numbers of kernel copies over each output pixel")


def _between(counts: np.ndarray) -> str:
    least, most = counts.min(), counts.max()
    return f"{least}" if least == most else f"{least} to {most}"


def phases(kernel_sizes: Sequence[int], strides: Sequence[int]) -> None:
    """Draw the number of kernel taps for each pixel phase along one axis, one square per kernel size and stride."""
    texts, fill = [], []
    for s in strides:
        taps = [arithmetic.taps_per_phase(k, s) for k in kernel_sizes]
        texts.append([" ".join(map(str, counts)) for counts in taps])
        colours = [SKY if np.ptp(counts) == 0 else ORANGE if counts.all() else FAINT for counts in taps]
        fill.append([tint(colour, 0.6) for colour in colours])
    scene = Scene(2 * len(kernel_sizes) + 8.6, 2 * len(strides) + 1.6, 0.45)
    for row, s in enumerate(strides):
        scene.text(2.2, 1.5 + row + 0.5, f"stride {s}", ha="right")
        for column in range(len(kernel_sizes)):
            options = {"facecolor": fill[row][column], "edgecolor": LINE, "linewidth": 0.8}
            scene.box(2.5 + 2 * column, 1.5 + row, 2, 1, **options)
            scene.text(3.5 + 2 * column, 2.03 + row, texts[row][column])
    for column, k in enumerate(kernel_sizes):
        scene.text(3.5 + 2 * column, 1.1, f"kernel {k}")
    legend = [(SKY, "even"), (ORANGE, "uneven: a checkerboard"), (FAINT, "holes: some pixels get nothing")]
    for row, (colour, text) in enumerate(legend):
        x, y = 3.3, 1.5 + len(strides) + 0.4 + 0.85 * row
        scene.box(x, y, 0.6, 0.6, facecolor=tint(colour, 0.6), edgecolor=LINE, linewidth=0.8)
        scene.text(x + 1, y + 0.32, text, ha="left")
    scene.show("Kernel taps per output phase for kernel sizes and strides")


def keras_same(size: int, kernel_sizes: Sequence[int], stride: int = 2) -> None:
    """Draw, in one dimension, which pixels of the full output are kept by Keras' "same" and by each padding p."""
    widest = (size - 1) * stride + max(kernel_sizes) + 1
    scene = Scene(widest + 15, 3.9 * len(kernel_sizes) + 0.2, 0.42)
    colours = shades(1, size)[0]
    top = 0.9
    for k in kernel_sizes:
        full = (size - 1) * stride + k
        covers = [[i for i in range(size) if 0 <= pixel - i * stride < k] for pixel in range(full)]
        left = 6.0
        fill = [[colours[i] for i in cover] or [ZERO] for cover in covers]
        scene.text(left - 0.4, top + 0.5, f"kernel {k}: full output", ha="right")
        scene.grid(left, top, [[str(pixel) for pixel in range(full)]], [fill], edge=LINE)
        target = size * stride
        start = max(k - stride, 0) // 2
        rows: list[tuple[str, Any, int]] = [('Keras "same"', RED, start)]
        pairs = arithmetic.conv_transpose_paddings(size, target, k, stride)
        rows += [(f"PyTorch: padding {p}, output padding {op}", BLUE, p) for p, op in pairs]
        for index, (name, colour, first) in enumerate(rows):
            y = top + 1.35 + 0.75 * index
            scene.axes.plot([left + first + 0.08, left + first + target - 0.08], [y, y], color=colour, linewidth=5)
            scene.text(left + widest, y, name, ha="left", color=colour)
        top += 3.5
    scene.show("Pixels of the full output that Keras and that PyTorch keep")
