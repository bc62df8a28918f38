"""What both benchmarks do in the same way: processes to measure in, tables and files."""

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unet import backend
from unet.environment import environment_variables
from unet.files import write_json, write_text

FRUGAL = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
"""Variables with which JAX and TensorFlow do not take most of a GPU's memory at once."""


@contextlib.contextmanager
def fresh_process(**environment: str) -> Iterator[ProcessPoolExecutor]:
    """One freshly started worker with additional environment variables, in which Keras is imported.

    It takes no more of a GPU's memory than it needs. When the block ends with an exception, such as Ctrl-C, the worker
    is stopped whatever it does, and so it is when this process is killed.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_start) as executor:
        with environment_variables(**FRUGAL, **environment):
            number = executor.submit(os.getpid).result()  # has started with the environment
        try:
            yield executor
        except BaseException:
            with contextlib.suppress(OSError):  # has ended already
                os.kill(number, signal.SIGTERM)
            raise


def device_name() -> str:
    """Name of the device the backend computes on, without using it in this process."""
    with fresh_process() as process:
        return process.submit(backend.device_name).result()


def _start() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    backend.use_backend()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # silences the warning about retracing


def _end_with_parent() -> None:
    """End when the parent has died. A worker of a pool would wait for it forever, with the memory that it has taken."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def markdown_table(titles: list[str], rows: list[list[str]], left: int) -> list[str]:
    """Lines of a table in Markdown; all columns after the first ``left`` are right-aligned numbers."""
    return [
        f"| {' | '.join(titles)} |",
        f"|{'---|' * left}{'---:|' * (len(titles) - left)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def write(output: Path, environment: dict[str, Any], found: Sequence[Any], text: str) -> None:
    """Write measurements, which are dataclasses, and their environment to ``output``, and a text to .md next to it."""
    write_json(output, {"environment": environment, "measurements": [asdict(one) for one in found]})
    write_text(output.with_suffix(".md"), text)
