"""How the workers on one machine share its GPUs or processor cores."""

import os
import shutil
import subprocess
from collections.abc import Iterator


def shares(environment: dict[str, str], workers: int) -> Iterator[dict[str, str]]:
    """Environment variables that give each of ``workers`` processes a device of its own, or its part of one."""
    gpus = _gpus(environment)
    if gpus:
        workers_per_gpu = -(-workers // len(gpus))
        for index in range(workers):
            yield {"CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]} | memory_share(workers_per_gpu)
        return
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    for index in range(workers):
        start, end = (edge * len(cores) // workers for edge in (index, index + 1))
        own = cores[start : max(end, start + 1)]  # more workers than cores share them
        yield {"UNET_CORES": ",".join(map(str, own))} if workers > 1 and own else {}


def memory_share(workers: int) -> dict[str, str]:
    """Environment variables for ``workers`` processes on one GPU: by default JAX and TensorFlow take all its memory."""
    if workers == 1:
        return {}
    return {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / workers:.3f}", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}


def stay_on_cores() -> None:
    """Bind this process to the processor cores in UNET_CORES, so that workers on one CPU do not disturb each other."""
    if cores := os.environ.get("UNET_CORES"):
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})


def _gpus(environment: dict[str, str]) -> list[str]:
    """Identifiers of the NVIDIA GPUs that the backend may use."""
    if "CUDA_VISIBLE_DEVICES" in environment:
        named = [name.strip() for name in environment["CUDA_VISIBLE_DEVICES"].split(",")]
        return [name for name in named if name not in ("", "-1")]
    if environment.get("JAX_PLATFORMS") == "cpu" or not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, env=environment)
    count = sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
    return [str(index) for index in range(count)]
