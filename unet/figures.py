"""Figures of a run (learning curves, confusion matrix, predictions next to the truth), masks and overlays."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from unet.colours import IGNORE_COLOUR, PALETTE, class_colours
from unet.colours import colour_table as colour_table
from unet.data.sources import IGNORE
from unet.files import replacing

ERROR_COLOUR = "#D55E00"
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
NAMES = STYLE | {"text.parse_math": False}
"""Style of figures with names of classes and files, which may contain dollar signs."""


def paletted(mask: np.ndarray, table: np.ndarray) -> Image.Image:
    """Make an image of a mask, uint8 ``(H, W)``: its pixels are the class ids, and viewers show them in colour."""
    image = Image.fromarray(mask)
    image.putpalette(table.tobytes())
    return image


def overlay(image: np.ndarray, mask: np.ndarray, classes: int | np.ndarray, opacity: float = 0.5) -> np.ndarray:
    """Blend the colour of each pixel's class with a photograph, and draw contours in full colour between classes.

    Args:
        image: uint8 ``(H, W, 3)``.
        mask: Class ids, uint8 ``(H, W)``.
        classes: Number of classes, or a table of colours from :func:`unet.colours.class_colours`.
        opacity: Opacity of the colours, 0 to 1.

    Returns:
        uint8 ``(H, W, 3)``. Contours are one pixel wide on both sides; in large images 1/600 of the longer side.
    """
    table = class_colours(classes) if isinstance(classes, int) else classes
    colours = paletted(mask, table).convert("RGB")
    contours = np.zeros(mask.shape, bool)
    for distance in range(1, 1 + max(1, round(max(mask.shape) / 600))):
        for pixels, edges in ((mask, contours), (mask.T, contours.T)):
            differs = pixels[distance:] != pixels[:-distance]
            edges[distance:] |= differs
            edges[:-distance] |= differs
    blended = Image.blend(Image.fromarray(image), colours, opacity)
    blended.paste(colours, mask=Image.fromarray(contours))
    return np.asarray(blended)


def prediction_strip(images: np.ndarray, masks: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Stack rows of images, true masks and predicted masks into one uint8 picture ``(3·H, N·W, 3)``."""
    table = class_colours(classes)
    rows = [images, table[masks], table[predictions]]
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


def prediction_grid(examples: list[dict], classes: tuple[str, ...], path: Path, title: str) -> None:
    """Draw image, truth, prediction and error of each example; one row per group of examples.

    Args:
        examples: ``name``, ``score`` (mean IoU), ``image`` ``(H, W, 3)``, ``truth`` and ``prediction`` ``(H, W)``, and
            ``group``, the row's heading. All groups have the same number of examples.
        classes: Class names.
        path: File to write.
        title: Title of the figure.
    """
    table = class_colours(len(classes))
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
        shown = sorted({int(i) for e in examples for key in ("truth", "prediction") for i in np.unique(e[key])})
        handles = [
            Patch(facecolor=table[i] / 255, edgecolor="grey", label="ignored" if i == IGNORE else classes[i])
            for i in shown[:12]
        ]
        handles.append(Patch(facecolor=ERROR_COLOUR, edgecolor="grey", label="wrong class"))
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6), frameon=False)
        figure.suptitle(title)
        save(figure, path)


def _example(axes, example: dict, table: np.ndarray) -> None:
    """Draw the four panels of one example."""
    truth, prediction = example["truth"], example["prediction"]
    error = np.where(truth == IGNORE, 2, truth != prediction)
    axes[0].imshow(example["image"])
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
