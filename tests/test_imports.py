"""What imports what: no backend before it is chosen, no circle, parts in their order, tests through helpers only.

CONTRIBUTING shows the order of the whole package.
"""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT

pytestmark = pytest.mark.backend_free


def test_configuration_and_commands_import_no_backend():
    modules = ["unet", "unet.config", "unet.runs", "unet.upsamplers", "unet.console", "unet.files"]
    modules += [f"unet.commands.{path.stem}" for path in (ROOT / "unet" / "commands").glob("[!_]*.py")]
    check = (
        f"import sys, importlib\n[importlib.import_module(name) for name in {modules}]\n"
        "print({'keras', 'tensorflow', 'jax', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "set()\n", done.stderr


def test_tests_import_helpers_and_no_other_tests():
    imported = {
        f"{path.relative_to(ROOT)}: {node.module}"
        for path in (ROOT / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("tests.")
    }
    assert len(imported) > 10
    assert [name for name in imported if ": tests.helpers" not in name] == []


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
