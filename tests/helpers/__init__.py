"""Paths, the backend in use, and settings that several tests share."""

import os
from pathlib import Path

import pytest

BACKEND = os.environ.get("KERAS_BACKEND", "tensorflow")
ROOT = Path(__file__).parents[2]
JIT = "true" if BACKEND == "jax" else "false"
"""Value of training.jit that takes the least time for a few steps on a CPU."""
PETS = Path(os.environ.get("PETS_DATA", ROOT.parent / "shared" / "data"))
"""Folder of the prepared Oxford-IIIT Pets: tfds/, pets128/ and pets_original/. PETS_DATA overrides it."""
WEIGHTS = Path(os.environ.get("ENCODER_WEIGHTS", ROOT.parent / "shared" / "weights"))
"""Folder of pretrained weights: mobilenet_v2_notop.weights.h5. ENCODER_WEIGHTS overrides it."""
TINY = (
    *("data.size=16", "data.shapes.train=12", "data.shapes.test=4", "model.width=2", "model.depth=1"),
    *("training.epochs=1", "training.batch_size=4", "training.warmup=0", f"training.jit={JIT}"),
)
"""Overrides that turn the configuration `demo` into a training of a second."""
SLOW_BEYOND_TENSORFLOW = [] if BACKEND == "tensorflow" else [pytest.mark.slow]
"""Marks of tests that `make test` runs on TensorFlow alone and `make test-all` on every backend."""


def slow_beyond_tensorflow(test):
    """Decorator with these marks."""
    return test if BACKEND == "tensorflow" else pytest.mark.slow(test)


def on_every_backend(names, quick):
    """Parameters of which `make test` runs all on TensorFlow, but only those in ``quick`` on the other backends."""
    return [pytest.param(name, marks=[] if name in quick else SLOW_BEYOND_TENSORFLOW) for name in names]
