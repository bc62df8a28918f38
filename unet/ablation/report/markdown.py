"""The report as Markdown."""

from unet.ablation.report import tables
from unet.ablation.report.charts import CAPTIONS
from unet.ablation.report.results import Summary


def as_markdown(summary: Summary, charts: list[str]) -> str:
    """The report as Markdown.

    Args:
        summary: The results.
        charts: Names of the charts, which are linked as ``charts/NAME.png``.
    """
    seeds = ", ".join(map(str, summary.seeds))
    made = summary.made
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    lines = [f"# {summary.title}: which upsampling?", "", f"**{summary.verdict}**", ""]
    lines += [f"{len(summary.variants)} variants × seeds {seeds}, {summary.images:,} test images."]
    lines += ["", *(f"- {warning}" for warning in summary.warnings), ""]
    lines += ["## Scores", "", tables.quality(summary).as_markdown(), ""]
    by_class = tables.classes(summary)
    if by_class:
        lines += ["### IoU by class, %", "", by_class.as_markdown(), ""]
    lines += ["## Costs", "", tables.costs(summary).as_markdown()]
    for note in tables.cost_notes(summary):
        lines += ["", note]
    for name in charts:
        lines += ["", f"![{CAPTIONS[name]}](charts/{name}.png)", "", f"*{CAPTIONS[name]}*"]
    lines += ["", "## How this was made", "", f"- {made['runs']} runs on {'; '.join(made['devices'])}"]
    lines += [f"- backend {', '.join(made['backends'])}; {versions}", f"- commit {', '.join(made['commits'])}", ""]
    return "\n".join(lines)
