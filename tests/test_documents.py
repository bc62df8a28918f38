"""Figures in the README and the configurations are those of the committed results; links lead somewhere."""

import json
import re

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.backend_free
RESULTS = ROOT / "docs" / "results" / "pets_cpu"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def scores(upsampler):
    return json.loads((RESULTS / upsampler / "metrics.json").read_text(encoding="utf-8"))["test"]


@pytest.mark.parametrize("upsampler", ["conv_transpose", "max_unpool"])
def test_the_readme_shows_the_committed_scores(upsampler):
    found = scores(upsampler)
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


def test_the_configuration_tells_the_committed_score():
    text = (ROOT / "configs" / "pets_cpu.yaml").read_text(encoding="utf-8")
    for upsampler in ("conv_transpose", "max_unpool"):
        assert f"{scores(upsampler)['mean_iou']['dataset']:.3f} ({upsampler})" in text


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "docs/results/README.md"])
def test_links_lead_to_files_that_are_there(document):
    file = ROOT / document
    links = re.findall(r"\]\((?!https?://)([^)#]+)", file.read_text(encoding="utf-8"))
    missing = [link for link in links if not (file.parent / link).exists()]
    assert missing == []


def test_every_shipped_configuration_is_in_the_readme():
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert f"(configs/{path.relative_to(ROOT / 'configs')})" in README
