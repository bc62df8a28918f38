"""Ray: connecting to a cluster, and training one run on its machines.

:func:`train` starts a process on each machine; the processes join as :mod:`unet.cluster` describes.
"""

import contextlib
import logging
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from unet import cluster, interrupts, processes
from unet.config import Config
from unet.environment import environment_variables
from unet.errors import InputError, RunError

log = logging.getLogger("unet")

PASSED_ON = ("KERAS_BACKEND", "UNET_CACHE", "JAX_PLATFORMS")
"""Environment variables that processes on the machines of a cluster take from this one."""
CHECK_SECONDS = 5.0
"""Time between two checks whether the head of the cluster answers."""
LOST_CHECKS = 4
"""Checks in a row after which the head is considered lost. Ray itself would end the process after a minute."""
POLL_SECONDS = 0.2
ENDING_SECONDS = 10.0
"""Time in which the other processes end, or report an error, after one has ended."""


class Connection:
    """A connection to a Ray cluster whose machines share a file system and have the project at the same path.

    Args:
        environment: Environment of this process.
        address: Address of the cluster, ``host:port``; default: RAY_ADDRESS, otherwise a cluster is started here.

    Attributes:
        ray: The package.
        head: Address of the cluster's head.
        passed_on: Environment variables that apply on its machines, too.

    Raises:
        InputError: Ray is not installed, or no cluster answers at the address.
    """

    def __init__(self, environment: dict[str, str], address: str | None = None):
        try:
            import ray
        except ImportError:
            raise InputError("Ray is not installed: pip install 'unet-upsamplers[ray]'", argument="executor") from None
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
        self.ray: Any = ray
        self.head = address if address and address.startswith("ray://") else ray.get_runtime_context().gcs_address
        self.passed_on = {key: environment[key] for key in PASSED_ON if key in environment}
        self._failed = 0

    def machines(self) -> list[dict[str, float]]:
        """Resources of each machine that is alive, such as ``{"CPU": 16, "GPU": 8}``."""
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def is_lost(self) -> bool:
        """Check once whether the head answers; true if it has not answered to several checks in a row."""
        try:
            _check_reachable(self.head, timeout=3)
            self._failed = 0
        except InputError:
            self._failed += 1
        return self._failed >= LOST_CHECKS

    def get(self, reference):
        """Wait for a result.

        Raises:
            RunError: The head does not answer any more.
        """
        while not self.ray.wait([reference], timeout=CHECK_SECONDS)[0]:
            if self.is_lost():
                raise lost(f"its head does not answer at {self.head}")
        return self.ray.get(reference)

    def close(self) -> None:
        """Leave the cluster, which ends what still runs there; a cluster that was started here ends too."""
        self.ray.shutdown()


def lost(reason: str) -> RunError:
    """The error of a cluster that can no longer be used."""
    return RunError(f"the Ray cluster was lost: {reason}; run the same command again to resume")


def invisible(path: Path) -> str:
    """What to say of a run or folder that this machine of the cluster does not see."""
    return f"{path} is not visible on {socket.gethostname()}: the machines must share the file system"


