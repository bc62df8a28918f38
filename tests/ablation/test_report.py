"""From finished runs to the report, and the report as a browser shows it."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest

from tests.helpers import JIT, ROOT, browser
from unet.ablation.run import cell, grid, report, results
from unet.errors import InputError
from unet.runs import Run

SETTINGS = {
    "data": {"source": "shapes", "size": 32, "shapes": {"train": 40, "test": 6}},
    "model": {"width": 4, "depth": 2},
    "training": {"epochs": 2, "batch_size": 8, "jit": JIT == "true", "checkpoint_seconds": 0},
}
VARIANTS = ["nearest", {"name": "conv_transpose", "kernel_size": 3}]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Runs of two upsamplers and two seeds, and their report."""
    root = tmp_path_factory.mktemp("ablation")
    file = root / "grid.yaml"
    vary = {"model.upsampler": VARIANTS, "seed": [0, 1]}
    file.write_text(json.dumps({"base": str(ROOT / "configs" / "demo.yaml"), "set": SETTINGS, "vary": vary}))
    loaded = grid.load(file)
    runs = [Run.create(one.config, root) for one in loaded.cells]
    for run in runs:
        cell.work(run.path)
    report.write(runs, root, "drawn scenes", "nearest", dict(os.environ), {"carafe-seed0": "it was <too> hard"})
    return root


@pytest.fixture(scope="module")
def summary(directory):
    return results.Summary.load(directory / "summary.json")


def metrics(directory, name):
    return json.loads((directory / name / "metrics.json").read_text())


def test_the_summary_repeats_what_the_runs_measured(directory, summary):
    first, second = summary.variants
    assert (first.name, second.name) == ("nearest", "conv_transpose kernel_size=3")
    assert summary.seeds == (0, 1)
    assert summary.images == 6
    for variant, stem in ((first, "nearest"), (second, "conv_transpose-kernel_size-3")):
        runs = [metrics(directory, f"{stem}-seed{seed}") for seed in (0, 1)]
        scores = [run["test"] for run in runs]
        assert variant.mean_iou == pytest.approx(np.mean([score["mean_iou"]["dataset"] for score in scores]))
        assert variant.iou["pet"] == pytest.approx(np.mean([score["iou"]["pet"]["dataset"] for score in scores]))
        bands = [score["band_accuracy"]["2"]["dataset"] for score in scores]
        assert variant.band_accuracy["2"] == pytest.approx(np.mean(bands))
        assert variant.parameters == runs[0]["cost"]["parameters"]
        assert variant.latency["1"]["median_ms"] <= variant.latency["1"]["p95_ms"]
        assert variant.latency["1"]["median_ms"] < variant.latency["32"]["median_ms"]
        assert [len(curve) for curve in variant.learning] == [2, 2]
        assert variant.peak_memory_mib > 1
        assert variant.checkerboard_initial == pytest.approx(
            np.mean([run["cost"]["checkerboard"]["initial"] for run in runs])
        )
    assert first.difference is None
    assert second.difference == pytest.approx(second.mean_iou - first.mean_iou)
    assert second.difference_low < second.difference < second.difference_high
    # Kernel 3 has 9 weights where the projection has 4, and draws a checkerboard before any training.
    kernels = (16 * 8) + (8 * 4)  # channels into and out of the two upsamplers
    assert (first.surplus_parameters, second.surplus_parameters) == (0, 5 * kernels)
    assert first.surplus_multiply_adds == 0
    assert first.checkerboard_initial < 1e-5
    assert second.checkerboard_initial > 0.01
    assert summary.made["runs"] == 4
    assert "data_dir" not in summary.made["config"]
    assert "carafe-seed0 failed: it was <too> hard" in summary.warnings


def test_the_table_of_runs_has_every_number(directory):
    with open(directory / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["variant"], row["seed"]) for row in rows] == [
        ("nearest", "0"),
        ("conv_transpose kernel_size=3", "0"),
        ("nearest", "1"),
        ("conv_transpose kernel_size=3", "1"),
    ]
    wanted = metrics(directory, "nearest-seed1")
    row = rows[2]
    assert float(row["mean_iou.dataset"]) == wanted["test"]["mean_iou"]["dataset"]
    assert float(row["band_accuracy.16.per_image"]) == wanted["test"]["band_accuracy"]["16"]["per_image"]
    assert float(row["pet_iou.border_as_pet.dataset"]) == wanted["test"]["pet_iou"]["border_as_pet"]["dataset"]
    assert int(row["multiply_adds"]) == wanted["cost"]["multiply_adds"]
    assert float(row["checkerboard.trained"]) == wanted["cost"]["checkerboard"]["trained"]
    assert float(row["latency.32.p95_ms"]) > 0


@pytest.mark.backend_free
def test_markdown_and_page_say_the_same(directory, summary):
    page, text = ((directory / f"report.{ending}").read_text() for ending in ("html", "md"))
    plain = re.sub(r"<[^>]+>", "", page)
    assert summary.verdict in text
    assert summary.verdict.replace("<", "&lt;") in plain
    assert "it was &lt;too&gt; hard" in page  # a message is text, not markup
    for _, rows in (report.quality_table(summary), report.cost_table(summary)):
        for row in rows:
            assert f"| {' | '.join(row)} |" in text
            assert all(cell.split(" [")[0] in plain for cell in row)
    charts = {path.name for path in (directory / "charts").iterdir()}
    assert charts == {f"{name}.png" for name in report.CAPTIONS}
    assert all(f"charts/{name}" in text for name in charts)


