"""What all tests share: a quiet backend, a cache of their own, the real data where they are."""

import os
import signal
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# PyTorch's threads wait for each other by spinning; where the cores are busy with other tests that doubles the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Machine code for a few small steps need not be fast, and half the time of XLA's compilation goes into making it so.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
# JAX compiles every operation anew in every process; with these it does so once for all workers and sub-processes.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import numpy as np
import pytest

from tests.helpers import JIT, PETS, ROOT

# Started in the background, as by nohup, a process and its children ignore Ctrl-C, which some tests press.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Prepared arrays go to a temporary place, not to the user's cache."""
    os.environ["UNET_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory):
    """A tiny run, trained once per process on drawn scenes of 24×32 pixels. Copy it to change it."""
    from unet import config
    from unet.runs import Run
    from unet.training import train

    root = tmp_path_factory.mktemp("runs")
    path = root / "tiny.yaml"
    path.write_text(
        "data: {source: shapes, size: [24, 32], shapes: {train: 20, test: 40}}\nmodel: {width: 4, depth: 2}\n"
        f"training: {{epochs: 2, batch_size: 4, warmup: 0, jit: {JIT}}}\n"
    )
    run = Run.create(config.load(path), root)
    train(run)
    return run


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
