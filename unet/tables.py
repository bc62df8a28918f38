"""Tables printed to standard output."""

from rich import table
from rich.console import Console
from rich.text import Text

from unet.console import escaped
from unet.cost import Stage, total


class Table(table.Table):
    """A table that shows titles and cells as they are: no markup, and control characters escaped."""

    def __init__(self, title: str, **options):
        super().__init__(title=Text(escaped(title)), title_justify="left", **options)

    def add_column(self, header="", *more, **options):
        super().add_column(Text(escaped(header)), *more, **options)

    def add_row(self, *cells, **options):
        super().add_row(*(Text(escaped(cell)) for cell in cells), **options)


def show(table: Table) -> None:
    """Print a table: as wide as the terminal, or in a file as wide as the table needs."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=10_000)
    console.print(table)


def metrics_table(scores: dict, title: str) -> None:
    """Print the scores of one evaluated split."""
    table = Table(f"{title}: {scores['images']} images")
    table.add_column("score")
    table.add_column("data set", justify="right")
    table.add_column("mean per image", justify="right")

    def row(name, values):
        table.add_row(
            name, *("–" if values[key] != values[key] else f"{values[key]:.4f}" for key in ("dataset", "per_image"))
        )

    titles = {
        "iou": "IoU",
        "dice": "Dice",
        "precision": "precision",
        "recall": "recall",
        "boundary_iou": "Boundary IoU",
    }
    for key, title in titles.items():
        row(f"mean {title}", scores[f"mean_{key}"])
        for name, values in scores[key].items():
            row(f"  {title} {name}", values)
    row("pixel accuracy", scores["pixel_accuracy"])
    for rule, values in scores.get("pet_iou", {}).items():
        row(f"pet IoU, {rule.replace('_', ' ')}", values)
    for rule, values in scores.get("pet_dice", {}).items():
        row(f"pet Dice, {rule.replace('_', ' ')}", values)
    show(table)


def contents_table(rows: list[tuple[str, str, str]], title: str) -> None:
    """Print name, share of the pixels and number of images of each class."""
    table = Table(title)
    table.add_column("class")
    for column in ("pixels", "images"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*row)
    show(table)


def rows_table(titles: list[str], rows: list[list[str]], title: str) -> None:
    """Print rows of text; all columns except the first two are right-aligned numbers."""
    table = Table(title)
    for index, name in enumerate(titles):
        table.add_column(name, justify="left" if index < 2 else "right")
    for row in rows:
        table.add_row(*row)
    show(table)


def cost_table(stages: list[Stage], title: str) -> None:
    """Print the cost of every stage, and their sum."""
    table = Table(title)
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
