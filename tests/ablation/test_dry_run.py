"""What a dry run prints, and that it leaves nothing behind."""

import json
import math
import re

import pytest

from tests.helpers.ablation import ENVIRONMENT, SETTINGS, make_grid
from tests.helpers.commands import run_unet
from unet import backend, cost
from unet.ablation.plan import grid
from unet.ablation.run import dry_run
from unet.errors import InputError
from unet.model import from_config
from unet.runs import Run

pytestmark = pytest.mark.backend_free


def rows(output: str) -> dict[str, list[str]]:
    """Cells of a printed table by the first of each row."""
    lines = [[part.strip() for part in line.split("│")[1:-1]] for line in output.splitlines() if line.startswith("│")]
    return {line[0]: line[1:] for line in lines}


def finish(config, root, images_per_second: float) -> None:
    """Write what a finished cell leaves behind, as far as the dry run looks."""
    run = Run.create(config, root)
    run.write_metrics("test", {})
    run.write_metrics("cost", {"images_per_second": images_per_second})
    run.counts_file("test").touch()


def start(config, root, epochs: int) -> None:
    """Write what a stopped cell leaves behind."""
    Run.create(config, root).write_history([{"epoch": epoch + 1, "loss": 0.0} for epoch in range(epochs)])


def expected_costs(config) -> list[str]:
    """Parameters and multiply-adds counted on the network, each with the surplus beyond the projections."""
    network = from_config(config, 3, fixed_size=True)
    parameters = sum(math.prod(weight.shape) for weight in network.weights)
    work = sum(cost.multiply_adds(layer) for layer in network.layers)
    surplus = cost.surplus(network)
    return [f"{parameters:,}", f"+{surplus[0]:,}", f"{work / 1e6:,.1f} M", f"+{surplus[1] / 1e6:,.1f} M"]


@pytest.fixture
def cells(tmp_path):
    """A grid with two seeds and 30 epochs: 36 training images make 4 steps, validation and test 1 batch each."""
    make_grid(tmp_path, "nearest", "carafe")
    return grid.load(tmp_path / "tiny.yaml", [*SETTINGS, "vary.seed=[0, 1]", "training.epochs=30"])


