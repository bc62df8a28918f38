"""Cells as tasks on a Ray cluster."""

import logging
import os
import socket
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from unet import interrupts
from unet.ablation.run import devices, processes
from unet.environment import environment_variables
from unet.errors import InputError


class RayExecutor:
    """Tasks on a Ray cluster whose machines share this machine's file system and have the project at the same path.

    Args:
        environment: Environment of this process, of which KERAS_BACKEND, UNET_CACHE and JAX_PLATFORMS are passed on.
        address: Address of the cluster, ``host:port``; default: RAY_ADDRESS, otherwise a cluster is started here.
        workers: Number of cells that run at the same time on each GPU, or on each machine of a cluster without GPUs.

    Raises:
        InputError: Ray is not installed, or no cluster answers at the address.
    """

    def __init__(self, environment: dict[str, str], address: str | None = None, workers: int = 1):
        try:
            import ray
        except ImportError:
            raise InputError("Ray is not installed: pip install 'unet-upsamplers[ray]'", argument="executor") from None
        self._ray = ray
        address = address or environment.get("RAY_ADDRESS")
        _check_reachable(address)
        visible = {key: environment[key] for key in ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS") if key in environment}
        try:
            with interrupts.handlers_restored(), environment_variables(**visible):
                ray.init(
                    address=address or "local",
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    include_dashboard=False if address is None else None,
                )
        except (ConnectionError, ValueError) as error:
            hint = "; a cluster with token authentication needs RAY_AUTH_MODE=token" if address else ""
            raise InputError(f"no Ray cluster answers at {address}: {error}{hint}", argument="address") from None
        kept = ("KERAS_BACKEND", "UNET_CACHE", "JAX_PLATFORMS")
        self._environment = {key: environment[key] for key in kept if key in environment}
        if ray.cluster_resources().get("GPU"):
            share: dict[str, Any] = {"num_gpus": 1 / workers}
            self._environment |= devices.memory_share(workers)
        else:
            cores = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
            share = {"num_cpus": max(1, int(min(filter(None, cores), default=1)) // workers)}
        self._task = ray.remote(max_retries=0, **share)(_run)
        self._references: list = []

    def submit(self, run: Path) -> Future:
        """Queue a cell."""
        reference = self._task.remote(str(run.absolute()), self._environment)
        self._references.append(reference)
        return reference.future()

    def stop(self) -> None:
        """Cancel all tasks, which ask their processes to stop after their step; a second call kills them."""
        for reference in self._references:
            self._ray.cancel(reference)

    def close(self) -> None:
        """Leave the cluster, which ends the tasks that still run; a cluster that was started here ends too."""
        self._ray.shutdown()


def _run(run: str, environment: dict[str, str]) -> str | None:
    """Run a cell in a Ray worker, where Ray has set CUDA_VISIBLE_DEVICES."""
    if not (Path(run) / "config.yaml").is_file():
        return f"{run} is not visible on {os.uname().nodename}: the machines must share the file system"
    return processes.run_cell(Path(run), dict(os.environ) | environment, [])


def _check_reachable(address: str | None) -> None:
    """Refuse an address where nothing listens: Ray itself would try for two minutes, then end the process."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise InputError(f"no Ray cluster answers at {address}: {error}", argument="address") from None