def _check_reachable(address: str | None, timeout: float = 10) -> None:
    """Refuse an address where nothing listens: Ray itself would try for two minutes, then end the process."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout).close()
    except (OSError, ValueError) as error:
        raise InputError(f"no Ray cluster answers at {address}: {error}", argument="address") from None


def train(arguments: list[str], config: Config, environment: dict[str, str], address: str | None = None) -> None:
    """Run ``unet train`` on a Ray cluster, and print here what it prints.

    With ``training.devices: all`` it uses every GPU of the cluster, one process for each machine, or the processors of
    every machine if there are no GPUs; with a number, so many GPUs of one machine.

    Args:
        arguments: Arguments of ``unet train``; paths may be relative to the working directory.
        config: Its configuration.
        environment: Environment of this process, of which KERAS_BACKEND, UNET_CACHE and JAX_PLATFORMS are passed on.
        address: Address of the cluster; default: RAY_ADDRESS, otherwise a cluster is started here.

    Raises:
        InputError: The cluster cannot be reached, or the run cannot be trained on it.
        RunError: The cluster, or a machine of it, was lost.
        SystemExit: Training ended with this exit code, and has printed why.
    """
    with contextlib.closing(Connection(environment, address)) as connection:
        shares = _shares(connection.machines(), config)
        if len(shares) > 1:
            cluster.check_settings(config, len(shares), environment["KERAS_BACKEND"])
        _Training(connection, shares).run(["train", *arguments])


def _shares(machines: list[dict[str, float]], config: Config) -> list[dict[str, float]]:
    """What each process takes of its machine."""
    kind = "GPU" if any(machine.get("GPU") for machine in machines) else "CPU"
    counts = sorted((machine[kind] for machine in machines if machine.get(kind)), reverse=True)
    if not counts:
        raise InputError("no machine of the Ray cluster has a processor to train on", argument="executor")
    devices = config.training.devices
    if devices == "all":
        return [{kind: count} for count in counts]
    if kind == "CPU":
        return [{kind: counts[0]}]
    if devices > counts[0]:
        raise InputError(
            f"training.devices: {devices} are more than the {counts[0]:.0f} GPUs of a machine; training.devices=all "
            "uses those of several"
        )
    return [{kind: float(devices)}]


class _Training:
    """The processes of one run, each on a machine of its own."""

    def __init__(self, connection: Connection, shares: list[dict[str, float]]):
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        self.connection = connection
        ray = connection.ray
        machines = ray.util.placement_group(shares, strategy="STRICT_SPREAD")
        ready = machines.ready()
        if not ray.wait([ready], timeout=CHECK_SECONDS)[0]:
            log.info("waiting until %d machines of the cluster are free", len(shares))
        connection.get(ready)
        self.processes = []
        for index, share in enumerate(shares):
            place = PlacementGroupSchedulingStrategy(machines, placement_group_bundle_index=index)
            taken = {"num_cpus": share.get("CPU", 0), "num_gpus": share.get("GPU", 0)}
            self.processes.append(ray.remote(_Process).options(**taken, scheduling_strategy=place).remote())
        self.codes: dict[int, int] = {}
        self.errors = [""] * len(shares)
        self.signals: list[int] = []

    def run(self, arguments: list[str]) -> None:
        """Start ``unet ARGUMENTS`` in every process, print what the first prints, and wait until it has ended."""
        number = len(self.processes)
        address = self._call(0, "free_address") if number > 1 else None
        for index in range(number):
            place = cluster.variables(address, number, index) if address else {}
            self._call(index, "start", arguments, Path.cwd(), self.connection.passed_on | place)
        passed_on, limit = 0, float("inf")
        with interrupts.stop_gracefully(self.signals.append):
            while time.monotonic() < limit and len(self.codes) < number:
                if passed_on < len(self.signals):
                    self._call(0, "stop", self.signals[passed_on])
                    passed_on += 1
                for index in set(range(number)) - set(self.codes):
                    self._read(index)
                if (0 in self.codes or any(self.codes.values())) and limit == float("inf"):
                    limit = time.monotonic() + ENDING_SECONDS
                time.sleep(POLL_SECONDS)
        if 0 not in self.codes:
            index, code = next((index, code) for index, code in self.codes.items() if code)
            raise RunError(f"{self._place(index)}: {processes.reason(self.errors[index], code)}; {cluster.RESUME}")
        if self.codes[0] < 0:
            raise RunError(f"{self._place(0)}: {processes.reason('', self.codes[0])}; {cluster.RESUME}")
        if self.codes[0]:
            raise SystemExit(self.codes[0])

    def _read(self, index: int) -> None:
        """Print what the first process has printed, or keep what another one has."""
        printed, code = self._call(index, "read")
        for stream, text in printed:
            if index == 0:
                print(text, end="", file=getattr(sys, stream), flush=True)
            elif stream == "stderr":
                self.errors[index] += text
        if code is not None:
            self.codes[index] = code

    def _call(self, index: int, method: str, *arguments):
        """Call a method of a process.

        Raises:
            RunError: Its machine, or the cluster, is lost.
        """
        try:
            return self.connection.get(getattr(self.processes[index], method).remote(*arguments))
        except self.connection.ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, RunError):
                raise error.cause from None
            raise
        except self.connection.ray.exceptions.RayError:
            raise RunError(f"{self._place(index)}: its machine was lost; {cluster.RESUME}") from None

    def _place(self, index: int) -> str:
        return f"process {index + 1} of {len(self.processes)}"


class _Process:
    """A process that trains, on the machine where Ray has put this object."""

    def __init__(self):
        self.printed: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()

    def free_address(self) -> str:
        """Host and port at which the processes can find the first one."""
        import ray

        with socket.create_server(("", 0)) as free:
            return f"{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"

    def start(self, arguments: list[str], folder: Path, environment: dict[str, str]) -> None:
        """Start ``unet ARGUMENTS`` in a folder; the process is stopped if this one ends.

        Raises:
            RunError: The folder does not exist on this machine.
        """
        if not folder.is_dir():
            raise RunError(invisible(folder))
        self.process = subprocess.Popen(
            processes.command("unet", *arguments),
            cwd=folder,
            env=dict(os.environ) | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.readers = [threading.Thread(target=self._read, args=(name,), daemon=True) for name in ("stdout", "stderr")]
        for reader in self.readers:
            reader.start()

    def _read(self, stream: str) -> None:
        for line in getattr(self.process, stream):
            self.printed.put((stream, line))

    def read(self) -> tuple[list[tuple[str, str]], int | None]:
        """Lines printed since the last call, each with the name of its stream, and the exit code if it has ended."""
        code = self.process.poll()
        if code is not None:
            for reader in self.readers:
                reader.join()
        lines = [self.printed.get() for _ in range(self.printed.qsize())]
        return lines, code

    def stop(self, number: int) -> None:
        """Send the process a stop signal."""
        self.process.send_signal(number)
