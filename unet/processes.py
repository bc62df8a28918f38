"""Processes that import this very package, whatever their working directory and environment."""

import os
import signal
import sys

import unet
from unet import interrupts

_PROGRAM = """
import importlib.util, runpy, sys
spec = importlib.util.spec_from_file_location("unet", sys.argv.pop(1))
sys.modules["unet"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["unet"])
from unet.interrupts import listen_to_parent
listen_to_parent(int(sys.argv.pop(1)))
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
"""Import the package from the file in the first argument, listen to the second, then run the module in the third."""


def command(module: str, *arguments: str) -> list[str]:
    """Command line of a child process that runs a module of this package, like ``python -m module arguments``.

    The child can be stopped by SIGINT, and on Linux is stopped when this process dies.

    It works wherever this package was imported from, without PYTHONPATH. Modules in the working directory or next to
    the package are not found by accident, so they cannot hide a library.
    """
    # -P keeps the working directory out of sys.path.
    return [sys.executable, "-P", "-c", _PROGRAM, str(unet.__file__), str(os.getpid()), module, *arguments]


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
