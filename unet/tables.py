"""Tables printed to standard output."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from unet.cost import Stage, total


def show(table: Table) -> None:
    """Print a table, on a terminal as wide as that, else as wide as the table needs: a file does not wrap."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=10_000)
    console.print(table)


def metrics_table(scores: dict, title: str) -> None:
    """Print the scores of one evaluated split."""
    table = Table(title=f"{title}: {scores['images']} images", title_justify="left")
    table.add_column("score")
    table.add_column("data set", justify="right")
    table.add_column("mean per image", justify="right")

    def row(name, values):
        table.add_row(
            name, *("–" if values[key] != values[key] else f"{values[key]:.4f}" for key in ("dataset", "per_image"))
        )

    row("mean IoU", scores["mean_iou"])
    for name, values in scores["iou"].items():
        row(f"  IoU {name}", values)
    row("mean Dice", scores["mean_dice"])
    for name, values in scores["dice"].items():
        row(f"  Dice {name}", values)
    row("mean Boundary IoU", scores["mean_boundary_iou"])
    for name, values in scores["boundary_iou"].items():
        row(f"  Boundary IoU {name}", values)
    row("pixel accuracy", scores["pixel_accuracy"])
    for rule, values in scores.get("pet_iou", {}).items():
        row(f"pet IoU, {rule.replace('_', ' ')}", values)
    for rule, values in scores.get("pet_dice", {}).items():
        row(f"pet Dice, {rule.replace('_', ' ')}", values)
    show(table)


def export_table(file: Path, entry: dict) -> None:
    """Print what an exported file is, and how it compares with the network it was made from."""
    table = Table(title=f"{file.name}: {entry['format']}", title_justify="left", show_header=False)
    size = entry["size"]
    rows = {
        "input": "any height and width" if size == "dynamic" else f"{size[0]}×{size[1]} pixels, any batch",
        "output": {"softmax": "probabilities", "none": "logits"}[entry["activation"]],
        "numbers": {"none": "float32"}.get(entry["quantization"], entry["quantization"]),
        "file size": f"{entry['bytes'] / 2**20:.2f} MiB",
        "test images compared": f"{entry['proof']['images']:,}",
    }
    proof = entry["proof"]
    if "mean_iou" in proof:
        rows["mean IoU"] = f"{proof['mean_iou']:.4f} (float32: {proof['mean_iou_float']:.4f})"
    else:
        rows["largest difference in logits"] = f"{proof['largest_logit_difference']:.2g}"
        if proof["within"] < 1:  # max-unpooling jumps where two values of a window are equal but for rounding
            rows["pixels that differ by 0.001 or less"] = f"{proof['within']:.3%}"
    rows["pixels with the same class"] = f"{proof['same_class']:.3%}"
    for name, value in rows.items():
        table.add_row(name, value)
    show(table)


def rows_table(titles: list[str], rows: list[list[str]], title: str) -> None:
    """Print rows of text; all columns but the first two are numbers."""
    table = Table(title=title, title_justify="left")
    for index, name in enumerate(titles):
        table.add_column(name, justify="left" if index < 2 else "right")
    for row in rows:
        table.add_row(*row)
    show(table)


def cost_table(stages: list[Stage], title: str) -> None:
    """Print the cost of every stage and their sum."""
    table = Table(title=title, title_justify="left")
    table.add_column("stage")
    for column in ("output", "parameters", "multiply-adds", "activations"):
        table.add_column(column, justify="right")
    whole = total(stages)
    for stage in [*stages, whole]:
        if stage is whole:
            table.add_section()
        table.add_row(
            stage.name,
            "×".join(map(str, stage.output)),
            f"{stage.parameters:,}",
            f"{stage.multiply_adds / 1e6:,.1f} M",
            f"{stage.activation_bytes / 2**20:,.2f} MiB",
        )
    show(table)
