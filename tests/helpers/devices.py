"""A small training on several devices, which are virtual ones of the CPU."""

import subprocess
import time
from pathlib import Path

SETTINGS = [
    *("data.source=shapes", "data.size=16", "data.shapes.train=27", "data.shapes.test=2"),
    *("model.width=4", "model.depth=1", "model.dropout=0.1", "training.batch_size=8", "training.epochs=4"),
    *("training.pictures_every=1", "training.checkpoint_seconds=0", "training.precision=float32"),
]
COMPILED = ["training.jit=true", "training.schedule=constant"]


def virtual(count: int) -> dict[str, str]:
    """Environment with so many devices, and threads enough for all of them to wait for each other."""
    flags = f"--xla_force_host_platform_device_count={count} --xla_backend_optimization_level=0"
    return {"XLA_FLAGS": flags, "NPROC": "8", "KERAS_BACKEND": "jax"}


def wait_for_checkpoint(run: Path, *processes: subprocess.Popen) -> None:
    """Wait until a run has its first checkpoint, or one of the processes that train it has ended."""
    while all(process.poll() is None for process in processes) and not (run / "last.keras").is_file():
        time.sleep(0.01)
