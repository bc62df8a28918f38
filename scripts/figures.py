#!/usr/bin/env python
"""Draw the charts of committed ablations, and write their reports, from their summary.json."""

from pathlib import Path
from typing import Annotated

import typer

from unet import console


def main(
    directories: Annotated[
        list[Path] | None,
        typer.Argument(metavar="DIRECTORY", help="Folders of summary.json; default: all in docs/results."),
    ] = None,
):
    """Draw DIRECTORY/charts and write DIRECTORY/report.md from DIRECTORY/summary.json.

    python scripts/figures.py
    """
    for directory in directories or sorted(path.parent for path in Path("docs/results").glob("*/summary.json")):
        draw_ablation(directory)


def draw_ablation(results: Path) -> None:
    """Draw the charts of one ablation, and write its report."""
    from unet.ablation.report import charts
    from unet.ablation.report.markdown import as_markdown
    from unet.ablation.report.results import Summary
    from unet.figures import save
    from unet.files import write_text

    summary = Summary.load(results / "summary.json")
    for draw in (charts.score_by_cost, charts.differences, charts.learning):
        figure, path = draw(summary), results / "charts" / f"{draw.__name__}.png"
        if figure is not None:
            save(figure, path)
        else:
            path.unlink(missing_ok=True)
    drawn = [name for name in charts.CAPTIONS if (results / "charts" / f"{name}.png").is_file()]
    write_text(results / "report.md", as_markdown(summary, drawn))


if __name__ == "__main__":
    console.run(lambda: typer.run(main))
