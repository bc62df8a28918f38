"""Cells as tasks on a Ray cluster."""

import contextlib
import os
import threading
from concurrent.futures import Future, InvalidStateError
from pathlib import Path
from typing import Any

from unet.ablation.run import devices, processes
from unet.cluster import ray


class RayExecutor:
    """Tasks on a Ray cluster; :class:`unet.cluster.ray.Connection` says what it needs.

    Args:
        environment: Environment of this process, of which KERAS_BACKEND, UNET_CACHE and JAX_PLATFORMS are passed on.
        address: Address of the cluster, ``host:port``; default: RAY_ADDRESS, otherwise a cluster is started here.
        workers: Number of cells that run at the same time on each GPU, or on each machine of a cluster without GPUs.

    Raises:
        InputError: Ray is not installed, or no cluster answers at the address.
    """

    def __init__(self, environment: dict[str, str], address: str | None = None, workers: int = 1):
        self._connection = ray.Connection(environment, address)
        self._ray = self._connection.ray
        self._environment = self._connection.passed_on
        machines = self._connection.machines()
        if any(machine.get("GPU") for machine in machines):
            share: dict[str, Any] = {"num_gpus": 1 / workers}
            self._environment = self._environment | devices.memory_share(workers)
        else:
            cores = [machine.get("CPU", 0) for machine in machines]
            share = {"num_cpus": max(1, int(min(filter(None, cores), default=1)) // workers)}
        self._task = self._ray.remote(max_retries=0, **share)(_run)
        self._references: list = []
        self._futures: list[Future] = []
        self._closed = threading.Event()
        self._watch = threading.Thread(target=self._watch_head, daemon=True)
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
        self._connection.close()

    def _pass_on(self, ended: Future, future: Future) -> None:
        """Copy a task's result; without the Ray process of this machine no task can run any more."""
        error = ended.exception()
        if isinstance(error, self._ray.exceptions.LocalRayletDiedError):
            error = ray.lost("its process on this machine, the raylet, has died")
        with contextlib.suppress(InvalidStateError):  # the cluster is lost
            if error is None:
                future.set_result(ended.result())
            else:
                future.set_exception(error)

    def _watch_head(self) -> None:
        """End all futures when the head has not answered for a while: Ray would wait, then end the process."""
        while not self._closed.wait(ray.CHECK_SECONDS):
            if self._connection.is_lost():
                self._end_all()
                return

    def _end_all(self) -> None:
        for future in self._futures:
            with contextlib.suppress(InvalidStateError):  # it has ended
                future.set_exception(ray.lost(f"its head does not answer at {self._connection.head}"))


def _run(run: str, environment: dict[str, str]) -> str | None:
    """Run a cell in a Ray worker, where Ray has set CUDA_VISIBLE_DEVICES."""
    if not (Path(run) / "config.yaml").is_file():
        return ray.invisible(Path(run))
    return processes.run_cell(Path(run), dict(os.environ) | environment, [])
