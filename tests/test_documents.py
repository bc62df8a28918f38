"""Figures, tables and names in README and documentation are those of the committed results; links lead somewhere."""

import ast
import graphlib
import json
import os
import re
import subprocess
import sys
from urllib.parse import unquote

import numpy as np
import pytest

from benchmarks import export_matrix
from docs import gallery, generate
from tests.helpers import ROOT
from unet import upsamplers
from unet.ablation.report.results import Summary

pytestmark = pytest.mark.backend_free
DOCS = ROOT / "docs"
RESULTS = DOCS / "results"
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONFIGURE = (DOCS / "guides" / "configure.md").read_text(encoding="utf-8")
GALLERY = (DOCS / "upsamplers" / "index.md").read_text(encoding="utf-8")
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "SECURITY.md",
    *sorted(DOCS.rglob("*.md")),
]
COMMANDS = [*DOCUMENTS, *sorted((ROOT / "configs").rglob("*.yaml"))]
CONFIGURATIONS = sorted(
    path.relative_to(ROOT / "configs").with_suffix("").as_posix() for path in (ROOT / "configs").rglob("*.yaml")
)


def scores(folder):
    return json.loads((RESULTS / folder / "metrics.json").read_text(encoding="utf-8"))["test"]


def name_of(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize(
    ("title", "folder"),
    [
        ("`conv_transpose`", "pets_cpu/conv_transpose"),
        ("`max_unpool`", "pets_cpu/max_unpool"),
        ("`conv_transpose`, `pets`", "gpu/pets"),
        ("`conv_transpose`, `pets_encoder`", "pets_encoder/efficientnet_lite2"),
    ],
)
def test_the_readme_shows_the_committed_scores(title, folder):
    found = scores(folder)
    assert found["images"] == 3669
    values = [
        found["mean_iou"],
        *(found["iou"][name] for name in ("pet", "background", "border")),
        found["pixel_accuracy"],
        found["mean_boundary_iou"],
        found["pet_iou"]["border_as_pet"],
    ]
    row = " | ".join([title, *(f"{value['dataset']:.3f}" for value in values)])
    assert f"| {row} |" in README


@pytest.mark.parametrize(
    "document",  # costs of encoders are those of networks that have to be built
    [pytest.param(path, marks=[pytest.mark.slow] * (path == generate.ENCODERS)) for path in generate.DOCUMENTS],
    ids=name_of,
)
def test_generated_parts_are_up_to_date(document):
    assert document.read_text(encoding="utf-8") == generate.generated(document), "run `make figures`"


def test_the_readme_shows_the_scores_of_every_variant_of_the_committed_ablation():
    directory = RESULTS / "upsamplers_encoder_cpu"
    summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    assert len(summary["variants"]) >= 6
    assert len(summary["seeds"]) >= 3
    assert summary["images"] == 3669
    assert summary["verdict"] in README
    assert summary["verdict"] in (directory / "report.md").read_text(encoding="utf-8")
    _, _, table = README.partition("<!-- generated: ablation -->")
    for variant in summary["variants"]:
        row = next(line for line in table.splitlines() if line.startswith(f"| `{variant['name']}` | "))
        assert f"| {100 * variant['mean_iou']:.2f} [" in row
        assert f"| {variant['parameters']:,} |" in row


@pytest.mark.parametrize("directory", sorted(path.parent for path in RESULTS.glob("*/summary.json")), ids=name_of)
def test_the_committed_cells_are_those_of_the_summary(directory):
    summary = Summary.load(directory / "summary.json")
    for variant in summary.variants:
        for seed in summary.seeds:
            stem = variant.name.replace(" ", "-").replace("=", "-")
            found = json.loads((directory / "cells" / f"{stem}-seed{seed}" / "metrics.json").read_text())
            assert found["cost"]["parameters"] == variant.parameters


def test_the_page_on_export_is_made_from_the_committed_results():
    matrix = json.loads((RESULTS / "export" / "matrix.json").read_text(encoding="utf-8"))
    written = (RESULTS / "export.md").read_text(encoding="utf-8")
    assert written == export_matrix.as_markdown(matrix), "run `make export-matrix`"
    assert len(matrix["cells"]) >= 13
    assert matrix["cells"].keys() <= upsamplers.UPSAMPLERS.keys()
    for upsampler, cells in matrix["cells"].items():
        assert len(cells) == len(export_matrix.FLOAT + export_matrix.QUANTIZED)
        for cell in cells.values():
            assert "error" not in cell
        for name, _ in export_matrix.FLOAT:
            assert cells[name]["within"] == 1 or (upsampler == "max_unpool" and cells[name]["within"] > 0.99)
            assert cells[name]["same_class"] >= 0.999


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("demo", "demo"),
        ("pets", "gpu/pets"),
        ("pets_cpu", "pets_cpu/conv_transpose"),
        ("pets_encoder", "pets_encoder/efficientnet_lite2"),
    ],
)
def test_the_table_of_configurations_shows_the_committed_scores(name, folder):
    row = next(line for line in CONFIGURE.splitlines() if line.startswith(f"| `{name}` |"))
    assert row.endswith(f"mean IoU {scores(folder)['mean_iou']['dataset']:.3f} |")


