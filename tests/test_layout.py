"""The layout: what may import what, and that nothing imports in a circle."""

import ast
import graphlib
from pathlib import Path

import pytest

from tests.helpers import ROOT

pytestmark = pytest.mark.backend_free

FLOORS = [
    ["errors", "deprecation", "environment", "files", "settings"],
    ["interrupts", "gradients", "arithmetic"],
    ["console"],
    ["backend"],
    ["resample"],
    ["upsamplers"],
    ["config"],  # knows the upsamplers' options, which are declared without Keras
    ["data"],
    ["model", "losses", "metrics", "cost", "checkerboard", "benchmark", "colours"],
    ["runs", "figures", "tables"],
    ["training"],
    ["formats"],
    ["inference"],
    ["evaluation", "export"],
    ["__init__"],
    ["ablation", "page"],
    ["commands", "__main__"],
]
"""Modules and packages of ``unet``, the lowest first; each may import from its own floor and those below."""


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted((ROOT / "unet").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """Modules of the package that a module imports, within functions too; not those for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    checked = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found = set()
    for node in ast.walk(tree):
        if node in checked:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in known}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in known else node.module)
    return {other for other in found if other in known and other != name}


@pytest.fixture(scope="module")
def graph():
    known = modules()
    return {name: imports(name, path, known) for name, path in known.items()}


def floor_of(name: str) -> int:
    room = [*name.split("."), "__init__"][1]
    return next(index for index, rooms in enumerate(FLOORS) if room in rooms)


def test_every_module_has_its_floor(graph):
    rooms = {[*name.split("."), "__init__"][1] for name in graph}
    assert rooms == {room for floor in FLOORS for room in floor}


def test_nothing_imports_from_a_higher_floor(graph):
    up = [
        f"{name} -> {other}" for name, others in graph.items() for other in others if floor_of(other) > floor_of(name)
    ]
    assert up == []


def test_nothing_imports_in_a_circle(graph):
    list(graphlib.TopologicalSorter(graph).static_order())


def test_the_parts_of_an_ablation_build_on_each_other(graph):
    parts = ["plan", "run", "report"]
    for name, others in graph.items():
        for other in others:
            if name.startswith("unet.ablation.") and other.startswith("unet.ablation."):
                assert parts.index(other.split(".")[2]) <= parts.index(name.split(".")[2]), f"{name} -> {other}"


def test_the_package_imports_nothing_from_around_it():
    for path in modules().values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = [node.module] if isinstance(node, ast.ImportFrom) else []
            named += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not {str(one).split(".")[0] for one in named} & {"scripts", "benchmarks", "tests", "notebooks"}
