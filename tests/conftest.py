"""Settings and fixtures of all tests: a quiet backend, their own cache, the real data if present, a trained run."""

import gc
import os
import signal
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as in every command
# PyTorch's threads spin while they wait for each other, which doubles the time if other tests use the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A few small steps need no fast machine code, and XLA spends half of its compilation time on optimization.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
# Without a cache on disk, JAX compiles every operation again in every worker and sub-process.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# Ray gives way to all other processes, so its tests would starve beside others.
os.environ.setdefault("RAY_worker_niceness", "0")

import numpy as np
import pytest

from tests.helpers import JIT, PETS, ROOT, WEIGHTS

# A process started in the background, as by nohup, ignores signals that some tests send, and so do its children.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_finish():
    """Let the garbage collector leave out what has been imported by now: it stays until the process ends."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Write prepared arrays to a temporary directory, not to the user's cache."""
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
    """Folder of the real data; without it the test is skipped with a message that says what is missing."""
    if not (PETS / "pets128").is_dir():
        pytest.skip(f"real Oxford-IIIT Pets are not in {PETS} (set PETS_DATA)")
    return PETS


@pytest.fixture
def mobilenet_weights():
    """File of MobileNetV2's ImageNet weights; without it the test is skipped."""
    path = WEIGHTS / "mobilenet_v2_notop.weights.h5"
    if not path.is_file():
        pytest.skip(f"{path.name} is not in {WEIGHTS} (set ENCODER_WEIGHTS)")
    return path


@pytest.fixture
def config():
    """Load a shipped configuration, with overrides."""
    from unet import config

    return lambda name, *overrides: config.load(ROOT / "configs" / name, overrides)
