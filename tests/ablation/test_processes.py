"""How cells are started: which package they import, what a failure is reported as, and what ends them."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

import unet
from tests.helpers import ROOT
from tests.helpers.ablation import wait_for
from tests.helpers.processes import command_lines
from unet.ablation.run import processes

pytestmark = pytest.mark.backend_free


def test_a_process_imports_this_package_from_any_directory_and_with_any_modules_in_it(tmp_path):
    (tmp_path / "unet").mkdir()
    for name in ("unet/__init__", "json", "yaml", "inspect"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('imported {name} of the working directory')")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = processes.command("inspect", "unet", "--details")  # prints where the module comes from
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert f"Origin: {unet.__file__}\n" in done.stdout, done.stderr
    command = processes.command("unet.ablation.run.cell", "--help")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Finish a run" in done.stdout


def test_a_cell_gets_the_environment_it_is_given(stand_in, tmp_path):
    stand_in("import json, os, sys; open(sys.argv[-1] + '/environment', 'w').write(json.dumps(dict(os.environ)))")
    environment = {"PATH": os.environ["PATH"], "UNET_CORES": "0"}
    assert processes.run_cell(tmp_path, environment, []) is None
    found = json.loads((tmp_path / "environment").read_text())
    found.pop("LC_CTYPE", None)  # set by Python itself
    assert found == environment


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has died")
def test_a_cell_ends_when_its_parent_is_killed(tmp_path):
    cell = "from unet.interrupts import listen_to_parent; import os, pathlib, time; listen_to_parent(os.getppid()); "
    cell += f"pathlib.Path({str(tmp_path / 'ready')!r}).touch(); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {cell!r}], start_new_session=True)"
    parent = f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGINT}}); {parent}"  # as Ray does
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=ROOT, stderr=subprocess.DEVNULL)
    wait_for(tmp_path / "ready")
    process.kill()
    process.wait()
    limit = time.monotonic() + 10
    while command_lines(str(tmp_path)) and time.monotonic() < limit:
        time.sleep(0.05)
    assert command_lines(str(tmp_path)) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has died")
def test_a_cell_ends_when_its_parent_was_killed_before_it_could_listen():
    cell = "from unet.interrupts import listen_to_parent; import os; listen_to_parent(os.getppid() + 1)"
    done = subprocess.run([sys.executable, "-c", cell], cwd=ROOT, capture_output=True, text=True)
    assert "KeyboardInterrupt" in done.stderr


@pytest.mark.parametrize(
    ("errors", "code", "expected"),
    [
        ("epoch 1/2  loss 0.1\nerror: the loss became NaN\n", 1, "the loss became NaN"),
        ("error: first\nnoise\nerror: data: two faults:\n  a.png\n  b.png\n", 2, "data: two faults:\na.png\nb.png"),
        ("Traceback (most recent call last):\n  File x\nKeyError: 'a'\n", 1, "KeyError: 'a'"),
        ("", 130, "stopped by Ctrl-C"),
        ("some warning\n", 130, "stopped by Ctrl-C"),
        ("some warning\n", 143, "stopped by SIGTERM"),
        ("some warning\n", 129, "stopped by SIGHUP"),
        ("", -signal.SIGKILL, "ended by SIGKILL (probably out of memory)"),
        ("last words\n", -signal.SIGSEGV, "ended by SIGSEGV"),
        ("", 3, "ended with exit code 3"),
        ("\n \n", 3, "ended with exit code 3"),
    ],
)
def test_the_reason_is_the_last_message_of_the_process(errors, code, expected):
    assert processes.reason(errors, code) == expected
