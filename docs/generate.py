#!/usr/bin/env python
"""Write the generated parts of the README and of the documentation from the registry and the committed results.

A generated part is between ``<!-- generated: PART -->`` and ``<!-- end of PART -->`` in a Markdown file; PART is
one of ``PARTS``, or ``card NAME`` for the figures of one upsampler in the gallery. Run with ``make figures``.
"""

import json
import os
import re
from pathlib import Path

from unet import cost, encoders, upsamplers
from unet.ablation.report import tables
from unet.ablation.report.results import Summary
from unet.files import write_text
from unet.model import build_unet

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
ABLATION = RESULTS / "upsamplers_encoder_cpu"
GALLERY = ROOT / "docs" / "upsamplers" / "index.md"
ENCODERS = ROOT / "docs" / "guides" / "pretrained.md"
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "index.md", GALLERY, ENCODERS)
MARKED = re.compile(r"(<!-- generated: (.+?) -->\n)(.*?)(<!-- end of \2 -->)", re.DOTALL)


def ablation(document: Path) -> list[str]:
    """Verdict, chart and table of the committed ablation."""
    summary = Summary.load(ABLATION / "summary.json")
    charts = os.path.relpath(ABLATION / "charts", document.parent)
    return [
        f"> {summary.verdict}",
        "",
        f"![Differences of mean IoU to {summary.baseline}, with intervals]({charts}/differences.png)",
        "",
        tables.overview(summary).as_markdown(),
    ]


def rules(document: Path) -> list[str]:
    """Name and rule of every upsampler."""
    gallery = os.path.relpath(GALLERY, document.parent)
    rows = [[f"[`{name}`]({gallery}#{name})", upsamplers.UPSAMPLERS[name].rule] for name in upsamplers.UPSAMPLERS]
    return table(["upsampler", "rule"], rows, left=2)


def overview(document: Path) -> list[str]:
    """Name, rule, score and cost of every upsampler."""
    variants = {one.name: one for one in Summary.load(ABLATION / "summary.json").variants}
    rows = []
    for name in upsamplers.UPSAMPLERS:
        score = f"{100 * variants[name].mean_iou:.1f}" if name in variants else "–"
        rows.append(
            [
                f"[`{name}`](#{name})",
                upsamplers.UPSAMPLERS[name].rule,
                score,
                "–".join(f"{ratio:.1f}" for ratio in extremes(slowdowns(name))) + "×" if slowdowns(name) else "–",
            ]
        )
    titles = ["upsampler", "rule after the projection", "mean IoU, %", "step time"]
    return table(titles, rows, left=2)


def card(name: str) -> list[str]:
    """Picture, options and costs of one upsampler."""
    options = ", ".join(f"`{key}={value}`" for key, value in defaults(name).items()) or "none"
    found = measurements(name)
    facts = [f"**Options**: {options}"]
    if found:
        facts.append(
            f"**Decoder step**: {times(slowdowns(name))} the time with `nearest`; "
            f"peak memory of the rule {joined(format(one['peak_mib'], '.0f') for one in found)} MiB"
        )
    if found and found[0]["rule_by_torch"] is not None:
        facts.append(f"**Against PyTorch**: {times(one['rule_by_torch'] for one in found)} the time of its operation")
    variants = {one.name: one for one in Summary.load(ABLATION / "summary.json").variants}
    if name in variants:
        one = variants[name]
        facts += [
            f"**In the small ablation**: mean IoU {tables.mean_iou(one)} %"
            + ("" if one.difference is None else f", difference to `nearest` {tables.difference(one)}"),
            f"**Cost of that network**: {one.parameters:,} parameters ({one.surplus_parameters:+,} beyond the "
            f"projection), {one.multiply_adds / 1e6:.1f} M multiply-adds ({one.surplus_multiply_adds / 1e6:+.1f} M), "
            f"{one.latency['1']['median_ms']:.1f} ms for one image",
        ]
    picture = f"![{name}: one pixel and its result, a photograph and its result]({name}.png)"
    return [picture, "", *(f"- {fact}" for fact in facts)]


def defaults(name: str) -> dict[str, object]:
    """Options of an upsampler with their defaults."""
    return {key: option.default for key, option in upsamplers.options(name).items()}


def measurements(name: str) -> list[dict]:
    """Committed timings of an upsampler with its default options, one for each shape; empty before it is measured."""
    found = json.loads((RESULTS / "upsamplers.json").read_text(encoding="utf-8"))["measurements"]
    own = [one for one in found if one["upsampler"].split(",")[0] == name]
    return [one for one in own if one["upsampler"] == own[0]["upsampler"]]


def slowdowns(name: str) -> list[float]:
    """Time of a decoder step with an upsampler over that with ``nearest``, one for each measured shape."""
    return [one["step_by_nearest"] for one in measurements(name)]


def extremes(ratios: list[float]) -> list[float]:
    """The least and the greatest, once if they round to the same."""
    low, high = min(ratios), max(ratios)
    return [low] if f"{low:.1f}" == f"{high:.1f}" else [low, high]


def table(titles: list[str], rows: list[list[str]], left: int) -> list[str]:
    """Lines of a Markdown table; the first ``left`` columns are text, the others numbers."""
    rule = ["---"] * left + ["---:"] * (len(titles) - left)
    return [f"| {' | '.join(row)} |" for row in (titles, rule, *rows)]


def times(ratios) -> str:
    """Ratios as "1.32× and 1.80×"."""
    return joined(f"{ratio:.2f}×" for ratio in ratios)


def joined(words) -> str:
    """Words joined by "and"."""
    return " and ".join(words)


def encoder_costs(document: Path) -> list[str]:
    """Name, description and cost of every pretrained encoder, without its stem."""
    rows = []
    for name, entry in encoders.ENCODERS.items():
        if entry.pretrained:
            costs = cost.stages(build_unet(3, encoder=name, width=16, input_shape=(128, 128, 3)))
            own = cost.total([stage for stage in costs if stage.name.startswith("encoder_")])
            channels = ", ".join(map(str, entry.channels))
            rows.append(
                [f"`{name}`", entry.description, channels, f"{own.parameters:,}", f"{own.multiply_adds / 1e6:,.0f} M"]
            )
    first = "channels at strides 2 to 32 (VGG-16: 1 to 32)"
    return table(["encoder", "what it is", first, "parameters", "multiply-adds at 128×128"], rows, left=3)


PARTS = {"ablation": ablation, "rules": rules, "overview": overview, "encoders": encoder_costs}


def generated(document: Path) -> str:
    """The text of a document with its generated parts written anew."""

    def part(match: re.Match) -> str:
        begin, name, _, end = match.groups()
        kind, _, upsampler = name.partition(" ")
        lines = card(upsampler) if kind == "card" else PARTS[kind](document)
        return begin + "\n" + "\n".join(lines) + "\n\n" + end

    return MARKED.sub(part, with_all_cards(document))


def with_all_cards(document: Path) -> str:
    """The text of a document; the gallery gets a section for every upsampler that has none yet."""
    text = document.read_text(encoding="utf-8")
    if document == GALLERY:
        for name in upsamplers.UPSAMPLERS:
            if f"<!-- generated: card {name} -->" not in text:
                text += f"\n## `{name}` {{ #{name} }}\n\n<!-- generated: card {name} -->\n<!-- end of card {name} -->\n"
    return text


def main() -> None:
    """Write every document."""
    for document in DOCUMENTS:
        write_text(document, generated(document))


if __name__ == "__main__":
    main()
