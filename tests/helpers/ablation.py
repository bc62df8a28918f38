"""Tiny grids, and programs that stand in for their cells."""

import sys
import time
from pathlib import Path

from tests.helpers import BACKEND, JIT, ROOT
from unet.ablation.plan import grid

SETTINGS = [
    *("data.source=shapes", "data.size=32", "data.shapes.train=40", "data.shapes.test=6"),
    *("model.width=4", "model.depth=2", "training.batch_size=8", "training.epochs=2", f"training.jit={JIT}"),
    *("training.checkpoint_seconds=0", "training.pictures_every=0"),
]
ENVIRONMENT = {"KERAS_BACKEND": BACKEND, "CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
"""Runs cells on the CPU, where the results of a run are always the same."""


def make_grid(folder: Path, *variants: str) -> grid.Grid:
    """Write ``tiny.yaml``, a grid on drawn shapes, and load it with the settings of tiny cells."""
    file = folder / "tiny.yaml"
    file.write_text(f"base: {ROOT / 'configs' / 'demo.yaml'}\nvary: {{model.upsampler: [{', '.join(variants)}]}}\n")
    return grid.load(file, SETTINGS)


def executable(path: Path, text: str) -> Path:
    """Write an executable Python script."""
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)
    return path


def wait_for(path: Path) -> None:
    """Wait until a file exists."""
    limit = time.monotonic() + 300
    while not path.exists():
        assert time.monotonic() < limit, f"no {path}"
        time.sleep(0.01)