def test_the_configuration_quotes_the_committed_score():
    text = (ROOT / "configs" / "pets_cpu.yaml").read_text(encoding="utf-8")
    for upsampler in ("conv_transpose", "max_unpool"):
        assert f"{scores(f'pets_cpu/{upsampler}')['mean_iou']['dataset']:.3f} ({upsampler})" in text
    text = (ROOT / "configs" / "pets.yaml").read_text(encoding="utf-8")
    assert f"official test split: {scores('gpu/pets')['mean_iou']['dataset']:.3f};" in text
    text = (ROOT / "configs" / "pets_encoder.yaml").read_text(encoding="utf-8")
    for folder in ("pets_encoder/efficientnet_lite2", "pets_cpu/conv_transpose"):
        assert f"{scores(folder)['mean_iou']['dataset']:.3f}" in text


@pytest.mark.parametrize(
    ("row", "folder"),
    [
        ("| `efficientnet_lite2` | ImageNet | 11 |", "pets_encoder/efficientnet_lite2"),
        ("| `efficientnet_lite2` | random | 11 |", "pets_encoder/efficientnet_lite2_random"),
        ("| `plain` (`pets_cpu`) | random | 8 |", "pets_cpu/conv_transpose"),
    ],
)
def test_the_table_of_initial_weights_shows_the_committed_scores(row, folder):
    found = scores(folder)
    values = [found["mean_iou"], *(found["iou"][name] for name in ("pet", "background", "border"))]
    expected = " | ".join(f"{value['dataset']:.3f}" for value in values)
    assert f"{row} {expected} |" in (RESULTS / "README.md").read_text(encoding="utf-8").splitlines()


def test_the_binary_comparison_shows_the_committed_scores():
    text = (RESULTS / "README.md").read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith("| `pets_encoder`: "))
    found = scores("pets_encoder/efficientnet_lite2")["pet_iou"]["border_as_pet"]
    assert row.endswith(f"| 128×128 | {found['dataset']:.3f} | {found['per_image']:.3f} |")


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_to_files_that_exist(document):
    links = re.findall(r"\]\((?!https?://)([^)#]+)", without_code(document))
    missing = [link for link in links if not (document.parent / link).exists() and not is_generated(document, link)]
    assert missing == []


def without_code(document):
    return re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)


def is_generated(document, link):
    """The pages that the site makes from the notebooks."""
    target = (document.parent / link).resolve()
    return target.parent == DOCS / "notebooks" and (ROOT / "notebooks" / target.name).with_suffix(".ipynb").exists()


