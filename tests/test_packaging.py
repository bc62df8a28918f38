"""The wheel: installed in a clean environment, it trains and predicts in an empty folder."""

import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile

import numpy as np
import pytest
from PIL import Image

from tests.helpers import ROOT, TINY
from unet.config import shipped

pytestmark = pytest.mark.backend_free


def run(*command, cwd, **environment):
    """Run a command with none of this checkout on its path."""
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=variables | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from this checkout; offline where the build backend is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *options, "-w", folder, ROOT, cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_contains_the_configurations_and_templates(wheel):
    files = set(zipfile.ZipFile(wheel).namelist())
    assert {f"unet/configs/{name}.yaml" for name in shipped.names()} <= files
    sources = {path.relative_to(ROOT) for path in (ROOT / "unet").rglob("*") if "__pycache__" not in path.parts}
    assert {path.as_posix() for path in sources if (ROOT / path).is_file()} <= files
    assert not {
        name for name in files if name.split("/")[0] not in ("unet", wheel.name.rsplit("-", 3)[0] + ".dist-info")
    }


@pytest.mark.slow
def test_the_wheel_trains_and_predicts_in_an_empty_folder(wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    binaries = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    run(binaries / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    # Its dependencies come from this environment, whose own installation of the package a .pth file does not bring.
    (place,) = (tmp_path / "venv").rglob("site-packages")
    (place / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    empty = tmp_path / "empty"
    empty.mkdir()
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "photo.png")
    where = run(binaries / "python", "-c", "import unet; print(unet.__file__)", cwd=empty)
    assert where.startswith(str(place))
    out = run(binaries / "unet", "train", "demo", *TINY, cwd=empty)
    assert "next: unet evaluate runs/demo" in out
    run(binaries / "unet", "predict", "runs/demo", tmp_path / "photo.png", "--out", "masks", cwd=empty)
    with Image.open(empty / "masks" / "photo.png") as mask:
        assert mask.size == (60, 40)


def test_hooks_use_the_versions_of_the_tests():
    """Pre-commit's linters are those of ``make lint``."""
    constraints = set((ROOT / "constraints.txt").read_text().split())
    hooks = re.findall(r"\[(\S+==\S+)\]", (ROOT / ".pre-commit-config.yaml").read_text())
    assert len(hooks) == 2
    assert set(hooks) <= constraints


def test_the_environment_of_the_tests_builds_offline():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["build-system"]["requires"]) <= set(project["project"]["optional-dependencies"]["test"])
