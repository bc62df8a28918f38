"""Cells as processes on this machine."""

import queue
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from unet.ablation.run import devices, processes


class LocalExecutor:
    """Processes on this machine, each with its own device or share of the cores.

    On a CPU the last bits of a result depend on the number of cores, and so on the number of workers.

    Args:
        environment: Environment variables of the processes. GPUs are those in its CUDA_VISIBLE_DEVICES, or those that
            ``nvidia-smi`` lists.
        workers: Number of cells that run at the same time. More workers than GPUs share them.
    """

    def __init__(self, environment: dict[str, str], workers: int = 1):
        self._slots: queue.Queue[dict[str, str]] = queue.Queue()
        for share in devices.shares(environment, workers):
            self._slots.put(environment | share)
        self._threads = ThreadPoolExecutor(workers)
        self._stop_requests: list[str] = []

    def submit(self, run: Path) -> Future:
        """Queue a cell."""
        return self._threads.submit(self._run, run)

    def stop(self) -> None:
        """Ask all processes to stop after their step; a second call kills them."""
        self._stop_requests.append("stop")

    def close(self) -> None:
        """Kill the processes that still run, and wait for their end."""
        self._stop_requests += ["close", "close"]
        self._threads.shutdown(cancel_futures=True)

    def _run(self, run: Path) -> str | None:
        if self._stop_requests:
            return "not started"
        slot = self._slots.get()
        try:
            return processes.run_cell(run, slot, self._stop_requests)
        finally:
            self._slots.put(slot)
