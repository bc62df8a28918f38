"""One step on several devices, of one process or two: the losses of one device; virtual devices of the CPU, on JAX."""

import os
import re
import signal
import socket
import subprocess
import sys

import keras
import pytest

from tests.helpers import BACKEND, ROOT
from tests.helpers.commands import Result, run_unet_process, start_unet
from tests.helpers.devices import COMPILED, SETTINGS, virtual, wait_for_checkpoint
from unet import cluster, config
from unet.errors import InputError
from unet.runs import Run
from unet.training import devices


def start_together(folder, *arguments, devices: int = 1) -> list[subprocess.Popen]:
    """Start ``unet ARGUMENTS`` as two processes, each with so many devices, that train together."""
    with socket.create_server(("localhost", 0)) as free:
        address = f"localhost:{free.getsockname()[1]}"
    program = "from unet import cluster, commands; cluster.LOST = 5.0; commands.main()"
    return [
        subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)],
            cwd=ROOT,
            env=os.environ
            | {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "TMPDIR": str(folder)}
            | cluster.variables(address, 2, process)
            | virtual(devices),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]


def together(folder, *arguments, devices: int = 1) -> list[Result]:
    """Run ``unet ARGUMENTS`` as two processes that train together."""
    processes = start_together(folder, *arguments, devices=devices)
    outputs = [process.communicate(timeout=300) for process in processes]
    return [Result(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "jax", reason="only JAX trains on several devices")
def test_four_devices_give_the_losses_of_one_and_two_resume_them(tmp_path):
    arguments = ["train", "configs/demo.yaml", "--root", tmp_path, *SETTINGS]
    alone = run_unet_process(*arguments, "name=one", **virtual(1))
    assert alone.code == 0, alone.err
    assert "oneDNN" not in alone.err  # TensorFlow, which Keras imports to save a model, prints nothing

    process, run = start_unet(*arguments, "name=several", "training.devices=all", **virtual(4)), tmp_path / "several"
    wait_for_checkpoint(run, process)
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


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "jax", reason="only JAX trains on several devices")
def test_two_processes_give_the_losses_of_one_and_any_number_of_devices_resumes(tmp_path):
    settings = [*SETTINGS, *COMPILED, "training.ema=0.5"]
    alone = run_unet_process(
        "train", "configs/demo.yaml", "--root", tmp_path, *settings, "training.epochs=3", **virtual(1)
    )
    assert alone.code == 0, alone.err
    expected = Run(tmp_path / "demo").history()

    settings = ["train", "configs/demo.yaml", "--root", tmp_path, *settings, "name=shared", "training.devices=all"]
    first, second = together(tmp_path, *settings, "training.epochs=1", devices=2)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert "training on 4 devices of 2 processes, each with 2 images of a batch" in first.err
    assert "next: unet evaluate" in first.out
    assert "epoch" not in second.out + second.err

    run = Run(tmp_path / "shared")
    for epochs in (2, 3):
        run.record_config(run.config.with_training(epochs=epochs))
        if epochs == 2:
            resumed = run_unet_process("train", run.path, **virtual(1))
            assert resumed.code == 0, resumed.err
        else:
            resumed, second = together(tmp_path, "train", run.path)
            assert (resumed.code, second.code) == (0, 0), resumed.err + second.err
            assert "training on 2 devices of 2 processes" in resumed.err
            assert "resuming after epoch 2 of 3" in resumed.err
    rows = run.history()
    assert len(rows) == len(expected) == 3
    for key in ("loss", "val_loss"):
        assert rows[0][key] == pytest.approx(expected[0][key], rel=1e-5)
        assert rows[2][key] == pytest.approx(expected[2][key], rel=1e-4)  # rounding grows
    assert not list(tmp_path.glob("unet-*"))  # the copy of the second process


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "jax", reason="only JAX trains on several devices")
@pytest.mark.parametrize(
    ("number", "codes", "message"),
    [
        (signal.SIGINT, (130, 130), "stopped by Ctrl-C; epochs saved in"),
        (
            signal.SIGKILL,
            (1, -signal.SIGKILL),
            r"\nerror: process 2 of 2 \(.+\) has not responded for 5 seconds; the same",
        ),
    ],
)
def test_all_processes_end_with_one(number, codes, message, tmp_path):
    arguments = ["train", "configs/demo.yaml", "--root", tmp_path, *SETTINGS, *COMPILED, "training.devices=all"]
    processes = start_together(tmp_path, *arguments, "training.epochs=100000")
    wait_for_checkpoint(tmp_path / "demo", *processes)
    processes[number == signal.SIGKILL].send_signal(number)
    (_, first), (_, second) = (process.communicate(timeout=60) for process in processes)
    assert tuple(process.returncode for process in processes) == codes, first + second
    assert len(re.findall(message, first)) == 1
    assert "Traceback" not in first + second
    assert "epoch" not in second


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "jax", reason="only JAX trains on several devices")
def test_the_first_process_reports_the_error_of_another(tmp_path):
    arguments = ["train", "configs/demo.yaml", *SETTINGS, *COMPILED, "training.devices=all", "--root", tmp_path]
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    slurm = {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "JAX_COORDINATOR_PORT": str(port),
    }
    processes = [
        start_unet(*arguments, f"seed={task}", **virtual(1), **slurm, SLURM_PROCID=str(task), SLURM_LOCALID=str(task))
        for task in range(2)
    ]
    (_, first), (_, second) = (process.communicate(timeout=120) for process in processes)
    assert [process.returncode for process in processes] == [2, 2]
    assert re.search(r"^error: process 2 of 2 \(.+\): has another configuration than the first process", first, re.M)
    assert "error" not in second


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


