"""Several processes, on one host or on several, that train one run together: the same command for each, with JAX.

The first process has the run directory. Every other process has a temporary copy of what training reads from it, shows
nothing, and leaves stop signals to the first. Training itself is the same code in all of them, and ends in all of them
when it ends in one.
"""

import contextlib
import io
import itertools
import json
import os
import shutil
import socket
import tempfile
import threading
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from unet import console, interrupts, records
from unet.backend import use_backend
from unet.config import Config
from unet.errors import InputError, RunError
from unet.runs import Run

ADDRESSES = "KERAS_DISTRIBUTION_JOB_ADDRESSES"
"""Environment variable of ``keras.distribution``: host and port of the first process."""
NUMBER = "KERAS_DISTRIBUTION_NUM_PROCESSES"
"""Another one: how many processes train together."""
PROCESS = "KERAS_DISTRIBUTION_PROCESS_ID"
"""Another one: which of them this is, from 0."""
SCHEDULERS = {"SLURM_NTASKS": "SLURM_STEP_NODELIST", "OMPI_COMM_WORLD_SIZE": "OMPI_MCA_orte_hnp_uri"}
"""Variables with the number of processes that SLURM and Open MPI start, and one more that JAX needs of each."""
FOREVER = 1e9
"""Seconds between the checkpoints of copies, which nobody needs."""
INTERVAL = 1.0
"""Seconds between two signs of life."""
LOST = 30.0
"""Seconds without one after which a process counts as lost."""
RESUME = "the same command resumes from the last checkpoint"
GRACE = 3.0
"""Seconds in which a process may report the error that another has reported before."""


@contextlib.contextmanager
def joined(config: Config, find: Callable[[], Run]) -> Iterator[Run]:
    """Join the other processes, if this is one of several that train a run together.

    They are several if KERAS_DISTRIBUTION_NUM_PROCESSES says so, or with ``training.devices: all`` a scheduler that JAX
    knows. An error in the block, and its end by a stop signal, end all of them; the first process reports it.

    Args:
        config: The configuration of the run, the same in every process.
        find: Creates or opens the run; called by the first process only.

    Yields:
        The run, or a copy of it that is deleted at the end.

    Raises:
        InputError: The processes cannot train together: the message says why.
        RunError: The other processes cannot be reached.
    """
    if _number(config) == 1:
        yield find()
        return
    link = _Link()
    with link.ends_together():
        if link.process == 0:
            run = find()
            _broadcast(_packed(run, config))
            yield run
        else:
            with tempfile.TemporaryDirectory(prefix="unet-") as folder, _silence(), interrupts.ignored():
                link.folder = folder
                yield _unpacked(_broadcast(b""), config, Path(folder))


def variables(address: str, number: int, process: int) -> dict[str, str]:
    """Environment variables of one of several processes.

    Args:
        address: Host and port of the first.
        number: How many they are.
        process: Which of them it is, from 0.
    """
    return {ADDRESSES: address, NUMBER: str(number), PROCESS: str(process)}


def _number(config: Config) -> int:
    """How many processes train this run together."""
    setting = os.environ.get(NUMBER)
    if setting is None and config.training.devices == "all":
        setting = next((os.environ.get(name) for name, needed in SCHEDULERS.items() if needed in os.environ), None)
    try:
        number = int(setting or 1)
    except ValueError:
        raise InputError(f"{NUMBER}: {setting!r} is not a whole number") from None
    if number > 1:
        check_settings(config, number, use_backend())
    return number


def check_settings(config: Config, number: int, backend: str) -> None:
    """Check that so many processes can train a run together.

    Raises:
        InputError: They cannot, with this configuration or backend.
    """
    training = config.training
    together = f"{number} processes that train a run together"
    if backend != "jax":
        raise InputError(f"{together} use JAX; set KERAS_BACKEND=jax")
    if training.devices == 1:
        raise InputError(f"training.devices: 1, but {NUMBER}: {together}; set training.devices=all, or unset {NUMBER}")
    if training.batch_size == "auto":
        raise InputError(f"training.batch_size: auto is not available to {together}; set a number")
    if not training.jit:
        raise InputError(f"training.jit: {together} have to compile the step; set training.jit=true")