def test_the_speed_of_finished_cells_is_used_for_the_others(cells, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(dry_run.measurements, "in_process", lambda *_: pytest.fail("no time needs to be measured"))
    root = tmp_path / "runs"
    nearest, carafe, nearest_1, carafe_1 = [cell.config for cell in cells.cells]
    finish(nearest, root, images_per_second=16)  # 0.5 s a step
    finish(carafe, root, images_per_second=2)  # 4 s a step
    start(carafe_1, root, epochs=20)
    Run.create(nearest_1, root)  # created, but never started
    left = dry_run.seconds_left(cells, root, {}, dry_run.variant_costs(cells))
    # A step, and a third of it for a batch of validation or test; 15 s to start.
    assert left == pytest.approx(
        {
            "nearest-seed0": 0,
            "carafe-seed0": 0,
            "nearest-seed1": 15 + 30 * (4 * 0.5 + 0.5 / 3) + 0.5 / 3,
            "carafe-seed1": 15 + 10 * (4 * 4 + 4 / 3) + 4 / 3,
        }
    )
    dry_run.show(cells, root, {}, workers=2)
    output = capsys.readouterr().out
    table = rows(output)
    assert table["nearest (baseline)"] == ["1 finished, 1 new", *expected_costs(nearest), "80 s"]
    assert table["carafe"] == ["1 finished, 1 started", *expected_costs(carafe), "3 min"]  # 189.67 s
    assert "tiny: 4 cells, seeds 0, 1" in output
    assert "time left: about 2 min with 2 workers" in output  # (80.17 s + 189.67 s) / 2


def test_one_timed_variant_is_scaled_by_multiply_adds(cells, tmp_path, monkeypatch, capsys):
    timed = []

    def in_process(names, runs, directory, environment):
        timed.append(list(runs))
        seconds = {"nearest": 0.5, "carafe": 9.0}
        (directory / "steps.json").write_text(json.dumps({"variants": {name: seconds[name] for name in runs}}))

    monkeypatch.setattr(dry_run.measurements, "in_process", in_process)
    nearest, carafe = (cells.cells[index].config for index in (0, 1))
    costs = dry_run.variant_costs(cells)
    left = dry_run.seconds_left(cells, tmp_path, {}, costs)
    ratio = (left["carafe-seed0"] - 15) / (left["nearest-seed0"] - 15)
    work = [sum(map(cost.multiply_adds, from_config(c, 3, fixed_size=True).layers)) for c in (nearest, carafe)]
    assert ratio == pytest.approx(work[1] / work[0])
    assert ratio > 1.2
    left = dry_run.seconds_left(cells, tmp_path, {}, costs, time_each=True)
    assert (left["carafe-seed0"] - 15) / (left["nearest-seed0"] - 15) == pytest.approx(9.0 / 0.5)
    assert timed == [["nearest"], ["nearest", "carafe"]]
    finish(nearest, tmp_path, images_per_second=4)  # 2 s a step: nothing more is timed
    left = dry_run.seconds_left(cells, tmp_path, {}, costs)
    assert left["nearest-seed1"] == 15 + 30 * (4 * 2 + 2 / 3) + 2 / 3
    assert left["carafe-seed0"] == pytest.approx(15 + (left["nearest-seed1"] - 15) * work[1] / work[0])
    assert len(timed) == 2
    dry_run.show(cells, tmp_path, {}, workers=1)
    assert "scaled by multiply-adds; --measure times each" in capsys.readouterr().out


def test_finished_grids_take_no_time(cells, tmp_path, capsys):
    for cell in cells.cells:
        finish(cell.config, tmp_path, images_per_second=10)
    dry_run.show(cells, tmp_path, {}, workers=1)
    assert [row[0] for row in rows(capsys.readouterr().out).values()] == ["2 finished"] * 2
    assert set(dry_run.seconds_left(cells, tmp_path, {}, {}).values()) == {0.0}


def test_missing_data_are_reported_before_any_step_is_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(dry_run.measurements, "in_process", lambda *_: pytest.fail("the data are missing"))
    make_grid(tmp_path, "nearest")
    folder = ["data.source=folder", f"data.data_dir={tmp_path / 'nowhere'}"]
    with pytest.raises(InputError, match="nowhere"):
        dry_run.seconds_left(grid.load(tmp_path / "tiny.yaml", [*SETTINGS, *folder]), tmp_path / "runs", {}, {})


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "–"),
        (0.4, "0 s"),
        (99.4, "99 s"),
        (100, "2 min"),
        (5950, "99 min"),
        (6000, "1 h 40 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations(seconds, text):
    assert dry_run._duration(seconds) == text


@pytest.mark.slow
def test_a_dry_run_times_a_few_steps_and_leaves_nothing_behind(cells, tmp_path):
    variants = "[nearest, {name: conv_transpose, kernel_size: 4, padding: 1}]"
    settings = [*SETTINGS, f"vary.model.upsampler={variants}"]
    before = sorted(tmp_path.rglob("*"))
    arguments = ["--dry-run", "--measure", "--root", tmp_path / "runs", tmp_path / "tiny.yaml", *settings]
    code, out, err = run_unet("ablate", *arguments, **ENVIRONMENT)
    assert code == 0, err
    assert sorted(tmp_path.rglob("*")) == before
    table = rows(out)
    name = "conv_transpose kernel_size=4 padding=1"
    assert list(table) == ["nearest (baseline)", name]
    configs = {cell.variant: cell.config for cell in grid.load(tmp_path / "tiny.yaml", settings).cells}
    assert table["nearest (baseline)"][:-1] == ["1 new", *expected_costs(configs["nearest"])]
    assert table[name][:-1] == ["1 new", *expected_costs(configs[name])]
    for row in (table["nearest (baseline)"], table[name]):
        assert re.fullmatch(r"\d+ s|\d+ min", row[-1])
        assert int(row[-1].split()[0]) >= 2
    assert re.search(r"^time left: about (\d+ s|\d+ min)$", out, re.MULTILINE)
    assert "surplus: cost of the upsamplers beyond the 2×2 projection" in out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["configs/ablation/upsampler.yaml"], "did you mean"),
        (["configs/ablation/upsamplers.yaml", "training.epoch=3"], "training.epoch: unknown key; did you mean epochs?"),
        (["configs/ablation/upsamplers.yaml", "--measure"], "--measure: is an option of --dry-run"),
        (["configs/ablation/upsamplers.yaml", "--executor", "rey"], "--executor: 'rey' is not one of local, ray"),
    ],
)
def test_mistakes_are_reported_before_keras_is_imported(arguments, expected, monkeypatch):
    monkeypatch.setattr(backend, "use_backend_without_devices", lambda: pytest.fail("Keras would be imported"))
    code, _, err = run_unet("ablate", *arguments)
    assert code == 2
    assert expected in err