@pytest.mark.parametrize(
    ("number", "settings", "message"),
    [
        ("two", [], "KERAS_DISTRIBUTION_NUM_PROCESSES: 'two' is not a whole number"),
        ("2", ["training.devices=1"], r"training\.devices: 1, but .*: 2 processes .*; set training\.devices=all"),
        ("2", ["training.batch_size=auto"], r"training\.batch_size: auto is not available to 2 processes"),
        ("2", ["training.jit=false"], r"training\.jit: 2 processes .* set training\.jit=true"),
    ],
)
@pytest.mark.skipif(BACKEND != "jax", reason="only JAX trains in several processes")
def test_settings_that_several_processes_cannot_use_are_one_message(number, settings, message, monkeypatch):
    monkeypatch.setenv("KERAS_DISTRIBUTION_NUM_PROCESSES", number)
    configuration = config.load("pets", ["training.devices=all", *settings])
    with pytest.raises(InputError, match=message), cluster.joined(configuration, lambda: pytest.fail("a run")):
        pass


@pytest.mark.skipif(BACKEND == "jax", reason="JAX trains in several processes")
def test_other_backends_refuse_several_processes(monkeypatch):
    monkeypatch.setenv("KERAS_DISTRIBUTION_NUM_PROCESSES", "2")
    configuration = config.load("pets", ["training.devices=all"])
    with pytest.raises(InputError, match=r"2 processes .* use JAX; set KERAS_BACKEND=jax"):
        cluster.joined(configuration, lambda: pytest.fail("a run")).__enter__()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"KERAS_DISTRIBUTION_NUM_PROCESSES": "1"},
        {"SLURM_STEP_NODELIST": "here", "SLURM_NTASKS": "1"},
        {"SLURM_NTASKS": "2"},  # of a batch script, which is one process
    ],
)
def test_one_process_joins_nothing(environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    run = Run("runs/x")
    with cluster.joined(config.load("pets", ["training.devices=all"]), lambda: run) as joined:
        assert joined is run


def test_tasks_of_slurm_with_a_number_of_devices_are_independent(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NODELIST", "here")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    run = Run("runs/x")
    with cluster.joined(config.load("pets", []), lambda: run) as joined:
        assert joined is run


def test_one_device_needs_nothing(monkeypatch):
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: pytest.fail("asked for devices"))
    with devices.parallel(1, 7), devices.alone():
        assert keras.distribution.distribution() is None
