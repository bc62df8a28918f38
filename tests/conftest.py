"""What all tests share: a quiet backend, a cache of their own, the real data where they are."""

import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest

BACKEND = keras.backend.backend()
ROOT = Path(__file__).parent.parent
PETS = Path(os.environ.get("PETS_DATA", ROOT.parent / "shared" / "data"))
"""Prepared Oxford-IIIT Pets: tfds/, pets128/ and pets_original/. Set PETS_DATA to where they are."""


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Prepared arrays go to a temporary place, not to the user's cache."""
    os.environ["UNET_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def pets():
    """Folder of the real data, or a skip that says what is missing."""
    if not (PETS / "pets128").is_dir():
        pytest.skip(f"real Oxford-IIIT Pets are not in {PETS} (set PETS_DATA)")
    return PETS


@pytest.fixture
def config():
    """Load a shipped configuration, with overrides."""
    from unet import config

    return lambda name, *overrides: config.load(ROOT / "configs" / name, overrides)
