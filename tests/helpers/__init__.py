"""What tests share that is not a fixture: where things are, and which backend runs."""

import os
from pathlib import Path

BACKEND = os.environ.get("KERAS_BACKEND", "tensorflow")
ROOT = Path(__file__).parents[2]
JIT = "true" if BACKEND == "jax" else "false"
"""training.jit of tests about something else: what takes the least time for a few steps on a CPU."""
PETS = Path(os.environ.get("PETS_DATA", ROOT.parent / "shared" / "data"))
"""Prepared Oxford-IIIT Pets: tfds/, pets128/ and pets_original/. Set PETS_DATA to where they are."""
