"""Measurements that train: their configurations, their scenes, and results that appear whole."""

import json

import numpy as np
import pytest

from benchmarks import crops, rare_class, runs
from unet import config
from unet.runs import Run

pytestmark = pytest.mark.backend_free
MODULES = [crops, rare_class]


@pytest.mark.parametrize("module", MODULES)
def test_every_variant_is_a_valid_configuration(module, tmp_path):
    loaded = [
        config.load(module.BASE, [*module.SETTINGS, *own, f"data.data_dir={tmp_path}"])
        for own in module.VARIANTS.values()
    ]
    assert len({found.to_yaml() for found in loaded}) == len(module.VARIANTS) > 1
    assert len({found.data.size for found in loaded}) == 1
    assert len({found.training.batch_size for found in loaded}) == 1


def test_ore_is_rare_and_differs_from_stone_by_its_tint():
    scenes = [rare_class.draw_scene(np.random.default_rng(seed)) for seed in range(40)]
    masks = np.stack([mask for _, mask in scenes])
    assert 0.002 < (masks == 2).mean() < 0.004
    assert 0.08 < (masks == 1).mean() < 0.12
    pixels = np.stack([image for image, _ in scenes]).astype(float)
    tints = [pixels[masks == index] @ [0.5, 0, -0.5] for index in range(3)]
    assert tints[2].mean() - tints[1].mean() == pytest.approx(rare_class.TINT, abs=4)
    assert tints[1].mean() - tints[0].mean() == pytest.approx(0, abs=2)
    np.testing.assert_array_equal(scenes[3][0], rare_class.draw_scene(np.random.default_rng(3))[0])


@pytest.mark.slow
@pytest.mark.parametrize("module", [crops, rare_class])
def test_results_appear_when_all_runs_have_finished(module, tmp_path, monkeypatch):
    done = []

    def stop_once(run):
        done.append(run.name)
        if len(done) == 2:
            raise KeyboardInterrupt

    def evaluate(run, native):
        value = {"dataset": 0.5 + run.config.seed / 10}
        by_class = dict.fromkeys(("pet", "border", "stone", "ore"), value)
        names = ("iou", "precision", "recall", "boundary_iou")
        scores = {"images": 7, **dict.fromkeys(names, by_class), **{f"mean_{name}": value for name in names}}
        run.prepare()
        run.write_metrics("test_native" if native else "test", scores)

    monkeypatch.setattr("unet.training.train", stop_once)
    monkeypatch.setattr("unet.evaluation.evaluate", evaluate)
    monkeypatch.setattr(rare_class, "SCENES", {"train": 1, "test": 1})
    settings = [f"data.data_dir={tmp_path}"] if module is crops else []
    output = tmp_path / "results" / "found"
    with pytest.raises(KeyboardInterrupt):
        module.main(settings, 2, tmp_path / "runs", output)
    assert not output.parent.exists()
    module.main(settings, 2, tmp_path / "runs", output)
    assert len(done) == 2 * len(module.VARIANTS) + 1  # the interrupted one twice, and no other
    found = json.loads(output.with_suffix(".json").read_text(encoding="utf-8"))
    assert {name: len(scores) for name, scores in found["scores"].items()} == dict.fromkeys(module.VARIANTS, 2)
    text = output.with_suffix(".md").read_text(encoding="utf-8")
    assert text == module.as_markdown(found)
    assert text.count("0.550 (0.500–0.600)") >= len(module.VARIANTS)
    assert str(tmp_path) not in text + output.with_suffix(".json").read_text(encoding="utf-8")
    assert Run.open(tmp_path / "runs" / f"{next(iter(module.VARIANTS))}_1").config.seed == 1


def test_the_spread_of_a_single_seed_is_its_value():
    assert runs.spread([0.7124]) == "0.712"
    assert runs.spread([0.7, 0.72]) == "0.710 (0.700–0.720)"
