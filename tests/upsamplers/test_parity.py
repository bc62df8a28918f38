"""Upsamplers against independent references, values and gradients; see ``benchmarks/parity.py``."""

import json

import pytest

from benchmarks import parity
from tests.helpers import ROOT, on_every_backend


@pytest.mark.parametrize("case", parity.CASES, ids=str)
@pytest.mark.parametrize("size", on_every_backend([(6, 10), (5, 7), (1, 1)], [(5, 7), (1, 1)]))
def test_values_and_gradients_equal_the_reference(case, size):
    values, slope = parity.differences(case, size)
    assert values <= case.tolerance
    assert slope is None or slope <= case.tolerance


@pytest.mark.backend_free
def test_the_table_lists_upsamplers_without_a_reference_too(monkeypatch):
    monkeypatch.setattr(parity, "CASES", [case for case in parity.CASES if case.name != "fade"])
    assert "| `fade` | none | – | – |" in parity.table({"jax": {}}).splitlines()


@pytest.mark.backend_free
def test_the_committed_table_holds_every_case_on_every_backend():
    path = ROOT / "docs" / "results" / "parity.json"
    figures = json.loads(path.read_text(encoding="utf-8"))
    assert set(figures) == {"tensorflow", "jax", "torch"}
    for measured in figures.values():
        assert set(measured) == {str(case) for case in parity.CASES}
        for case in parity.CASES:
            found = measured[str(case)]
            assert found["reference"] == case.reference
            assert max(found["values"], found["gradient"] or 0) <= case.tolerance
    written = path.with_suffix(".md").read_text(encoding="utf-8")
    assert with_references(written) == with_references(parity.table(figures))


def with_references(table: str) -> list[str]:
    """Lines of the table, without those of upsamplers that have no reference yet."""
    return [line for line in table.splitlines() if "` | none | " not in line]
