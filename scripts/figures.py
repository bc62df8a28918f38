#!/usr/bin/env python
"""Draw the README's figures and write its table from the committed results."""

from pathlib import Path
from typing import Annotated

import typer

from unet import console

BEGIN, END = "<!-- ablation: written by make figures -->", "<!-- end of ablation -->"


def main(
    results: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="That of an ablation's summary.json.")] = Path(
        "docs/results/upsamplers_cpu"
    ),
    readme: Annotated[Path, typer.Option(help="The file with the two marks to write between.")] = Path("README.md"),
):
    """Draw charts/ from DIRECTORY/summary.json, and write verdict and table into the README.

    python scripts/figures.py
    """
    from unet.ablation.report import charts
    from unet.ablation.report.results import Summary
    from unet.errors import InputError
    from unet.figures import save
    from unet.files import write_text

    summary = Summary.load(results / "summary.json")
    for draw in (charts.score_by_cost, charts.differences, charts.learning):
        save(draw(summary), results / "charts" / f"{draw.__name__}.png")
    text = readme.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"{readme} must hold the lines {BEGIN} and {END}, between which the table is written")
    write_text(readme, before + BEGIN + "\n" + block(summary, results.as_posix()) + END + after)


def block(summary, directory: str) -> str:
    """Verdict, charts and a short table as Markdown."""
    from unet.ablation.report.results import bracket, markdown_table

    titles = ["upsampler", "mean IoU, %", f"minus {summary.baseline}", "rank", "parameters", "multiply-adds", "1 image"]
    rows = []
    for one in summary.best_first():
        difference = "–"
        if one.difference is not None:
            difference = f"{100 * one.difference:+.2f}{bracket(one.difference_low, one.difference_high, '+.2f')}"
        rows.append(
            [
                f"`{one.name}`",
                f"{100 * one.mean_iou:.2f}{bracket(one.low, one.high, '.2f')}",
                difference,
                f"{one.rank_low}–{one.rank_high}",
                f"{one.parameters:,}",
                f"{one.multiply_adds / 1e6:.1f} M",
                f"{one.latency['1']['median_ms']:.1f} ms",
            ]
        )
    lines = [
        "",
        f"> {summary.verdict}",
        "",
        f"![Differences of mean IoU to {summary.baseline}, with intervals]({directory}/charts/differences.png)",
        "",
        *markdown_table(titles, rows),
        "",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    console.run(lambda: typer.run(main))
