"""Figures in the README and the configurations are those of the committed results; links lead somewhere."""

import json
import re

import pytest

from benchmarks import export_matrix
from scripts import figures
from tests.helpers import ROOT
from unet import upsamplers
from unet.ablation.report.results import Summary

pytestmark = pytest.mark.backend_free
RESULTS = ROOT / "docs" / "results"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def scores(folder):
    return json.loads((RESULTS / folder / "metrics.json").read_text(encoding="utf-8"))["test"]


@pytest.mark.parametrize("upsampler", ["conv_transpose", "max_unpool"])
def test_the_readme_shows_the_committed_scores(upsampler):
    found = scores(f"pets_cpu/{upsampler}")
    assert found["images"] == 3669
    values = [
        found["mean_iou"],
        *(found["iou"][name] for name in ("pet", "background", "border")),
        found["pixel_accuracy"],
        found["mean_boundary_iou"],
        found["pet_iou"]["border_as_pet"],
    ]
    row = " | ".join([f"`{upsampler}`", *(f"{value['dataset']:.3f}" for value in values)])
    assert f"| {row} |" in README


def test_the_readme_shows_the_committed_ablation():
    directory = "docs/results/upsamplers_cpu"
    summary = Summary.load(ROOT / directory / "summary.json")
    _, _, rest = README.partition(figures.BEGIN + "\n")
    assert rest.partition(figures.END)[0] == figures.block(summary, directory), "run `make figures`"
    assert len(summary.variants) >= 6
    assert len(summary.seeds) >= 3
    assert summary.images == 3669
    for variant in summary.variants:
        for seed in summary.seeds:
            stem = variant.name.replace(" ", "-").replace("=", "-")
            found = json.loads((ROOT / directory / "cells" / f"{stem}-seed{seed}" / "metrics.json").read_text())
            assert found["cost"]["parameters"] == variant.parameters
    report = (ROOT / directory / "report.md").read_text(encoding="utf-8")
    assert summary.verdict in report


def test_the_page_on_export_is_made_from_the_committed_results():
    matrix = json.loads((RESULTS / "export" / "matrix.json").read_text(encoding="utf-8"))
    written = (RESULTS / "export.md").read_text(encoding="utf-8")
    assert written == export_matrix.as_markdown(matrix), "run `make export-matrix`"
    assert matrix["cells"].keys() == upsamplers.UPSAMPLERS.keys()
    for upsampler, cells in matrix["cells"].items():
        assert len(cells) == len(export_matrix.FLOAT + export_matrix.QUANTIZED)
        for cell in cells.values():
            assert "error" not in cell
        for name, _ in export_matrix.FLOAT:
            assert cells[name]["within"] == 1 or (upsampler == "max_unpool" and cells[name]["within"] > 0.99)
            assert cells[name]["same_class"] >= 0.999


@pytest.mark.parametrize(("name", "folder"), [("demo", "demo"), ("pets_cpu", "pets_cpu/conv_transpose")])
def test_the_table_of_configurations_shows_the_committed_scores(name, folder):
    row = next(line for line in README.splitlines() if line.startswith(f"| [`{name}.yaml`]"))
    assert row.endswith(f"mean IoU {scores(folder)['mean_iou']['dataset']:.3f} |")


def test_the_configuration_tells_the_committed_score():
    text = (ROOT / "configs" / "pets_cpu.yaml").read_text(encoding="utf-8")
    for upsampler in ("conv_transpose", "max_unpool"):
        assert f"{scores(f'pets_cpu/{upsampler}')['mean_iou']['dataset']:.3f} ({upsampler})" in text


@pytest.mark.parametrize(
    "document",
    [
        "README.md",
        "CONTRIBUTING.md",
        "docs/results/README.md",
        "docs/results/export.md",
        "docs/results/upsamplers_cpu/report.md",
        "docs/adding-an-upsampler.md",
    ],
)
def test_links_lead_to_files_that_are_there(document):
    file = ROOT / document
    links = re.findall(r"\]\((?!https?://)([^)#]+)", file.read_text(encoding="utf-8"))
    missing = [link for link in links if not (file.parent / link).exists()]
    assert missing == []


def test_every_upsampler_and_its_options_are_in_the_readme():
    for name in upsamplers.UPSAMPLERS:
        row = next(line for line in README.splitlines() if line.startswith(f"| `{name}` |") and line.count("|") == 4)
        assert re.findall(r"`(\w+)`", row.split("|")[3]) == list(upsamplers.options(name))


def test_every_shipped_configuration_is_in_the_readme():
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert f"(configs/{path.relative_to(ROOT / 'configs')})" in README
