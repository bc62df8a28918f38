"""The report of an ablation: one self-contained HTML page, the same as Markdown, and every number as CSV and JSON."""

import base64
import html
import io
import json
import logging
import os
from pathlib import Path

import jinja2
import keras
import matplotlib
import numpy as np
from markupsafe import Markup
from PIL import Image, ImageDraw

from unet import checkerboard, data
from unet.ablation.report import charts
from unet.ablation.report.results import Summary, Table, arrange, as_csv, bracket, markdown_table, summarise
from unet.ablation.run import cell, execution
from unet.console import track
from unet.evaluation import predict_logits
from unet.figures import class_colours, save
from unet.files import write_json, write_text
from unet.metrics import confusion, intersection_union, iou, mean
from unet.model import load_saved
from unet.runs import Run

log = logging.getLogger("unet")

SCENES = 4
"""Test images in the report."""
TILE = 144
"""Pixels of a small picture, at least."""
COLOURS = {
    "#000000": "currentColor",
    charts.BLUE: "var(--blue)",
    charts.ORANGE: "var(--orange)",
    charts.GREY: "var(--soft)",
}
"""What the page puts in the place of a chart's colours."""
CAPTIONS = {
    "score_by_cost": "Mean IoU against cost: up is better, left is cheaper. The dashed line is the Pareto front: "
    "nothing is both better and cheaper than what lies on it. Bars: 95 % interval of the paired difference to the "
    "baseline (orange).",
    "differences": "Paired difference to the baseline with its 95 % interval over seeds and test images; filled: "
    "p < 0.05 after Holm's correction. In the grey band a single comparison of this design sees little.",
    "learning": "Validation mean IoU by epoch: mean and range over seeds; all other variants in grey.",
    "checkerboards": "What each trained network draws on an image of one colour, where it should draw nothing: "
    "amplitude by frequency. The number is its share of the response. Bright edges are patterns of two pixels.",
}


def write(
    runs: list[Run],
    directory: Path,
    title: str,
    baseline: str | None,
    environment: dict[str, str],
    failures: dict[str, str] | None = None,
) -> Summary:
    """Compare finished runs: report.html, report.md, results.csv, summary.json and charts/ in ``directory``.

    Args:
        runs: Finished, see :func:`unet.ablation.run.cell.is_finished`.
        directory: Where to write.
        title: Of the report.
        baseline: Name of a variant; ``None``: the first.
        environment: For the process that measures inference times; they are kept in latency.json.
        failures: Reasons by run that failed.

    Raises:
        InputError: The runs cannot be compared.
        RunError: The inference times could not be measured.
    """
    table = arrange(runs)
    latency = _latency(table, directory / "latency.json", environment)
    summary = summarise(table, title, baseline or table.variants[0], latency, failures or {})
    networks = {
        variant: load_saved(run.best_file)
        for variant, run in track(table.shown.items(), len(table.variants), "loading networks")
    }
    spectra = {
        variant: _spectrum(network, table.shown[variant])
        for variant, network in track(networks.items(), len(networks), "checkerboards")
    }
    scenes, legend = _scenes(table, networks)
    drawn = _draw(summary, spectra)
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("unet.ablation.report"),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = templates.get_template("report.html.j2").render(
        summary=summary,
        points=lambda value: f"{100 * value:.2f}",
        quality=_html_table(summary, *quality_table(summary)),
        cost=_html_table(summary, *cost_table(summary)),
        charts=[
            {"name": name, "svg": Markup(_svg(figure)), "caption": CAPTIONS[name]} for name, figure in drawn.items()
        ],
        scenes=scenes,
        legend=legend,
    )
    for name, figure in drawn.items():
        save(figure, directory / "charts" / f"{name}.png")
    write_text(directory / "results.csv", as_csv(table, latency))
    summary.save(directory / "summary.json")
    write_text(directory / "report.md", as_markdown(summary, list(drawn)))
    write_text(directory / "report.html", page)
    log.info("%s", summary.verdict)
    return summary


def _latency(table: Table, file: Path, environment: dict[str, str]) -> dict:
    """Inference times of one run of each variant, measured in turns unless ``file`` has them all."""
    runs = {variant: os.path.relpath(run.path, file.parent) for variant, run in table.shown.items()}
    if file.is_file():
        known = json.loads(file.read_text(encoding="utf-8"))
        if known["runs"] == runs:
            return known
    measured = execution.measure("latency", table.shown, file, environment) | {"runs": runs}
    write_json(file, measured)
    return measured


# === Tables ===


