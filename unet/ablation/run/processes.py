"""Processes that import this very package, whatever their working directory and environment."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import unet
from unet import interrupts

POLL_SECONDS = 0.2

_PROGRAM = """
import importlib.util, runpy, sys
spec = importlib.util.spec_from_file_location("unet", sys.argv.pop(1))
sys.modules["unet"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["unet"])
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
"""Import the package from the file in the first argument, then run the module in the second."""


def command(module: str, *arguments: str) -> list[str]:
    """Command line that runs a module of this package, like ``python -m module arguments``.

    It works wherever this package was imported from, without PYTHONPATH. Modules in the working directory or next to
    the package are not found by accident, so they cannot hide a library.
    """
    # -P keeps the working directory out of sys.path.
    return [sys.executable, "-P", "-c", _PROGRAM, str(unet.__file__), module, *arguments]


def run_cell(run: Path, environment: dict[str, str], stop_requests: list[str]) -> str | None:
    """Finish a run directory in a new process.

    Args:
        run: The run directory.
        environment: All environment variables of the process.
        stop_requests: Shared with the caller. With its first element the process is asked to stop after its step, with
            its second it is killed. Killing loses nothing that was saved, as every file is replaced in one step.

    Returns:
        Why the run failed, or ``None``.
    """
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command("unet.ablation.run.cell", f"--parent={os.getpid()}", str(run)),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,  # the terminal's Ctrl-C reaches it through ``stop_requests`` alone
        )
        handled = 0
        while True:
            try:
                process.wait(POLL_SECONDS)
                break
            except subprocess.TimeoutExpired:
                pass
            except KeyboardInterrupt:  # raised by Ray when a task is cancelled
                stop_requests.append("cancelled")
            if handled < len(stop_requests):
                if handled:
                    process.kill()
                else:
                    process.send_signal(signal.SIGINT)
                handled += 1
        if process.returncode == 0:
            return None
        errors.seek(0)
        return reason(errors.read(), process.returncode)


def reason(errors: str, code: int) -> str:
    """Why a process failed, from its standard error and exit code."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    starts = [index for index, line in enumerate(lines) if line.startswith("error: ")]
    if starts:
        return "\n".join(lines[starts[-1] :]).removeprefix("error: ")
    if code in interrupts.STOP_EXIT_CODES:
        return f"stopped by {interrupts.name(code - 128)}"
    if code < 0:
        name = signal.Signals(-code).name
        causes = {"SIGKILL": " (probably out of memory)", "SIGBUS": " (a file of the data cache became shorter)"}
        return f"ended by {name}{causes.get(name, '')}"
    return lines[-1] if lines else f"ended with exit code {code}"
