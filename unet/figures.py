"""Figures of a run (learning curves, confusion matrix, predictions next to the truth), masks and overlays."""

import base64
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image, ImageDraw, ImageFont

from unet.colours import ERROR_COLOUR, IGNORE_COLOUR, PALETTE, class_colours
from unet.colours import colour_table as colour_table
from unet.console import escaped
from unet.data.heads import CLASSES, Head
from unet.data.images import preview
from unet.data.masks import class_counts
from unet.data.sources import IGNORE
from unet.errors import shortened
from unet.files import replacing

STYLE: dict[Any, Any] = {
    "figure.dpi": 150,
    "savefig.bbox": "tight",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}
FONT = str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))
NAMES = STYLE | {"text.parse_math": False}
"""Style of figures with names of classes and files, which may contain dollar signs."""
ROWS = 256
"""Rows of an overlay that are drawn at a time."""


def paletted(mask: np.ndarray, table: np.ndarray) -> Image.Image:
    """Make an image of a mask, uint8 ``(H, W)``: its pixels are the class ids, and viewers show them in colour."""
    image = Image.fromarray(mask)
    image.putpalette(table.tobytes())
    return image


def overlay(
    image: np.ndarray, mask: np.ndarray, classes: int | np.ndarray, opacity: float = 0.5, head: Head = CLASSES
) -> np.ndarray:
    """Blend the colour of each pixel's class with a photograph, and draw contours in full colour between classes.

    Args:
        image: ``(H, W, C)``; anything but uint8 ``(H, W, 3)`` is shown by :func:`unet.data.images.preview`.
        mask: Class ids, or sets of labels, uint8 ``(H, W)``.
        classes: Number of classes, or a table of colours from :meth:`unet.data.heads.Head.table`.
        opacity: Opacity of the colours, 0 to 1.
        head: What the values of the mask mean. Pixels without a label keep the photograph's colour.

    Returns:
        uint8 ``(H, W, 3)``. Contours are one pixel wide on both sides; in large images 1/600 of the longer side.
    """
    table = class_colours(classes) if isinstance(classes, int) else classes
    picture = np.empty((*mask.shape, 3), np.uint8)
    for top, band in _overlay_bands(image, mask, table, opacity, head):
        picture[top : top + band.height] = np.asarray(band)
    return picture


def overlay_with_legend(
    image: np.ndarray,
    mask: np.ndarray,
    classes: Sequence[str],
    table: np.ndarray,
    opacity: float = 0.5,
    head: Head = CLASSES,
) -> Image.Image:
    """Append a legend to an overlay, as :func:`overlay` and :func:`with_legend` do, with little memory."""
    legend = _legend(image.shape[1], mask, classes, table, head)
    picture = Image.new("RGB", (legend.width, len(image) + legend.height), "white")
    for top, band in _overlay_bands(image, mask, table, opacity, head):
        picture.paste(band, (0, top))
    picture.paste(legend, (0, len(image)))
    return picture


def _overlay_bands(
    image: np.ndarray, mask: np.ndarray, table: np.ndarray, opacity: float, head: Head
) -> Iterator[tuple[int, Image.Image]]:
    """Parts of an overlay, each with the row at which it begins."""
    image = preview(image)
    reach = max(1, round(max(mask.shape) / 600))
    for top in range(0, len(mask), ROWS):
        rows, above = slice(top, top + ROWS), min(top, reach)
        seen = mask[top - above : rows.stop + reach]
        contours = np.zeros(seen.shape, bool)
        for distance in range(1, 1 + reach):
            for pixels, edges in ((seen, contours), (seen.T, contours.T)):
                differs = pixels[distance:] != pixels[:-distance]
                edges[distance:] |= differs
                edges[:-distance] |= differs
        colours = paletted(mask[rows], table).convert("RGB")
        if head.labels:
            colours.paste(Image.fromarray(image[rows]), mask=Image.fromarray(mask[rows] == 0))
        blended = Image.blend(Image.fromarray(image[rows]), colours, opacity)
        blended.paste(colours, mask=Image.fromarray(contours[above : above + ROWS]))
        yield top, blended


def with_legend(
    picture: np.ndarray, mask: np.ndarray, classes: Sequence[str], table: np.ndarray, head: Head = CLASSES
) -> np.ndarray:
    """Append the names and colours of the classes that occur in a mask below a picture.

    Args:
        picture: uint8 ``(H, W, 3)``.
        mask: Class ids, or sets of labels, uint8, of any shape.
        classes: Class names.
        table: Colours by value, from :meth:`unet.data.heads.Head.table`.
        head: What the values of the mask mean.

    Returns:
        uint8, higher than the picture, and wider if a name needs it; the picture is at the top left.
    """
    legend = _legend(picture.shape[1], mask, classes, table, head)
    whole = np.full((len(picture) + legend.height, legend.width, 3), 255, np.uint8)
    whole[: len(picture), : picture.shape[1]] = picture
    whole[len(picture) :] = np.asarray(legend)
    return whole


