"""Pictures of a run: learning curves, confusion matrix, predictions beside the truth."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from unet.data.sources import IGNORE
from unet.files import replacing

# Okabe and Ito's colours, told apart under every common colour blindness.
PALETTE = ["#E69F00", "#0072B2", "#F0E442", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000"]
IGNORE_COLOUR = "#B0B0B0"
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


def class_colours(classes: int) -> np.ndarray:
    """Colour of each class id 0..255, uint8 ``(256, 3)``; ignored pixels (255) are grey."""
    colours = [matplotlib.colors.to_rgb(colour) for colour in PALETTE]
    if classes > len(colours):
        colours += [matplotlib.colormaps["hsv"](i / classes)[:3] for i in range(classes - len(colours))]
    table = np.zeros((256, 3))
    table[: len(colours)] = colours[:255]
    table[IGNORE] = matplotlib.colors.to_rgb(IGNORE_COLOUR)
    return np.round(table * 255).astype(np.uint8)


def prediction_strip(images: np.ndarray, masks: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Rows of images, true masks and predicted masks: one uint8 picture ``(3·H, N·W, 3)``."""
    table = class_colours(classes)
    rows = [images, table[masks], table[predictions]]
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)


def learning_curves(history: list[dict[str, float]], path: Path, title: str) -> None:
    """Loss and mean IoU by epoch, in training (on augmented images) and validation."""
    epochs = [row["epoch"] for row in history]
    marker = "o" if len(epochs) < 20 else None
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
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
        _save(figure, path)


def confusion_matrix(matrix: np.ndarray, classes: tuple[str, ...], path: Path, title: str) -> None:
    """Share of each true class that was predicted as each class; numbers are per cent of the true class."""
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    n = len(classes)
    with plt.rc_context(STYLE | {"axes.grid": False}):
        figure, axes = plt.subplots(figsize=(2.2 + 0.75 * n, 1.6 + 0.7 * n), layout="constrained")
        image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(n), classes, rotation=30 if n > 3 else 0, ha="right" if n > 3 else "center")
        axes.set_yticks(range(n), classes)
        axes.set(xlabel="predicted class", ylabel="true class", title=title)
        for i in range(n if n <= 20 else 0):
            for j in range(n):
                colour = "white" if share[i, j] > 0.55 else "black"
                axes.text(j, i, f"{100 * share[i, j]:.1f}", ha="center", va="center", color=colour)
        figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
        _save(figure, path)


def prediction_grid(rows: list[dict], classes: tuple[str, ...], path: Path, title: str) -> None:
    """Image, truth, prediction and error, a row for each image.

    Args:
        rows: ``name``, ``score`` (mean IoU), ``image`` ``(H, W, 3)``, ``truth`` and ``prediction`` ``(H, W)``, and
            ``group``, a heading for the first row of its kind.
        classes: Class names.
        path: Where to write.
        title: Of the figure.
    """
    table = class_colours(len(classes))
    error_colours = ListedColormap(["#FFFFFF", "#D55E00", IGNORE_COLOUR])
    with plt.rc_context(STYLE | {"axes.grid": False}):
        figure, grid = plt.subplots(
            len(rows), 4, figsize=(7.2, 1.9 * len(rows) + 0.9), layout="constrained", squeeze=False
        )
        for axes_row, row in zip(grid, rows, strict=True):
            truth, prediction = row["truth"], row["prediction"]
            error = np.where(truth == IGNORE, 2, truth != prediction)
            axes_row[0].imshow(row["image"])
            axes_row[1].imshow(table[truth])
            axes_row[2].imshow(table[prediction])
            axes_row[3].imshow(error, cmap=error_colours, vmin=0, vmax=2, interpolation="nearest")
            for axes in axes_row:
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(True)
            axes_row[0].set_ylabel(f"{row['group']}\nmean IoU {row['score']:.2f}", fontsize=9)
            axes_row[0].set_xlabel(row["name"], fontsize=7)
        for axes, heading in zip(grid[0], ("image", "truth", "prediction", "error"), strict=True):
            axes.set_title(heading)
        shown = sorted({int(i) for row in rows for key in ("truth", "prediction") for i in np.unique(row[key])})
        handles = [
            Patch(facecolor=table[i] / 255, edgecolor="grey", label="ignored" if i == IGNORE else classes[i])
            for i in shown[:12]
        ]
        handles.append(Patch(facecolor="#D55E00", edgecolor="grey", label="wrong class"))
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6), frameon=False)
        figure.suptitle(title)
        _save(figure, path)


def _save(figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary)
    plt.close(figure)