def test_every_upsampler_has_a_row_a_section_its_options_and_a_picture():
    for name in upsamplers.UPSAMPLERS:
        assert re.search(rf"^\| \[`{name}`\]\(docs/upsamplers/index.md#{name}\) \| \S", README, re.MULTILINE)
        section = re.search(rf"^## `{name}` \{{ #{name} \}}$(.*?)(?=^## |\Z)", GALLERY, re.MULTILINE | re.DOTALL)[1]
        options = re.search(r"^- \*\*Options\*\*: (.*)$", section, re.MULTILINE)[1]
        assert re.findall(r"`(\w+)=", options) == list(upsamplers.options(name))
        assert "**When to use it**" in section or "**Decoder step**" not in section  # not measured yet
        assert (DOCS / "upsamplers" / f"{name}.png").is_file()


@pytest.mark.parametrize("name", upsamplers.UPSAMPLERS)
def test_the_gallery_draws_every_upsampler(name):
    image = np.arange(196).reshape(14, 14) / 196
    small, large = gallery.enlarged(name, image)
    assert (small.shape, large.shape) == ((7, 7), (14, 14))
    if name == "nearest":
        assert np.allclose(large, np.kron(small, np.ones((2, 2))))
    if name == "max_unpool":
        assert np.array_equal(large != 0, np.kron(np.ones((7, 7)), [[0, 0], [0, 1]]) == 1)


def test_every_shipped_configuration_is_in_the_table_of_configurations():
    rows = re.findall(r"^\| `([\w/]+)` \|", CONFIGURE, re.MULTILINE)
    assert set(CONFIGURATIONS) <= set(rows)


@pytest.mark.parametrize("document", COMMANDS, ids=name_of)
def test_commands_exist_and_name_shipped_configurations(document):
    from unet.commands import COMMANDS as known

    for command, argument in re.findall(r"\bunet ([a-z-]+) ([\w./-]+)", code(document)):
        assert command in known, f"unet {command}"
        if command in ("train", "ablate", "summary") and re.fullmatch(r"[\w/]+", argument):
            assert argument in CONFIGURATIONS or argument.startswith("runs/"), f"unet {command} {argument}"


def code(document):
    text = document.read_text(encoding="utf-8")
    return text if document.suffix == ".yaml" else "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))


def layers():
    """The layer of every module in the picture of CONTRIBUTING.md; 0 is the lowest."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    picture = re.search(r"```text\n(commands\n.*?)```", text, re.DOTALL)[1].split("↓")
    return {name: -index for index, line in enumerate(picture) for name in re.findall(r"\w+", line)}


def imports(path):
    """Modules of the package, by their names in it, that a file imports anywhere."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "unet":
            _, _, inner = node.module.partition(".")
            yield from [inner.partition(".")[0]] if inner else [alias.name for alias in node.names]


def test_modules_import_downwards_only_as_contributing_says():
    layer, graph = layers(), {}
    for path in (ROOT / "unet").rglob("*.py"):
        name = path.relative_to(ROOT / "unet").with_suffix("").parts[0]
        if not name.startswith("__"):
            graph.setdefault(name, set()).update({one for one in imports(path) if one in layer and one != name})
    assert graph.keys() == layer.keys()
    upwards = [(name, one) for name, found in graph.items() for one in found if layer[one] > layer[name]]
    assert upwards == []
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # as `make docs` does
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    assert "excluded" not in done.stderr
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert {"index.html", "upsamplers/index.html", "notebooks/01_convolution_arithmetic.html", "changelog.html"} <= {
        page.relative_to(tmp_path / "site").as_posix() for page in pages
    }
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]+src=[\"'](https?://[^\"']+)", text)
        loaded += re.findall(
            r"<link[^>]+rel=[\"'](?:stylesheet|preconnect)[\"'][^>]*href=[\"'](https?://[^\"']+)", text
        )
        assert loaded == [], page.name
        assert page.parent.name != "api" or not re.search(r":(class|func|meth|mod):", text), page.name
        linked = {unquote(link) for link in re.findall(r'<a[^>]+href="(?!https?:|#|mailto:|/)([^"#]+)', text)}
        assert [link for link in linked if not (page.parent / link).exists()] == [], page.name
    formulas = (tmp_path / "site" / "notebooks" / "01_convolution_arithmetic.html").read_text(encoding="utf-8")
    assert formulas.count("<math") > 50
    assert "\\lfloor" not in formulas