class _Link:
    """Connection of this process to the others: each says every second that it lives, or how it has ended.

    Attributes:
        process: Number of this process; 0 is the first.
        folder: Folder to delete when the process ends.
    """

    def __init__(self):
        import jax

        addresses, number, process = (os.environ.get(name) or None for name in (ADDRESSES, NUMBER, PROCESS))
        jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM from Python
        try:
            # Not keras.distribution.initialize, which draws a seed that a single process does not draw.
            jax.distributed.initialize(
                None if addresses is None else addresses.split(",")[0],
                None if number is None else int(number),
                None if process is None else int(process),
                heartbeat_timeout_seconds=int(3 * LOST),
            )
        except (ValueError, TypeError) as error:
            raise InputError(
                f"the processes cannot be found: {records.cause(error)} Set {ADDRESSES}=HOST:PORT, "
                f"{NUMBER} and {PROCESS}"
            ) from error
        except RuntimeError as error:
            raise RunError(f"the other processes cannot be reached: {records.cause(error)}") from error
        from jax._src.distributed import global_state  # the client has no public name

        self._client: Any = global_state.client
        self.process, self._number = jax.process_index(), jax.process_count()
        self.folder: str | None = None
        self._leaving = threading.Event()
        self._lock = threading.Lock()
        self._watch = threading.Thread(target=self._watch_others, daemon=True)
        self._watch.start()

    @contextlib.contextmanager
    def ends_together(self) -> Iterator[None]:
        """End the other processes when the block ends with an exception, and wait for them when it does not."""
        import jax

        try:
            yield
        except BaseException as error:
            expected = isinstance(error, InputError | RunError) or not isinstance(error, Exception)
            if not expected:  # perhaps because another process is lost: then this one ends here
                self._watch.join(2 * LOST)
            self._leave()
            code, message = _outcome(error)
            self._say(code=code, message=message)
            jax.distributed.shutdown()
            if self.process == 0:
                raise
            if not expected:
                traceback.print_exc()
            raise SystemExit(code) from error
        self._leave()
        self._say(finished=True)
        jax.distributed.shutdown()

    def _leave(self) -> None:
        """Let this thread alone say from now on how the process ends; the other one waits for the end."""
        with self._lock:
            leads = not self._leaving.is_set()
            self._leaving.set()
        if not leads:
            threading.Event().wait()

    def _watch_others(self) -> None:
        import jax

        changes: dict[str, tuple[str, float]] = {}
        for beat in itertools.count():
            try:
                with self._lock:
                    if self._leaving.is_set():
                        return
                    self._say(beat=beat)
                said = dict(self._client.key_value_dir_get("unet/"))
            except jax.errors.JaxRuntimeError:
                if not self._leaving.is_set():
                    self._end(1, "the first process has ended", orderly=False)
                return
            now = time.monotonic()
            for key, text in said.items():
                if key == f"unet/{self.process}" or (self.process and key != "unet/0"):
                    continue
                entry, (before, since) = json.loads(text), changes.get(key, ("", now))
                changes[key] = (text, since if text == before else now)
                place = f"process {int(key[5:]) + 1} of {self._number} ({entry['host']})"
                if "code" in entry and not (self.process == 0 and self._leaving.wait(GRACE)):
                    self._end(entry["code"], f"{place}: {entry['message']}")
                elif now - changes[key][1] > LOST and "finished" not in entry:
                    self._end(1, f"{place} has not responded for {LOST:.0f} seconds; {RESUME}", orderly=False)
            if self._leaving.wait(INTERVAL):
                return

    def _say(self, **entry) -> None:
        text = json.dumps(entry | {"host": socket.gethostname()})
        self._client.key_value_set(f"unet/{self.process}", text, allow_overwrite=True)

    def _end(self, code: int, message: str, orderly: bool = True) -> None:
        """End this process, whose main thread may wait for another process for ever."""
        import jax

        self._leave()
        if self.process == 0 or not orderly:
            console.report(message)
        if self.process == 0:
            self._say(code=code, message=message)
        if orderly:
            jax.distributed.shutdown()
        elif self.process == 0:
            time.sleep(2 * INTERVAL)  # the others hear it
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        os._exit(code)


def _outcome(error: BaseException) -> tuple[int, str]:
    """Exit code of a process that ends with an exception, and what the first process says of it."""
    if isinstance(error, KeyboardInterrupt):
        return interrupts.STOP_EXIT_CODES[0], "stopped"
    if isinstance(error, SystemExit):
        return (error.code if isinstance(error.code, int) else int(error.code is not None)), "stopped"
    if isinstance(error, InputError):
        return 2, str(error)
    return 1, str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {records.cause(str(error))}"


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Print neither results nor messages."""
    before, console.console.quiet = console.console.quiet, True
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        console.console.quiet = before


def _packed(run: Run, config: Config) -> bytes:
    """The files of a run that training reads, and the configuration that the process was started with."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("started_with", config.to_yaml())
        for path in (run.config_file, run.info_file, run.data_file, run.history_file, run.last_file):
            if path.exists():
                archive.write(path, path.name)
    return content.getvalue()


def _unpacked(content: bytes, config: Config, folder: Path) -> Run:
    """A copy of the run, which is not tracked.

    Raises:
        InputError: The first process was started with another configuration.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        archive.extractall(folder)
    if (folder / "started_with").read_text(encoding="utf-8") != config.to_yaml():
        raise InputError("has another configuration than the first process; start the same command for each")
    run = Run(folder)
    run.record_config(run.config.model_copy(update={"tracking": "none"}).with_training(checkpoint_seconds=FOREVER))
    return run


def _broadcast(content: bytes) -> bytes:
    """The first process's bytes."""
    import numpy as np
    from jax.experimental.multihost_utils import broadcast_one_to_all

    size = int(broadcast_one_to_all(np.int32(len(content))))
    padded = np.zeros(size, np.uint8)
    padded[: len(content)] = np.frombuffer(content, np.uint8)
    return broadcast_one_to_all(padded).tobytes()
