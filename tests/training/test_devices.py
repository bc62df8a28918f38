"""One step on several devices: the losses of one device, on any number of them; virtual devices of the CPU, on JAX."""

import signal
import time

import keras
import pytest

from tests.helpers import BACKEND
from tests.helpers.commands import run_unet_process, start_unet
from unet.errors import InputError
from unet.runs import Run
from unet.training import devices

SETTINGS = [
    *("data.source=shapes", "data.size=16", "data.shapes.train=27", "data.shapes.test=2"),
    *("model.width=4", "model.depth=1", "model.dropout=0.1", "training.batch_size=8", "training.epochs=4"),
    *("training.pictures_every=1", "training.checkpoint_seconds=0", "training.precision=float32"),
]


def virtual(count: int) -> dict[str, str]:
    """Environment with so many devices, and threads enough for all of them to wait for each other."""
    flags = f"--xla_force_host_platform_device_count={count} --xla_backend_optimization_level=0"
    return {"XLA_FLAGS": flags, "NPROC": "8", "KERAS_BACKEND": "jax"}


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "jax", reason="only JAX trains on several devices")
def test_four_devices_give_the_losses_of_one_and_two_resume_them(tmp_path):
    arguments = ["train", "configs/demo.yaml", "--root", tmp_path, *SETTINGS]
    alone = run_unet_process(*arguments, "name=one", **virtual(1))
    assert alone.code == 0, alone.err

    process, run = start_unet(*arguments, "name=several", "training.devices=all", **virtual(4)), tmp_path / "several"
    while process.poll() is None and not (run / "last.keras").is_file():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "training on 4 devices, each with 2 images of a batch" in err
    saved = len(Run(run).history())
    assert 1 <= saved < 4

    resumed = run_unet_process("train", run, **virtual(2))
    assert resumed.code == 0, resumed.err
    assert "training on 2 devices, each with 4 images of a batch" in resumed.err
    one, several = (Run(tmp_path / name).history() for name in ("one", "several"))
    assert len(one) == len(several) == 4
    for key in ("loss", "val_loss"):
        assert several[0][key] == pytest.approx(one[0][key], rel=1e-5)
        assert several[-1][key] == pytest.approx(one[-1][key], rel=1e-3)  # rounding grows


@pytest.mark.skipif(BACKEND == "jax", reason="JAX trains on several devices")
@pytest.mark.parametrize("count", [2, "all"])
def test_other_backends_refuse(count):
    with (
        pytest.raises(InputError, match=r"training\.devices: several devices are used with JAX only"),
        devices.parallel(count, 8),
    ):
        pass


@pytest.mark.skipif(BACKEND != "jax", reason="only JAX trains on several devices")
def test_what_does_not_fit_is_one_message(monkeypatch):
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["gpu:0", "gpu:1", "gpu:2"])
    with pytest.raises(InputError, match=r"devices: 4 are more than the 3 found: gpu:0, gpu"), devices.parallel(4, 8):
        pass
    with pytest.raises(InputError, match=r"8 images cannot .* 3 devices; .* of 3"), devices.parallel("all", 8):
        pass


def test_one_device_needs_nothing(monkeypatch):
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: pytest.fail("asked for devices"))
    with devices.parallel(1, 7), devices.alone():
        assert keras.distribution.distribution() is None