def test_inference_times_are_measured_once(directory, summary, tmp_path):
    for path in directory.glob("*/config.yaml"):
        shutil.copytree(path.parent, tmp_path / path.parent.name)
    shutil.copy(directory / "latency.json", tmp_path)
    names = [f"{stem}-seed{seed}" for seed in (0, 1) for stem in ("nearest", "conv_transpose-kernel_size-3")]
    again = report.write([Run(tmp_path / name) for name in names], tmp_path, "again", "nearest", {})
    assert again.variants == summary.variants


@pytest.mark.backend_free
def test_the_pareto_front():
    """By hand: (cost, score); the third is beaten by the second, the last equals the fourth."""
    points = [(1, 0.2), (2, 0.5), (3, 0.4), (4, 0.7), (5, 0.7), (1, 0.1), (4, 0.7)]
    variants = [types.SimpleNamespace(mean_iou=score) for _, score in points]
    assert results.pareto_front(variants, [cost for cost, _ in points]) == [0, 1, 3, 6]


@pytest.mark.backend_free
@browser.needs_chromium
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_in_a_browser(directory, summary, tmp_path, width, dark):
    seen = browser.look(directory / "report.html", width, dark, tmp_path)
    assert seen["problems"] == []
    assert seen["fetched"] == []
    assert seen["broken"] == 0
    full, visible = seen["page"]
    assert full <= visible  # tables scroll in their own boxes
    pictures = report.SCENES * (2 + len(summary.variants))
    assert len(seen["figures"]) == len(report.CAPTIONS) + pictures
    for left, _, wide, high in seen["figures"]:
        assert wide > 90
        assert high > 90
        assert left >= 0
        assert left + wide <= visible
    assert seen["smallest"] >= 7
    assert seen["chart_ink"] == seen["ink"]

    def luminance(colour):
        parts = np.array([int(part) for part in re.findall(r"\d+", colour)[:3]]) / 255
        return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]

    paper, ink = luminance(seen["background"]), luminance(seen["ink"])
    assert (paper < ink) == dark
    assert (max(paper, ink) + 0.05) / (min(paper, ink) + 0.05) > 7  # WCAG's enhanced contrast


@pytest.mark.backend_free
def test_compare_measures_what_is_missing_and_writes_the_same_report(directory, summary, tmp_path):
    for path in directory.glob("*/config.yaml"):
        shutil.copytree(path.parent, tmp_path / path.parent.name)
    plain = tmp_path / "nearest-seed0"  # as scripts/train.py leaves a run
    for name in ("metrics.json", "counts_test.npz"):
        (plain / name).unlink()
    names = [f"{stem}-seed{seed}" for seed in (0, 1) for stem in ("nearest", "conv_transpose-kernel_size-3")]
    command = [sys.executable, "scripts/compare.py", *(str(tmp_path / name) for name in names)]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "both")], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert f"report: {tmp_path / 'both' / 'report.html'}" in done.stdout
    again = results.Summary.load(tmp_path / "both" / "summary.json")
    assert [one.mean_iou for one in again.variants] == [one.mean_iou for one in summary.variants]
    assert again.variants[1].p_holm == summary.variants[1].p_holm

    history = plain / "history.csv"  # one epoch short
    history.write_text("\n".join(history.read_text().splitlines()[:-1]) + "\n")
    plain.joinpath("metrics.json").unlink()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"{plain} is not trained to its end; go on: unet train {plain}" in done.stderr


@pytest.mark.backend_free
class TestWhatCannotBeCompared:
    @pytest.fixture
    def runs(self, directory, tmp_path):
        for path in directory.glob("*/config.yaml"):
            shutil.copytree(path.parent, tmp_path / path.parent.name)
        return {path.parent.name: Run(path.parent) for path in tmp_path.glob("*/config.yaml")}

    def test_runs_of_one_variant(self, runs):
        with pytest.raises(InputError, match="differ in nothing but their seed"):
            results.arrange([runs["nearest-seed0"], runs["nearest-seed1"]])

    def test_the_same_seed_twice(self, runs):
        with pytest.raises(InputError, match="have the same configuration and seed 0"):
            results.arrange([*runs.values(), Run(runs["nearest-seed0"].path)])

    def test_no_common_seed(self, runs):
        with pytest.raises(InputError, match=r"no seed is finished for every variant.*nearest: 0"):
            results.arrange([runs["nearest-seed0"], runs["conv_transpose-kernel_size-3-seed1"]])

    def test_an_unfinished_run(self, runs):
        runs["nearest-seed0"].metrics_file.unlink()
        with pytest.raises(InputError, match="nearest-seed0 is not finished"):
            results.arrange(list(runs.values()))

    def test_other_test_images(self, runs):
        file = runs["nearest-seed1"].counts_file("test")
        with np.load(file) as counts:
            np.savez(file, names=np.array([f"other_{name}" for name in counts["names"]]), confusion=counts["confusion"])
        table = results.arrange(list(runs.values()))
        with pytest.raises(InputError, match=r"nearest-seed1.* were tested on different images"):
            results.summarise(table, "title", "nearest", {}, {})

    def test_an_unknown_baseline(self, runs):
        table = results.arrange(list(runs.values()))
        with pytest.raises(InputError, match=r"'neares' is not one of .*; did you mean nearest"):
            results.summarise(table, "title", "neares", {}, {})

    def test_seeds_that_not_all_have_are_left_out_and_told(self, runs):
        table = results.arrange([run for name, run in runs.items() if name != "nearest-seed1"])
        summary = results.summarise(table, "title", "nearest", {}, {})
        assert summary.seeds == (0,)
        assert any("not every variant has finished them: runs of seed 1." in warning for warning in summary.warnings)
        assert any("One seed only" in warning for warning in summary.warnings)
        assert summary.verdict.startswith("No verdict on training")
        assert summary.cost_name == "million multiply-adds"
