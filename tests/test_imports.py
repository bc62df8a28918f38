"""Modules that are imported before a backend is chosen do not import one, and tests share code through helpers only."""

import ast
import subprocess
import sys

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
