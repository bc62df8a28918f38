"""Run the command ``unet``: in this process, or in one of its own where the process is what is tested."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from tests.helpers import ROOT
from unet import commands


class Result(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


def run_unet(*arguments, cwd: Path = ROOT, **environment: str) -> Result:
    """Run ``unet ARGUMENTS`` in this process, in the directory ``cwd``, with additional environment variables."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd),
        mock.patch.dict(os.environ, {"COLUMNS": "200"} | environment),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = commands.invoke([str(argument) for argument in arguments])
    return Result(code, out.getvalue(), err.getvalue())


def start_unet(*arguments, cwd: Path = ROOT, **environment: str) -> subprocess.Popen:
    """Start ``unet ARGUMENTS`` as a process, with pipes for standard output and standard error."""
    return subprocess.Popen(
        [sys.executable, "-m", "unet", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_unet_process(*arguments, cwd: Path = ROOT, **environment: str) -> Result:
    """Run ``unet ARGUMENTS`` as a process of its own."""
    with start_unet(*arguments, cwd=cwd, **environment) as process:
        out, err = process.communicate(timeout=300)
    return Result(process.returncode, out, err)
