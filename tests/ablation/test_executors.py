"""How workers share a machine, and clusters that cannot be used."""

import os
import socket
import sys
import time
import types
from concurrent.futures import Future

import pytest

from tests.helpers.ablation import executable
from unet.ablation.run import devices
from unet.ablation.run.executors.ray import RayExecutor
from unet.cluster import ray as unet_ray
from unet.errors import InputError, RunError

pytestmark = pytest.mark.backend_free


def cores_of(shares) -> list[set[int]]:
    return [{int(core) for core in share["UNET_CORES"].split(",")} for share in shares]


@pytest.mark.parametrize(("cores", "workers"), [(8, 2), (8, 3), (7, 7), (5, 4), (64, 3)])
def test_workers_on_a_cpu_share_all_its_cores_evenly(monkeypatch, cores, workers):
    allowed = set(range(3, 3 + cores))  # not all of the machine's, as in a container
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: allowed, raising=False)
    own = cores_of(devices.shares({"CUDA_VISIBLE_DEVICES": ""}, workers))
    assert len(own) == workers
    assert set().union(*own) == allowed
    assert sum(map(len, own)) == cores  # no core is shared
    assert max(map(len, own)) - min(map(len, own)) <= 1


def test_more_workers_than_cores_have_one_core_each(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    own = cores_of(devices.shares({"CUDA_VISIBLE_DEVICES": "-1"}, 5))
    assert [len(cores) for cores in own] == [1] * 5
    assert [own.count({core}) for core in (0, 1)] in ([3, 2], [2, 3])


def test_one_worker_has_the_whole_machine(monkeypatch):
    monkeypatch.setattr(devices.shutil, "which", lambda name: None)
    assert list(devices.shares({}, 1)) == [{}]
    assert list(devices.shares({"CUDA_VISIBLE_DEVICES": "-1"}, 1)) == [{}]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not bind processes to cores")
def test_a_cell_stays_on_its_cores(monkeypatch):
    before = os.sched_getaffinity(0)
    monkeypatch.setenv("UNET_CORES", str(max(before)))
    try:
        devices.stay_on_cores()
        assert os.sched_getaffinity(0) == {max(before)}
    finally:
        os.sched_setaffinity(0, before)


HALF = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.450", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
THIRD = HALF | {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.300"}


@pytest.mark.parametrize(
    ("visible", "workers", "expected"),
    [
        ("0", 1, [("0", {})]),
        ("0", 3, [("0", THIRD)] * 3),
        ("2,5", 1, [("2", {})]),
        ("2, 5", 2, [("2", {}), ("5", {})]),
        ("2,5", 3, [("2", HALF), ("5", HALF), ("2", HALF)]),
        ("MIG-a,MIG-b", 4, [("MIG-a", HALF), ("MIG-b", HALF)] * 2),
    ],
)
def test_every_worker_has_a_gpu_or_its_part_of_one(visible, workers, expected):
    found = list(devices.shares({"CUDA_VISIBLE_DEVICES": visible}, workers))
    assert found == [{"CUDA_VISIBLE_DEVICES": gpu} | share for gpu, share in expected]


def test_gpus_are_those_that_nvidia_smi_lists(tmp_path, monkeypatch):
    listing = (
        "GPU 0: NVIDIA H200 (UUID: GPU-1)\n  MIG 1g.18gb Device 0: (UUID: MIG-1)\nGPU 1: NVIDIA H200 (UUID: GPU-2)"
    )
    executable(tmp_path / "nvidia-smi", f"print({listing!r})")
    monkeypatch.setenv("PATH", str(tmp_path))
    environment = {"PATH": str(tmp_path)}
    assert [share["CUDA_VISIBLE_DEVICES"] for share in devices.shares(environment, 3)] == ["0", "1", "0"]
    assert all("CUDA_VISIBLE_DEVICES" not in share for share in devices.shares({"JAX_PLATFORMS": "cpu"}, 2))
    executable(tmp_path / "nvidia-smi", "import sys; print('no driver'); sys.exit(9)")
    assert list(devices.shares(environment, 1)) == [{}]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "no-such-host.invalid:6379", "nonsense"])
def test_a_cluster_that_does_not_answer_is_reported_at_once(address):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'unet-upsamplers[ray]'")
    started = time.monotonic()
    with pytest.raises(InputError, match=f"^address: no Ray cluster answers at {address}: "):
        RayExecutor(dict(os.environ), address)
    assert time.monotonic() - started < 30


def test_a_missing_ray_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match="Ray is not installed: pip install"):
        RayExecutor(dict(os.environ))


class RayletDied(Exception):
    pass


def started(monkeypatch, head: str) -> tuple[RayExecutor, list[Future]]:
    """An executor on a stand-in for a cluster, and its tasks."""
    tasks: list[Future] = []

    class Task:
        def remote(self, *arguments):
            tasks.append(Future())
            return types.SimpleNamespace(future=lambda future=tasks[-1]: future)

    module = types.SimpleNamespace(
        exceptions=types.SimpleNamespace(LocalRayletDiedError=RayletDied),
        get_runtime_context=lambda: types.SimpleNamespace(gcs_address=head),
        init=lambda **options: None,
        shutdown=lambda: None,
        nodes=list,
        remote=lambda **options: lambda function: Task(),
    )
    monkeypatch.setitem(sys.modules, "ray", module)
    monkeypatch.setattr(unet_ray, "CHECK_SECONDS", 0.02)
    return RayExecutor({}), tasks


def test_cells_end_when_the_head_of_a_ray_cluster_no_longer_answers(monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        executor, tasks = started(monkeypatch, address)
        finished, running = executor.submit(tmp_path), executor.submit(tmp_path)
        tasks[0].set_result("no data")
        time.sleep(0.5)
        assert finished.result(timeout=1) == "no data"
        assert not running.done()
    with pytest.raises(RunError, match=f"^the Ray cluster was lost: its head does not answer at {address}; run the"):
        running.result(timeout=10)
    tasks[1].set_result(None)  # too late, which is no error
    executor.close()


def test_cells_end_when_the_ray_process_of_this_machine_has_died(monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as head:
        executor, tasks = started(monkeypatch, f"127.0.0.1:{head.getsockname()[1]}")
        ended, failed = executor.submit(tmp_path), executor.submit(tmp_path)
        tasks[0].set_exception(RayletDied())
        tasks[1].set_exception(MemoryError("the node is full"))
        with pytest.raises(RunError, match=r"^the Ray cluster was lost: .* the raylet, has died; run the same command"):
            ended.result(timeout=1)
        with pytest.raises(MemoryError):  # of this cell alone
            failed.result(timeout=1)
        executor.close()
