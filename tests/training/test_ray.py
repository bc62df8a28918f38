"""``unet train --executor ray`` on a cluster of two machines, which are processes of this one."""

import os
import signal
from pathlib import Path

import pytest

from tests.helpers import BACKEND
from tests.helpers.commands import run_unet_process, start_unet
from tests.helpers.devices import COMPILED, SETTINGS, virtual, wait_for_checkpoint
from tests.helpers.processes import running
from unet import cluster, config
from unet.cluster import ray as unet_ray
from unet.errors import InputError, RunError
from unet.runs import Run

cluster_utils = pytest.importorskip(
    "ray.cluster_utils", reason="Ray is not installed: pip install 'unet-upsamplers[ray]'"
)
pytest.importorskip("jax", reason="JAX, which alone trains in several processes, is not installed")
pytestmark = pytest.mark.backend_free  # as Ray is installed in the first environment of the tests only
JAX = {"KERAS_BACKEND": "jax"}


@pytest.fixture(scope="module")
def address():
    with pytest.MonkeyPatch.context() as environment:
        for name, value in virtual(1).items():
            environment.setenv(name, value)
        machines = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        try:
            machines.add_node(num_cpus=1)
            yield machines.address
        finally:
            machines.shutdown()


def arguments(root, address, *settings):
    return [
        *("train", "configs/demo.yaml", "--root", root, "--executor", "ray", "--address", address),
        *(*SETTINGS, *COMPILED, "training.warmup=0", "training.devices=all", *settings),
    ]


@pytest.mark.slow
def test_two_machines_give_the_losses_of_one_and_resume(tmp_path, address):
    settings = [*SETTINGS, *COMPILED, "training.warmup=0", "training.epochs=1"]
    alone = run_unet_process("train", "configs/demo.yaml", "--root", tmp_path / "alone", *settings, **virtual(1))
    assert alone.code == 0, alone.err

    process = start_unet(*arguments(tmp_path, address, "training.epochs=100000"), **JAX)
    wait_for_checkpoint(tmp_path / "demo", process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "training on 2 devices of 2 processes, each with 4 images of a batch" in err
    assert err.count("stopped by Ctrl-C") == 1
    assert "resume with: unet train" in out
    run = Run(tmp_path / "demo")
    saved = len(run.history())

    run.record_config(run.config.with_training(epochs=saved + 1))
    resumed = run_unet_process("train", run.path, "--executor", "ray", "--address", address, **JAX)
    assert resumed.code == 0, resumed.err
    assert f"resuming after epoch {saved} of {saved + 1}" in resumed.err
    assert resumed.out.count("next: unet evaluate") == 1
    (expected,), found = Run(tmp_path / "alone" / "demo").history(), run.history()
    assert len(found) == saved + 1
    for key in ("loss", "val_loss"):
        assert found[0][key] == pytest.approx(expected[key], rel=1e-5)


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_command_with_one_message(tmp_path, address):
    process = start_unet(*arguments(tmp_path, address, "training.epochs=100000"), **JAX)
    wait_for_checkpoint(tmp_path / "demo", process)
    (second,) = [
        one.number
        for one in running(str(tmp_path))
        if f"{cluster.PROCESS}=1\0" in Path(f"/proc/{one.number}/environ").read_text()
    ]
    os.kill(second, signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert err.count("error: ") == 1
    assert "process 2 of 2: ended by SIGKILL" in err
    assert "the same command resumes from the last checkpoint" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_an_error_of_the_run_is_printed_once(tmp_path, address):
    done = run_unet_process(*arguments(tmp_path, address, "training.batch_size=9"), **JAX)
    assert done.code == 2, done.err
    assert done.err.count("error: ") == 1
    assert "training.batch_size: 9 images cannot be divided equally among 2 devices" in done.err


@pytest.mark.slow
def test_one_device_is_one_process_on_any_backend(tmp_path, address):
    done = run_unet_process(
        *arguments(tmp_path, address, "training.devices=1", "training.epochs=1"), KERAS_BACKEND=BACKEND
    )
    assert done.code == 0, done.err
    assert "training on" not in done.err
    assert len(Run(tmp_path / "demo").history()) == 1


@pytest.mark.slow
@pytest.mark.skipif(BACKEND == "jax", reason="JAX trains in several processes")
def test_other_backends_refuse_several_machines(tmp_path, address):
    done = run_unet_process(*arguments(tmp_path, address), KERAS_BACKEND=BACKEND)
    assert done.code == 2
    assert "2 processes that train a run together use JAX; set KERAS_BACKEND=jax" in done.err
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize(
    ("machines", "devices", "shares"),
    [
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 4.0}, {"CPU": 8.0, "GPU": 8.0}], "all", [{"GPU": 8}, {"GPU": 2}]),
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 8.0}], 4, [{"GPU": 4}]),
        ([{"CPU": 8.0, "GPU": 2.0}], 1, [{"GPU": 1}]),
        ([{"CPU": 8.0}, {"memory": 1.0}, {"CPU": 2.0}], "all", [{"CPU": 8}, {"CPU": 2}]),
        ([{"CPU": 2.0}, {"CPU": 8.0}], 1, [{"CPU": 8}]),
    ],
)
def test_every_process_takes_what_a_machine_has(machines, devices, shares):
    assert unet_ray._shares(machines, config.load("pets", [f"training.devices={devices}"])) == shares


def test_what_no_machine_has_is_refused():
    with pytest.raises(InputError, match=r"^training\.devices: 3 are more than the 2 GPUs of a machine; .*=all uses"):
        unet_ray._shares([{"GPU": 2.0}, {"GPU": 2.0}], config.load("pets", ["training.devices=3"]))
    with pytest.raises(InputError, match="no machine of the Ray cluster has a processor"):
        unet_ray._shares([{"memory": 1.0}], config.load("pets", []))


def test_a_folder_that_a_machine_does_not_have_is_named(tmp_path):
    with pytest.raises(RunError, match=r"nowhere is not visible on .+: the machines must share the file system"):
        unet_ray._Process().start([], tmp_path / "nowhere", {})
