"""How workers share a machine, and clusters that cannot be used."""

import os
import sys
import time

import pytest

from tests.helpers.ablation import executable
from unet.ablation.run import devices
from unet.ablation.run.executors.ray import RayExecutor
from unet.errors import InputError

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
