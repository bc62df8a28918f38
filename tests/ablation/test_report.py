"""From finished runs to the report, and the report in a browser."""

import csv
import json
import re
import shutil
import subprocess
import sys
import types
from dataclasses import replace

import numpy as np
import pytest

from tests.helpers import JIT, ROOT, SLOW_BEYOND_TENSORFLOW, browser
from tests.helpers.ablation import ENVIRONMENT
from tests.helpers.commands import run_unet
from unet.ablation.plan import grid
from unet.ablation.report import charts, markdown, page, results, tables
from unet.ablation.run import cell, measurements, scenes
from unet.ablation.run.finished import arrange
from unet.errors import InputError
from unet.runs import Run

pytestmark = SLOW_BEYOND_TENSORFLOW

SETTINGS = {
    "data": {"source": "shapes", "size": 32, "shapes": {"train": 40, "test": 6}},
    "model": {"width": 4, "depth": 1},
    "training": {"epochs": 2, "batch_size": 8, "jit": JIT == "true", "checkpoint_seconds": 0, "pictures_every": 0},
}
VARIANTS = ["nearest", {"name": "conv_transpose", "kernel_size": 3}]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Directory of an ablation of two upsamplers and two seeds, whose cells were finished before."""
    folder = tmp_path_factory.mktemp("ablation")
    file, root = folder / "grid.yaml", folder / "runs" / "drawn_scenes"
    vary = {"model.upsampler": VARIANTS, "seed": [0, 1]}
    file.write_text(json.dumps({"base": str(ROOT / "configs" / "demo.yaml"), "set": SETTINGS, "vary": vary}))
    for planned in grid.load(file).cells:
        cell.finish(Run.create(planned.config, root).path)
    code, out, err = run_unet("ablate", file, "name=drawn_scenes", "--root", root.parent, **ENVIRONMENT)
    assert code == 0, err
    assert "4 cells, 4 of them already finished" in err
    assert f"report: {root / 'report.html'}" in out
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
        recalls = [score["recall"]["border"]["dataset"] for score in scores]
        assert variant.recall["border"] == pytest.approx(np.mean(recalls))
        assert list(variant.precision) == ["pet", "background", "border"]
        bands = [score["band_accuracy"]["2"]["dataset"] for score in scores]
        assert variant.band_accuracy["2"] == pytest.approx(np.mean(bands))
        assert variant.parameters == runs[0]["cost"]["parameters"]
        assert variant.latency["1"]["median_ms"] <= variant.latency["1"]["p95_ms"]
        assert variant.latency["1"]["median_ms"] < variant.latency["32"]["median_ms"]
        with open(directory / "latency.json") as file:
            stored = json.load(file)["variants"]
        for batch, times in variant.latency.items():
            ratios = np.divide(stored[variant.name][batch]["times_ms"], stored["nearest"][batch]["times_ms"])
            assert len(ratios) == times["rounds"]
            assert times["ratio"] == pytest.approx(np.median(ratios))
            assert ratios.min() <= times["ratio_low"] <= times["ratio"] <= times["ratio_high"] <= ratios.max()
        assert [len(curve) for curve in variant.learning] == [2, 2]
        assert variant.peak_memory_mib > 1
        assert variant.checkerboard_initial == pytest.approx(
            np.mean([run["cost"]["checkerboard"]["initial"] for run in runs])
        )
    assert first.difference is None
    assert second.difference == pytest.approx(second.mean_iou - first.mean_iou)
    assert second.difference_low < second.difference < second.difference_high
    # Kernel 3 has 9 weights where the projection has 4, for 8 channels in and 4 out. It draws a checkerboard untrained.
    assert (first.surplus_parameters, second.surplus_parameters) == (0, 5 * 8 * 4)
    assert first.surplus_multiply_adds == 0
    assert first.checkerboard_initial < 1e-5
    assert second.checkerboard_initial > 0.01
    assert summary.made["runs"] == 4
    assert "data_dir" not in summary.made["config"]
    assert summary.title == "drawn_scenes"


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
def test_markdown_and_page_have_the_same_contents(directory, summary):
    page, text = ((directory / f"report.{ending}").read_text() for ending in ("html", "md"))
    plain = re.sub(r"<[^>]+>", "", page)
    assert summary.verdict in text
    assert summary.verdict.replace("<", "&lt;") in plain
    for table in (tables.quality(summary), tables.costs(summary)):
        assert table.as_markdown() in text
        for row in table.rows:
            assert all(str(entry) in plain for entry in row.entries)
    drawn = {path.name for path in (directory / "charts").iterdir()}
    assert drawn == {f"{name}.png" for name in charts.CAPTIONS}
    assert all(f"charts/{name}" in text for name in drawn)


@pytest.fixture
def copy(directory, tmp_path):
    """Copies of the runs, by name."""
    for path in directory.glob("*/config.yaml"):
        shutil.copytree(path.parent, tmp_path / path.parent.name)
    names = [f"{stem}-seed{seed}" for seed in (0, 1) for stem in ("nearest", "conv_transpose-kernel_size-3")]
    return {name: Run(tmp_path / name) for name in names}


def test_measurements_are_taken_once_and_again_when_a_run_changes(directory, summary, copy, tmp_path, monkeypatch):
    measured: list = []
    monkeypatch.setattr(measurements, "in_process", lambda names, *_: measured.append(list(names)))
    for name in ("latency.json", "spectra.npz", "scenes.npz"):
        shutil.copy(directory / name, tmp_path)
    runs = arrange(list(copy.values()))
    found = measurements.measure(runs, tmp_path, {})
    assert measured == []
    assert page.write(runs, found, tmp_path, "again").variants == summary.variants
    (tmp_path / "spectra.npz").unlink()  # as in a report of an earlier version
    with pytest.raises(InputError, match=r"spectra\.npz: cannot be read: No such file"):
        measurements.measure(runs, tmp_path, {})
    assert measured.pop() == ["spectra"]
    shutil.copy(directory / "spectra.npz", tmp_path)
    shutil.copy(copy["nearest-seed1"].best_file, copy["nearest-seed0"].best_file)  # another network is shown
    assert measurements.measure(runs, tmp_path, {}).scenes is None  # the stored ones are not its own
    assert measured == [["spectra", "scenes"]]


def test_stored_measurements_are_those_of_the_networks(directory, summary):
    runs = arrange([Run(path.parent) for path in sorted(directory.glob("*/config.yaml"))])
    found = measurements.measure(runs, directory, {})
    for variant in summary.variants:  # Parseval: the spectrum has the power of the pattern, here of seed 0
        initial = metrics(directory, runs.shown[variant.name].name)["cost"]["checkerboard"]["trained"]
        assert np.sqrt((found.spectra[variant.name] ** 2).sum()) == pytest.approx(initial, rel=1e-3, abs=1e-6)
    scenes = found.scenes
    assert scenes.predictions.shape == (2, *scenes.masks.shape)
    for variant, predictions, scores in zip(scenes.variants, scenes.predictions, scenes.scores):
        with np.load(runs.shown[variant].counts_file("test")) as counts:
            known = dict(zip(counts["names"].tolist(), counts["confusion"]))
        for name, mask, prediction, score in zip(scenes.names, scenes.masks, predictions, scores):
            assert (prediction == mask).sum() == known[name].trace()
            overlaps = [
                known[name][c, c] / (known[name][c].sum() + known[name][:, c].sum() - known[name][c, c])
                for c in range(3)
                if known[name][c].sum() + known[name][:, c].sum()
            ]
            assert score == pytest.approx(np.mean(overlaps))


def test_without_the_test_images_there_are_no_example_segmentations(directory, summary, monkeypatch, caplog):
    def missing(config):
        raise InputError("no folder of images")

    monkeypatch.setattr(scenes.data, "prepare", missing)
    run = Run(directory / "nearest-seed0")
    assert scenes.predict({"nearest": run}) is None
    assert "the report shows no example segmentations: no folder of images" in caplog.text
    assert "Example segmentations" in (directory / "report.html").read_text()
    assert "Example segmentations" not in page.as_html(summary, {}, None)


@pytest.mark.backend_free
@pytest.mark.parametrize("name", ["upsamplers_cpu", "upsamplers_encoder_cpu"])
def test_the_committed_report_is_that_of_the_committed_summary(name):
    committed = ROOT / "docs" / "results" / name
    drawn = [chart for chart in charts.CAPTIONS if (committed / "charts" / f"{chart}.png").is_file()]
    written = markdown.as_markdown(results.Summary.load(committed / "summary.json"), drawn)
    assert written == (committed / "report.md").read_text(encoding="utf-8"), "run `make figures`"


COMMITTED = results.Summary.load(ROOT / "docs" / "results" / "upsamplers_cpu" / "summary.json")


def with_times(ratios, **changes):
    """The committed summary with ratios of times and their intervals, by variant."""
    keys = ("ratio", "ratio_low", "ratio_high")

    def timed(variant):
        ratio = dict(zip(keys, ratios.get(variant.name, (1, 0.9, 1.1))))
        return replace(variant, latency={"1": variant.latency["1"] | ratio}, **changes)

    return replace(COMMITTED, variants=tuple(map(timed, COMMITTED.variants)))


@pytest.mark.backend_free
class TestCosts:
    """Charts, tables and notes about costs that were measured, or not, or are equal."""

    def test_times_are_drawn_relative_to_the_baseline_from_zero(self):
        summary = replace(
            with_times({"nearest": (1, 1, 1), "carafe": (1.5, 1.4, 1.7)}), fastest=("nearest", "bilinear")
        )
        times, work = charts.score_by_cost(summary).axes
        assert "relative to nearest (5.64 ms)" in times.get_xlabel()
        assert work.get_xlabel() == "multiply-adds per image (millions)"
        assert times.get_xlim()[0] == work.get_xlim()[0] == 0
        score = 100 * summary.variant("carafe").mean_iou
        bars = [line.get_xydata().tolist() for line in times.lines]
        assert [[1.4, score], [1.7, score]] in bars
        titles, row = tables.costs(summary).titles, tables.costs(summary).rows[-1]
        assert str(row.entries[titles.index("1 image, × nearest")]) == "1.50 [1.40, 1.70]"
        assert tables.cost_notes(summary) == []

    def test_costs_that_do_not_differ_are_not_drawn(self):
        everyone = tuple(variant.name for variant in COMMITTED.variants)
        equal_times = replace(with_times({}), fastest=everyone)
        (work,) = charts.score_by_cost(equal_times).axes
        assert "multiply-adds" in work.get_xlabel()
        nothing = replace(with_times({}, multiply_adds=7), fastest=everyone)
        assert charts.score_by_cost(nothing) is None
        text = markdown.as_markdown(nothing, ["differences"])
        for note in (
            "All variants have the same number of multiply-adds.",
            "The times for one image do not differ by more than their 95 % intervals.",
        ):
            assert note in text
            assert note in page.as_html(nothing, {}, None)

    def test_times_of_earlier_versions_have_no_interval_and_do_not_decide(self, directory):
        latency = json.loads((directory / "latency.json").read_text())
        for batches in latency["variants"].values():
            for times in batches.values():
                del times["times_ms"]
        runs = arrange([Run(path.parent) for path in sorted(directory.glob("*/config.yaml"))])
        found = results.summarise(runs, "title", None, latency, {})
        assert found.cost_name == "million multiply-adds"
        assert found.fastest == ()
        assert "ms, without intervals" in charts.score_by_cost(found).axes[0].get_xlabel()
        assert "The times were measured without intervals" in markdown.as_markdown(found, [])
        assert "× nearest" not in page.as_html(found, {}, None)


@pytest.mark.backend_free
@pytest.mark.parametrize("count", [3, 11])
def test_many_classes_have_a_table_of_their_own(count):
    iou = {f"class {index}": index / 100 for index in range(count)}
    summary = replace(COMMITTED, variants=tuple(replace(one, iou=iou) for one in COMMITTED.variants))
    table = tables.classes(summary)
    folded = set(iou).isdisjoint(tables.quality(summary).titles)
    text, html = markdown.as_markdown(summary, []), page.as_html(summary, {}, None)
    assert ("### IoU by class, %" in text) == ("<h3>IoU by class, %</h3>" in html) == folded == (count == 11)
    assert len({len(tables.quality(summary).titles), *(len(row.entries) for row in tables.quality(summary).rows)}) == 1
    if folded:
        assert table.titles == ("class", *(one.name for one in summary.best_first()))
        assert [str(entry) for entry in table.rows[10].entries] == ["class 10", *["10.0"] * 11]
        assert table.as_markdown() in text


@pytest.mark.backend_free
def test_a_message_is_text_and_not_markup(directory, summary):
    found = results.summarise(
        arrange([Run(path.parent) for path in sorted(directory.glob("*/config.yaml"))]),
        "title",
        None,
        {},
        {"carafe-seed0": "it was <too> hard"},
    )
    assert "carafe-seed0 failed: it was <too> hard" in found.warnings
    assert "it was &lt;too&gt; hard" in page.as_html(found, {}, None)


@pytest.mark.backend_free
def test_a_report_needs_neither_keras_nor_pyplot():
    code = "import sys, unet.ablation.report.page; print({'keras', 'matplotlib.pyplot'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


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
    pictures = scenes.COUNT * (2 + len(summary.variants))
    assert len(seen["figures"]) == len(charts.CAPTIONS) + pictures
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
def test_compare_measures_what_is_missing_and_writes_the_same_report(directory, summary, copy, tmp_path):
    plain = copy["nearest-seed0"]  # as unet train leaves a run
    plain.metrics_file.unlink()
    plain.counts_file("test").unlink()
    for name in ("latency.json", "spectra.npz", "scenes.npz"):
        shutil.copy(directory / name, tmp_path)
    arguments = ["compare", *(run.path for run in copy.values()), "--output", tmp_path]
    code, out, err = run_unet(*arguments, **ENVIRONMENT)
    assert code == 0, err
    assert f"report: {tmp_path / 'report.html'}" in out
    again = results.Summary.load(tmp_path / "summary.json")
    assert [one.mean_iou for one in again.variants] == [one.mean_iou for one in summary.variants]
    assert again.variants[1].p_holm == summary.variants[1].p_holm

    plain.write_history(plain.history()[:-1])  # one epoch short
    plain.metrics_file.unlink()
    code, _, err = run_unet(*arguments, **ENVIRONMENT)
    assert code == 2
    assert f"{plain.path} has not been trained to its last epoch; resume it: unet train {plain.path}" in err


@pytest.mark.backend_free
class TestWhatCannotBeCompared:
    def test_runs_of_one_variant(self, copy):
        with pytest.raises(InputError, match="nothing to compare: 2 runs of a single variant"):
            arrange([copy["nearest-seed0"], copy["nearest-seed1"]])

    def test_the_same_seed_twice(self, copy):
        with pytest.raises(InputError, match="have the same configuration and seed 0"):
            arrange([*copy.values(), Run(copy["nearest-seed0"].path)])

    def test_no_common_seed(self, copy):
        with pytest.raises(InputError, match=r"no seed is common to all variants.*nearest: 0"):
            arrange([copy["nearest-seed0"], copy["conv_transpose-kernel_size-3-seed1"]])

    def test_other_test_images(self, copy):
        file = copy["nearest-seed1"].counts_file("test")
        with np.load(file) as counts:
            np.savez(file, names=np.array([f"other_{name}" for name in counts["names"]]), confusion=counts["confusion"])
        with pytest.raises(InputError, match=r"nearest-seed1.* were tested on different images"):
            results.summarise(arrange(list(copy.values())), "title", "nearest", {}, {})

    def test_an_unknown_baseline(self, copy):
        with pytest.raises(InputError, match=r"baseline: 'neares' is not one of .*; did you mean nearest"):
            results.summarise(arrange(list(copy.values())), "title", "neares", {}, {})

    def test_seeds_that_not_all_variants_have_are_left_out(self, copy):
        runs = arrange([run for name, run in copy.items() if name != "nearest-seed1"])
        summary = results.summarise(runs, "title", None, {}, {})
        assert summary.seeds == (0,)
        assert "Runs with seed 1 are left out, because not every variant has finished them." in summary.warnings
        assert any("One seed only" in warning for warning in summary.warnings)
        assert summary.verdict.startswith("No verdict on training")
        assert summary.cost_name == "million multiply-adds"


@pytest.mark.backend_free
def test_a_single_epoch_has_no_learning_curves():
    single = replace(COMMITTED, variants=tuple(replace(one, learning=[[0.5]] * 3) for one in COMMITTED.variants))
    assert charts.learning(single) is None
    assert charts.learning(COMMITTED) is not None