def _legend(least: int, mask: np.ndarray, classes: Sequence[str], table: np.ndarray, head: Head) -> Image.Image:
    """Names and colours of the classes in a mask, on white, at least ``least`` pixels wide."""
    entries = _entries([mask], classes, head)
    present = [value for value, _ in entries]
    names = [shortened(escaped(name), 40) for _, name in entries]
    font = ImageFont.truetype(FONT, size := min(max(12, least // 50), 60))
    gap, line = size // 2, 2 * size
    widths = [round(size + gap + font.getlength(name)) for name in names]  # of a square and its name
    width = max([least, *(gap + one + gap for one in widths)])
    places, x, y = [], gap, gap
    for one in widths:
        if x > gap and x + one + gap > width:
            x, y = gap, y + line
        places.append((x, y))
        x += one + 2 * gap
    canvas = Image.new("RGB", (width, y + line), "white")
    draw = ImageDraw.Draw(canvas)
    for index, name, (x, y) in zip(present, names, places):
        draw.rectangle((x, y, x + size, y + size), fill=tuple(table[index].tolist()), outline="grey")
        draw.text((x + size + gap, y + size // 2), name, "black", font, anchor="lm")
    return canvas


def _entries(masks: Iterable[np.ndarray], classes: Sequence[str], head: Head) -> list[tuple[int, str]]:
    """Value and name of every class that occurs in masks, then of ignored pixels."""
    pixels = sum(map(class_counts, masks), np.zeros(256, np.int64))
    found = np.flatnonzero(head.areas(pixels, len(classes))).tolist()
    return [(head.value(i), classes[i]) for i in found] + [(IGNORE, "ignored")] * bool(pixels[IGNORE])


def contact_sheet(
    examples: list[tuple[str, np.ndarray, np.ndarray]],
    classes: Sequence[str],
    table: np.ndarray,
    columns: int = 5,
    opacity: float = 0.5,
    head: Head = CLASSES,
) -> np.ndarray:
    """Arrange images under their masks in a grid, with a legend.

    Args:
        examples: Caption, image ``(H, W, 3)`` and mask ``(H, W)`` of each.
        classes: Class names.
        table: Colours by value, from :meth:`unet.data.heads.Head.table`.
        columns: Most images in a row.
        opacity: Opacity of the masks, 0 to 1.
        head: What the values of the masks mean.

    Returns:
        uint8 ``(H, W, 3)``.
    """
    font = ImageFont.truetype(FONT, 12)
    cell = max(image.shape[0] for _, image, _ in examples), max(image.shape[1] for _, image, _ in examples)
    columns = min(columns, len(examples))
    rows = -(-len(examples) // columns)
    height, width = cell[0] + 24, cell[1] + 8
    canvas = Image.new("RGB", (columns * width, rows * height), "white")
    draw = ImageDraw.Draw(canvas)
    for index, (caption, image, mask) in enumerate(examples):
        x, y = index % columns * width + 4, index // columns * height + 4
        canvas.paste(Image.fromarray(overlay(image, mask, table, opacity, head)), (x, y))
        draw.text((x, y + image.shape[0] + 2), _fitting(escaped(caption), font, cell[1]), "black", font)
    ids = np.unique(np.concatenate([mask.ravel() for _, _, mask in examples]))
    return with_legend(np.asarray(canvas), ids, classes, table, head)


def _fitting(text: str, font, width: int) -> str:
    """The end of a text that is not wider than ``width`` pixels."""
    while text and font.getlength(text) > width:
        text = f"…{text.lstrip('…')[1:]}" if len(text) > 2 else ""
    return text


def prediction_strip(
    images: np.ndarray, masks: np.ndarray, predictions: np.ndarray, classes: int | np.ndarray
) -> np.ndarray:
    """Stack rows of images, true masks and predicted masks into one uint8 picture ``(3·H, N·W, 3)``.

    ``classes`` is their number, or a table of colours.
    """
    table = class_colours(classes) if isinstance(classes, int) else classes
    rows = [[preview(image) for image in images], table[masks], table[predictions]]
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)


def learning_curves(history: list[dict[str, float]], path: Path, title: str) -> None:
    """Draw loss and mean IoU by epoch, in training (on augmented images) and validation."""
    epochs = [row["epoch"] for row in history]
    marker = "o" if len(epochs) < 20 else None
    with matplotlib.rc_context(NAMES):
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        for axes, key, label in ((left, "loss", "loss"), (right, "mean_iou", "mean IoU")):
            for prefix, name, colour in (("", "training (augmented)", PALETTE[1]), ("val_", "validation", PALETTE[6])):
                values = [row.get(prefix + key, np.nan) for row in history]
                if not np.all(np.isnan(values)):
                    axes.plot(epochs, values, color=colour, label=name, marker=marker, markersize=3)
            axes.set(xlabel="epoch", ylabel=label)
            axes.xaxis.get_major_locator().set_params(integer=True)
        right.set_ylim(0, 1)
        if "val_mean_iou" in history[0]:
            best = int(np.argmax([row["val_mean_iou"] for row in history]))
            score = history[best]["val_mean_iou"]
            right.plot(epochs[best], score, "*", color=PALETTE[6], markersize=11)
            note = f"best {score:.3f}\n(epoch {epochs[best]:.0f})"
            right.annotate(note, (epochs[best], score), (-4, -10), textcoords="offset points", ha="right", va="top")
        left.legend()
        figure.suptitle(title)
        save(figure, path)


def confusion_matrix(matrix: np.ndarray, classes: tuple[str, ...], path: Path, title: str) -> None:
    """Draw the percentage of each true class that was predicted as each class."""
    share = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    n = len(classes)
    with matplotlib.rc_context(NAMES | {"axes.grid": False}):
        wide = min(n, 40)  # the picture of 255 classes would take gigabytes
        figure = Figure(figsize=(2.2 + 0.75 * wide, 1.6 + 0.7 * wide), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
        axes.set_xticks(range(n), classes, rotation=30 if n > 3 else 0, ha="right" if n > 3 else "center")
        axes.set_yticks(range(n), classes)
        axes.set(xlabel="predicted class", ylabel="true class", title=title)
        for i in range(n if n <= 20 else 0):
            for j in range(n):
                colour = "white" if share[i, j] > 55 else "black"
                axes.text(j, i, f"{share[i, j]:.1f}", ha="center", va="center", color=colour)
        figure.colorbar(image, ax=axes, label="% of the true class", shrink=0.8)
        save(figure, path)


def prediction_grid(
    examples: list[dict],
    classes: tuple[str, ...],
    path: Path,
    title: str,
    table: np.ndarray | None = None,
    head: Head = CLASSES,
) -> None:
    """Draw image, truth, prediction and error of each example; one row per group of examples.

    Args:
        examples: ``name``, ``score`` (mean IoU), ``image`` ``(H, W, 3)``, ``truth`` and ``prediction`` ``(H, W)``, and
            ``group``, the row's heading. All groups have the same number of examples.
        classes: Class names.
        path: File to write.
        title: Title of the figure.
        table: Colours by value; ``None``: the default colours of classes.
        head: What the values of the masks mean.
    """
    table = class_colours(len(classes)) if table is None else table
    groups = list(dict.fromkeys(example["group"] for example in examples))
    across = len(examples) // len(groups)
    headings = ("image", "truth", "prediction", "error")
    with matplotlib.rc_context(NAMES | {"axes.grid": False}):
        size = (1.55 * len(headings) * across + 0.6, 1.85 * len(groups) + 0.9)
        figure = Figure(figsize=size, layout="constrained")
        blocks = figure.subfigures(len(groups), across, squeeze=False, wspace=0.02)
        for index, example in enumerate(examples):
            row, column = divmod(index, across)
            axes = blocks[row][column].subplots(1, len(headings))
            _example(axes, example, table)
            axes[0].set_ylabel(f"{example['group']}\nmean IoU {example['score']:.2f}")
            if row == 0:
                for panel, heading in zip(axes, headings, strict=True):
                    panel.set_title(heading)
        shown = _entries((e[key] for e in examples for key in ("truth", "prediction")), classes, head)
        handles = [Patch(facecolor=table[i] / 255, edgecolor="grey", label=name) for i, name in shown[:40]]
        wrong = "a wrong label" if head.labels else "wrong class"
        handles.append(Patch(facecolor=ERROR_COLOUR, edgecolor="grey", label=wrong))
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6), frameon=False)
        figure.suptitle(title)
        save(figure, path)


def _example(axes, example: dict, table: np.ndarray) -> None:
    """Draw the four panels of one example."""
    truth, prediction = example["truth"], example["prediction"]
    error = np.where(truth == IGNORE, 2, truth != prediction)
    axes[0].imshow(preview(example["image"]))
    axes[1].imshow(table[truth])
    axes[2].imshow(table[prediction])
    colours = ListedColormap(["#FFFFFF", ERROR_COLOUR, IGNORE_COLOUR])
    axes[3].imshow(error, cmap=colours, vmin=0, vmax=2, interpolation="nearest")
    axes[0].set_xlabel(example["name"], fontsize=7)
    for panel in axes:
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_visible(True)


def save(figure, path: Path) -> None:
    """Write a figure atomically."""
    with replacing(path) as temporary:
        figure.savefig(temporary)


def save_picture(picture: np.ndarray, path: Path) -> None:
    """Write a picture, uint8 ``(H, W, 3)``, as PNG atomically."""
    with replacing(path) as temporary:
        Image.fromarray(picture).save(temporary)


def data_url(picture: Image.Image) -> str:
    """A picture as the address of an image within a page."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
