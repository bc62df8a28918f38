"""The process of a command: signals, closed streams, pipes that nobody reads, disks that are full."""

import logging
import os
import signal
import subprocess
import sys

import pytest

from tests.helpers import ROOT
from unet import console

pytestmark = [pytest.mark.backend_free, pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and pipes")]


def shell(command: str, *arguments: str) -> subprocess.CompletedProcess:
    """Run a command of bash in which $UNET is ``python -m unet``; it fails if any part of a pipe fails."""
    environment = os.environ | {"UNET": f"{sys.executable} -m unet", "PYTHONPATH": str(ROOT)}
    program = ["bash", "-o", "pipefail", "-c", command, "bash", *arguments]
    return subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_signal_ends_any_command_after_it_has_tidied_up(tmp_path, number, code):
    program = (
        "import os, signal, sys; from pathlib import Path; from unet import console; from unet.files import replacing\n"
        "def command():\n"
        "    with replacing(Path(sys.argv[1])) as temporary:\n"
        "        temporary.write_text('half')\n"
        "        os.kill(os.getpid(), int(sys.argv[2]))\n"
        "        signal.pause()\n"
        "console.run(command)"
    )
    done = shell(f'{sys.executable} -c "$@"', program, str(tmp_path / "a.txt"), str(int(number)))
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_the_handlers_of_the_caller_are_restored(number):
    before, within = signal.getsignal(number), []
    assert console.exit_code(lambda: within.append(signal.getsignal(number))) == 0
    assert signal.getsignal(number) == before
    assert (within != [before]) == (number != signal.SIGINT)


def test_output_that_nobody_reads_any_more_is_no_message():
    done = shell("$UNET --help | head -1 | grep -c .; $UNET --help | (exec <&-; sleep 0.1)")
    assert done.returncode == 1
    assert (done.stdout, done.stderr) == ("1\n", "")


@pytest.mark.parametrize("option", ["--help", "--version"])  # written by typer at once, and at the end
def test_output_that_does_not_fit_on_the_disk_is_one_message(option):
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    done = shell(f"$UNET {option} > /dev/full")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.endswith("No space left on device; free some space, then run the same command again\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_command_runs_with_closed_streams(closed, tmp_path):
    done = shell(f"$UNET --help {closed}")
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert ("Usage" in done.stdout) == (">&-" not in closed.replace("2>&-", ""))


def test_libraries_do_not_print_into_files_where_standard_error_is_closed(tmp_path):
    program = (
        "import os, sys; from unet import console\n"
        "def command():\n"
        "    with open(sys.argv[1], 'w') as file:\n"
        "        os.write(2, b'a library prints')\n"
        "        file.write('content')\n"
        "console.run(command)"
    )
    done = shell(f'{sys.executable} -c "$1" $2 2>&-', program, str(tmp_path / "file"))
    assert done.returncode == 0
    assert (tmp_path / "file").read_text() == "content"


@pytest.mark.parametrize("broken", [BrokenPipeError, OSError])
def test_a_closed_terminal_ends_neither_messages_nor_work(monkeypatch, broken):
    class Closed:
        def write(self, text):
            raise broken(5, "Input/output error")

        def flush(self):
            raise broken(5, "Input/output error")

        def isatty(self):
            return True

    done = []
    monkeypatch.setattr(sys, "stderr", Closed())

    def command():
        logging.getLogger("unet").warning("a message")
        done.extend(console.track(range(3), 3, "working"))

    assert console.exit_code(command) == 0
    assert done == [0, 1, 2]
