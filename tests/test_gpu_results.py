"""The steps of ``make gpu-results``: their commands can be run, and their results appear whole, once."""

import time

import pytest

from benchmarks import gpu_results
from benchmarks.gpu_results import Step
from unet import config
from unet.ablation.plan import grid
from unet.errors import RunError

pytestmark = pytest.mark.backend_free


def test_every_command_has_a_valid_configuration(tmp_path):
    settings = ["data.source=folder", f"data.data_dir={tmp_path}", "training.epochs=2"]
    steps = gpu_results.steps(tmp_path / "runs", settings, seeds=3, workers=4, encoder=True)
    assert [step.name for step in steps] == [
        *("training_speed", "layers", "pets", "pets_encoder"),
        *("ablation_1_seeds", "ablation_2_seeds", "ablation_3_seeds", "training_speed_float32"),
    ]
    for step in steps:
        command, name, *arguments = step.commands[0]
        settings = [argument for argument in arguments if "=" in argument]
        if command == "train":
            loaded = config.load(name, settings)
            assert loaded.training.epochs == 2
            assert step.source == tmp_path / "runs" / loaded.name
        elif command == "ablate":
            cells = grid.load(name, settings)
            assert {cell.config.seed for cell in cells.cells} == set(range(int(step.name.split("_")[1])))
            assert step.source == tmp_path / "runs" / cells.name


def test_results_of_a_step_are_copied_once(tmp_path):
    source = tmp_path / "runs" / "pets"
    (source / "cells").mkdir(parents=True)
    for name in ("metrics.json", "cells/results.csv", "best.keras", "config.yaml", "data.csv", "log.txt"):
        (source / name).write_text("1")
    step = Step("pets", (("--version",),), source)
    for _ in range(2):
        assert gpu_results.run(step, tmp_path, time.monotonic() + 60)
        (source / "metrics.json").write_text("2")  # not copied again
    copied = {str(path.relative_to(tmp_path / "pets")) for path in (tmp_path / "pets").rglob("*") if path.is_file()}
    assert copied == {"metrics.json", "cells/results.csv"}
    assert (tmp_path / "pets" / "metrics.json").read_text() == "1"


def test_a_command_is_stopped_when_the_time_is_over(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_results, "GRACE_SECONDS", 5)
    step = Step("pets", (("train", "demo", "--root", str(tmp_path)),), tmp_path / "demo")
    started = time.monotonic()
    assert not gpu_results.run(step, tmp_path / "results", started)
    assert time.monotonic() - started < 15
    assert not (tmp_path / "results").exists()


def test_a_failing_command_is_named(tmp_path):
    with pytest.raises(RunError, match="pets: unet train ended with exit code 2"):
        gpu_results.run(Step("pets", (("train", "nonsense"),), tmp_path), tmp_path, time.monotonic() + 60)
    assert list(tmp_path.iterdir()) == []
