"""The report of an ablation: a self-contained HTML page, the same as Markdown, and all numbers as CSV and JSON."""

import io
import logging
from pathlib import Path

import jinja2
import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from unet.ablation.report import charts, tables
from unet.ablation.report.examples import Tile, tiles
from unet.ablation.report.markdown import as_markdown
from unet.ablation.report.results import Summary, as_csv, summarise
from unet.ablation.run.finished import RunsByVariant
from unet.ablation.run.measurements import Measurements, Scenes
from unet.figures import data_url, save
from unet.files import write_text

log = logging.getLogger("unet")


def write(
    runs: RunsByVariant,
    measurements: Measurements,
    directory: Path,
    title: str,
    baseline: str | None = None,
    failures: dict[str, str] | None = None,
) -> Summary:
    """Compare finished runs: report.html, report.md, results.csv, summary.json and charts/ in ``directory``.

    Args:
        runs: The runs.
        measurements: Result of :func:`unet.ablation.run.measurements.measure` for these runs.
        directory: Where to write.
        title: Title of the report.
        baseline: Name of a variant; ``None`` for the first.
        failures: Why other runs failed, by name.

    Raises:
        InputError: The runs cannot be compared.
    """
    summary = summarise(runs, title, baseline, measurements.latency, failures or {})
    drawn = _draw(summary, measurements)
    for name, figure in drawn.items():
        save(figure, directory / "charts" / f"{name}.png")
    write_text(directory / "results.csv", as_csv(runs, measurements.latency))
    summary.save(directory / "summary.json")
    write_text(directory / "report.md", as_markdown(summary, list(drawn)))
    write_text(directory / "report.html", as_html(summary, drawn, measurements.scenes))
    log.info("%s", summary.verdict)
    return summary


def as_html(summary: Summary, drawn: dict[str, Figure], scenes: Scenes | None) -> str:
    """The report as a page that needs no other file.

    Args:
        summary: The results.
        drawn: Charts by name.
        scenes: Test images and their segmentations, if there are any.
    """
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("unet.ablation.report"),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return templates.get_template("report.html.j2").render(
        summary=summary,
        points=lambda value: f"{100 * value:.2f}",
        quality=tables.quality(summary),
        classes=tables.classes(summary),
        costs=tables.costs(summary),
        cost_notes=tables.cost_notes(summary),
        charts=[
            {"name": name, "svg": _svg(figure), "caption": charts.CAPTIONS[name]} for name, figure in drawn.items()
        ],
        scenes=[[_with_source(tile) for tile in scene] for scene in tiles(scenes)] if scenes else [],
        legend=_legend(scenes) if scenes else [],
    )


def _draw(summary: Summary, measurements: Measurements) -> dict[str, Figure]:
    by_cost = charts.score_by_cost(summary)
    drawn = ({"score_by_cost": by_cost} if by_cost else {}) | {"differences": charts.differences(summary)}
    if (figure := charts.learning(summary)) is not None:
        drawn["learning"] = figure
    return drawn | {"checkerboards": charts.checkerboards(summary, measurements.spectra)}


def _svg(figure: Figure) -> Markup:
    """A figure as an SVG element; the style sheet of the page replaces the colours of the charts."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    return Markup(svg[svg.index("<svg") :])  # without the XML declaration


def _with_source(tile: Tile) -> dict[str, str]:
    return {"name": tile.name, "note": tile.note, "source": data_url(tile.picture)}


def _legend(scenes: Scenes) -> list[tuple[str, str]]:
    """Name and colour of each class, or of each set of labels that occurs."""
    entries = ((name, scenes.colours[index]) for index, name in enumerate(scenes.classes) if name)
    return [(name, "#{:02x}{:02x}{:02x}".format(*colour)) for name, colour in entries]