def quality_table(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Headings and a row a variant, best first; a cell may be followed by its interval in brackets."""
    bands = list(summary.variants[0].band_accuracy)
    titles = ["upsampler", "mean IoU", f"minus {summary.baseline}", "p", "rank", *summary.variants[0].iou]
    titles += [f"pet ({rule.replace('_', ' ')})" for rule in summary.variants[0].pet_iou]
    titles += ["Boundary IoU", "pixel accuracy", *(f"band {width} px" for width in bands), "checkerboard"]
    rows = []
    for one in summary.best_first():
        difference, p = "–", "–"
        if one.difference is not None and one.p_holm is not None:
            difference = f"{100 * one.difference:+.2f}{bracket(one.difference_low, one.difference_high, '+.2f')}"
            p = "<0.001" if one.p_holm < 0.001 else f"{one.p_holm:.3f}"
        rank = f"{one.rank}" + (f" ({one.rank_low}–{one.rank_high})" if one.rank_low < one.rank_high else "")
        scores = [*one.iou.values(), *one.pet_iou.values(), one.mean_boundary_iou, one.pixel_accuracy]
        rows.append(
            [
                one.name,
                f"{100 * one.mean_iou:.2f}{bracket(one.low, one.high, '.2f')}",
                difference,
                p,
                rank,
                *(f"{100 * score:.1f}" for score in [*scores, *one.band_accuracy.values()]),
                f"{one.checkerboard_initial:.2f} → {one.checkerboard_trained:.4f}",
            ]
        )
    return titles, rows


def cost_table(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Headings and a row a variant, best first."""
    titles = [
        "upsampler",
        "parameters",
        "beyond",
        "multiply-adds",
        "beyond",
        "training images/s",
        "peak MiB",
        "file MiB",
    ]
    batches = list(summary.variants[0].latency)
    titles += [f"{'1 image' if batch == '1' else f'{batch} images'}, ms (p95)" for batch in batches]
    rows = []
    for one in summary.best_first():
        rows.append(
            [
                one.name,
                f"{one.parameters:,}",
                f"+{one.surplus_parameters:,}",
                f"{one.multiply_adds / 1e6:,.1f} M",
                f"+{one.surplus_multiply_adds / 1e6:,.1f} M",
                f"{one.images_per_second:,.0f}",
                f"{one.peak_memory_mib:,.0f}",
                f"{one.file_mib:.2f}",
                *(f"{one.latency[b]['median_ms']:.1f} ({one.latency[b]['p95_ms']:.1f})" for b in batches),
            ]
        )
    return titles, rows


def as_markdown(summary: Summary, charts: list[str]) -> str:
    """The report as Markdown; charts are linked."""
    lines = [f"# {summary.title}: which upsampling?", "", f"**{summary.verdict}**", ""]
    seeds = ", ".join(map(str, summary.seeds))
    lines += [f"{len(summary.variants)} variants × seeds {seeds}, {summary.images:,} test images."]
    lines += ["", *(f"- {warning}" for warning in summary.warnings), "", "## How well", ""]
    lines += [
        *markdown_table(*quality_table(summary)),
        "",
        "## At what cost",
        "",
        *markdown_table(*cost_table(summary)),
    ]
    for name in charts:
        lines += ["", f"![{CAPTIONS[name]}](charts/{name}.png)", "", f"*{CAPTIONS[name]}*"]
    made = summary.made
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    lines += ["", "## How this was made", "", f"- {made['runs']} runs on {'; '.join(made['devices'])}"]
    lines += [f"- backend {', '.join(made['backends'])}; {versions}", f"- commit {', '.join(made['commits'])}", ""]
    return "\n".join(lines)


def _html_table(summary: Summary, titles: list[str], rows: list[list[str]]):
    def entry(text: str) -> str:
        number, bracket, interval = html.escape(text).partition(" [")
        return f"<td>{number}" + (f' <span class="interval">[{interval}</span>' if bracket else "") + "</td>"

    head = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
    lines = [f"<table><thead><tr>{head}</tr></thead><tbody>"]
    for row in rows:
        kind = "baseline" if row[0] == summary.baseline else "tied" if row[0] in summary.tied else ""
        lines.append(f'<tr class="{kind}">{"".join(map(entry, row))}</tr>')
    return Markup("\n".join([*lines, "</tbody></table>"]))


# === Charts ===


def _draw(summary: Summary, spectra: dict[str, np.ndarray]) -> dict:
    drawn = {"score_by_cost": charts.score_by_cost(summary), "differences": charts.differences(summary)}
    if all(curve for variant in summary.variants for curve in variant.learning):
        drawn["learning"] = charts.learning(summary)
    return drawn | {"checkerboards": charts.checkerboards(summary, spectra)}


def _svg(figure) -> str:
    """A figure as an SVG element in the page's colours, light or dark."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    for colour, name in COLOURS.items():
        svg = svg.replace(colour.lower(), name)
    return svg


def _spectrum(network: keras.Model, run: Run) -> np.ndarray:
    depth = run.config.model.depth
    return checkerboard.harmonics(checkerboard.response(network, depth), 2**depth)


# === Test images ===


def _scenes(table: Table, networks: dict[str, keras.Model]) -> tuple[list[list[dict]], list[tuple[str, str]]]:
    """Pictures of a few test images as each network segments them, and the colours of the classes."""
    runs = table.shown
    dataset = data.prepare(next(iter(runs.values())).config.data)
    split, classes = dataset.test, len(dataset.classes)
    if len({run.config.data.size for run in runs.values()}) > 1:
        return [], []  # the networks see images of different sizes
    chosen = _telling_images(table)
    images, masks = np.asarray(split.images[chosen]), np.asarray(split.masks[chosen])
    predictions = {variant: predict_logits(network, images).argmax(-1) for variant, network in networks.items()}
    colours = class_colours(classes)
    scenes = []
    for index in range(len(chosen)):
        image, truth = images[index], masks[index]
        guesses = {variant: values[index] for variant, values in predictions.items()}
        window = _disputed(np.stack(list(guesses.values())), classes)
        scene = [
            {"name": "photograph", "note": split.names[chosen[index]], "source": _picture(_framed(image, window))},
            {"name": "truth", "note": "", "source": _picture(_zoom(image, colours[truth], window))},
        ]
        for variant, guess in guesses.items():
            score = float(mean(iou(*intersection_union(confusion(truth[None], guess[None], classes)[0]))))
            source = _picture(_zoom(image, colours[guess], window))
            scene.append({"name": variant, "note": f"mean IoU {score:.2f}", "source": source})
        scenes.append(scene)
    legend = [(name, "#{:02x}{:02x}{:02x}".format(*colours[index])) for index, name in enumerate(dataset.classes)]
    return scenes, legend


def _telling_images(table: Table) -> list[int]:
    """Indices of test images on which variants differ most, among those that are neither lost nor easy."""
    scores = []
    for run in table.shown.values():
        with np.load(run.counts_file(cell.SPLIT)) as counts:
            scores.append(mean(iou(*intersection_union(counts["confusion"])), axis=-1))
    typical, spread = np.median(scores, axis=0), np.std(scores, axis=0)
    middle = (typical >= np.nanpercentile(typical, 40)) & (typical <= np.nanpercentile(typical, 90))
    order = np.argsort(-np.where(middle, np.nan_to_num(spread), -1.0), kind="stable")
    return sorted(int(index) for index in order[:SCENES])


def _disputed(guesses: np.ndarray, classes: int) -> tuple[int, int, int]:
    """Top, left and side of the square in which the predictions ``(V, H, W)`` differ most."""
    votes = np.stack([(guesses == index).sum(0) for index in range(classes)])
    dissent = len(guesses) - votes.max(0)
    height, width = dissent.shape
    side = max(1, min(height, width) * 3 // 8)
    sums = np.pad(dissent, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    top, left = np.unravel_index(inside.argmax(), inside.shape)
    return int(top), int(left), side


def _framed(image: np.ndarray, window: tuple[int, int, int]) -> Image.Image:
    top, left, side = window
    factor = -(-TILE // min(image.shape[:2]))
    picture = Image.fromarray(image).resize(
        (image.shape[1] * factor, image.shape[0] * factor), Image.Resampling.BILINEAR
    )
    box = [left * factor, top * factor, (left + side) * factor - 1, (top + side) * factor - 1]
    ImageDraw.Draw(picture).rectangle(box, outline="white", width=2)
    return picture


def _zoom(image: np.ndarray, colours: np.ndarray, window: tuple[int, int, int]) -> Image.Image:
    """The window of a photograph with the classes' colours ``(H, W, 3)`` over it."""
    top, left, side = window
    part = np.s_[top : top + side, left : left + side]
    mixed = 0.4 * image[part] + 0.6 * colours[part]
    factor = -(-TILE // side)
    return Image.fromarray(mixed.round().astype(np.uint8)).resize((side * factor,) * 2, Image.Resampling.NEAREST)


def _picture(picture: Image.Image) -> str:
    """A data URL."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
