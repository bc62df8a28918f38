"""Cells as tasks on a Ray cluster."""

import contextlib
import logging
import os
import socket
import threading
from concurrent.futures import Future, InvalidStateError
from pathlib import Path
from typing import Any

from unet import interrupts
from unet.ablation.run import devices, processes
from unet.environment import environment_variables
from unet.errors import InputError, RunError

CHECK_SECONDS = 5.0
"""Time between two checks whether the head of the cluster answers."""
LOST_CHECKS = 4
"""Checks in a row after which the head is considered lost. Ray itself would end the process after a minute."""


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
        self._futures: list[Future] = []
        self._closed = threading.Event()
        head = address if address and address.startswith("ray://") else ray.get_runtime_context().gcs_address
        self._watch = threading.Thread(target=self._watch_head, args=(head,), daemon=True)
        self._watch.start()

    def submit(self, run: Path) -> Future:
        """Queue a cell; its future raises RunError if the cluster is lost."""
        reference = self._task.remote(str(run.absolute()), self._environment)
        self._references.append(reference)
        future: Future = Future()
        self._futures.append(future)
        reference.future().add_done_callback(lambda ended: self._pass_on(ended, future))
        return future

    def stop(self) -> None:
        """Cancel all tasks, which ask their processes to stop after their step; a second call kills them."""
        for reference in self._references:
            self._ray.cancel(reference)

    def close(self) -> None:
        """Leave the cluster, which ends the tasks that still run; a cluster that was started here ends too."""
        self._closed.set()
        self._ray.shutdown()

    def _pass_on(self, ended: Future, future: Future) -> None:
        """Copy a task's result; without the Ray process of this machine no task can run any more."""
        error = ended.exception()
        if isinstance(error, self._ray.exceptions.LocalRayletDiedError):
            error = _lost("its process on this machine, the raylet, has died")
        with contextlib.suppress(InvalidStateError):  # the cluster is lost
            if error is None:
                future.set_result(ended.result())
            else:
                future.set_exception(error)

    def _watch_head(self, address: str) -> None:
        """End all futures when the head has not answered for a while: Ray would wait, then end the process."""
        failed = 0
        while failed < LOST_CHECKS:
            if self._closed.wait(CHECK_SECONDS):
                return
            try:
                _check_reachable(address, timeout=3)
                failed = 0
            except InputError:
                failed += 1
        for future in self._futures:
            with contextlib.suppress(InvalidStateError):  # it has ended
                future.set_exception(_lost(f"its head does not answer at {address}"))


def _run(run: str, environment: dict[str, str]) -> str | None:
    """Run a cell in a Ray worker, where Ray has set CUDA_VISIBLE_DEVICES."""
    if not (Path(run) / "config.yaml").is_file():
        return f"{run} is not visible on {os.uname().nodename}: the machines must share the file system"
    return processes.run_cell(Path(run), dict(os.environ) | environment, [])


def _lost(reason: str) -> RunError:
    return RunError(f"the Ray cluster was lost: {reason}; run the same command again to resume")


def _check_reachable(address: str | None, timeout: float = 10) -> None:
    """Refuse an address where nothing listens: Ray itself would try for two minutes, then end the process."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout).close()
    except (OSError, ValueError) as error:
        raise InputError(f"no Ray cluster answers at {address}: {error}", argument="address") from None
