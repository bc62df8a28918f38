"""The committed coverage of intervals with unequal spread, simulated again in part."""

import json

import numpy as np
import pytest

from benchmarks import intervals
from benchmarks.intervals import METHODS, RESULTS, SEEDS, TABLES, simulate, spreads

pytestmark = pytest.mark.backend_free
COMMITTED = json.loads(RESULTS.read_text(encoding="utf-8"))


def test_the_page_shows_the_committed_figures():
    assert RESULTS.with_suffix(".md").read_text(encoding="utf-8") == intervals.as_markdown(COMMITTED)
    assert COMMITTED["tables"] == TABLES
    wanted = {
        (variants, seeds, name, ratio)
        for variants in intervals.VARIANTS
        for seeds in SEEDS
        for ratio in intervals.RATIOS
        for name in spreads(variants, ratio)
    }
    assert {(one["variants"], one["seeds"], one["spread"], one["ratio"]) for one in COMMITTED["designs"]} == wanted


def test_the_method_of_the_report_covers_every_pair_of_every_design():
    for design in COMMITTED["designs"]:
        found = design["methods"]["report"]
        assert found["lowest"] > 0.93, design
        assert found["highest"] < 0.97, design
        assert found["false_claims"] < 0.055, design


@pytest.mark.parametrize(
    ("variants", "seeds", "ratio"),
    [
        (6, 3, 3),
        pytest.param(3, 3, 5, marks=pytest.mark.slow),
        pytest.param(2, 5, 1, marks=pytest.mark.slow),
        pytest.param(15, 10, 2, marks=pytest.mark.slow),
    ],
)
def test_a_design_simulated_again_agrees(variants, seeds, ratio):
    for name, spread in spreads(variants, ratio).items():
        (committed,) = (
            one["methods"]
            for one in COMMITTED["designs"]
            if (one["variants"], one["seeds"], one["spread"], one["ratio"]) == (variants, seeds, name, ratio)
        )
        found = simulate(variants, seeds, spread, 4000)
        assert found.keys() == METHODS.keys()
        for method, values in found.items():
            assert values.keys() == committed[method].keys()
            for key, value in values.items():
                assert value == pytest.approx(committed[method][key], abs=0.03 if key == "width" else 0.015), (
                    key,
                    name,
                )


def test_no_interval_is_narrower_than_the_limit():
    """With many seeds the limit is that of known variances; with three, between those and Student's t."""
    assert intervals.least_width(10) == COMMITTED["least_width"]["10"]
    assert intervals.least_width(200) == pytest.approx(1, abs=0.02)
    for seeds in SEEDS:
        widths = [
            one["methods"]["report"]["width"]
            for one in COMMITTED["designs"]
            if one["seeds"] == seeds and one["spread"] == "equal"
        ]
        assert np.min(widths) > COMMITTED["least_width"][str(seeds)]
