"""What a first and a second stop signal do, independently of how long a step takes."""

import os
import signal
import subprocess
import sys

import pytest

from tests.helpers import ROOT

pytestmark = [
    pytest.mark.backend_free,
    pytest.mark.skipif(os.name == "nt", reason="Windows cannot send these signals to another process"),
]

LONG_STEP = """
import time
from unet import interrupts

def request_stop(number):
    print("requested", interrupts.name(number), flush=True)

with interrupts.stop_gracefully(request_stop):
    print("ready", flush=True)
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        time.sleep(0.01)
"""


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        (signal.SIGINT, signal.SIGINT, 130),
        (signal.SIGINT, signal.SIGTERM, 143),
        (signal.SIGTERM, signal.SIGINT, 130),
    ],
)
def test_the_second_signal_ends_the_process_at_once_with_its_own_code(first, second, code):
    with subprocess.Popen([sys.executable, "-c", LONG_STEP], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(first)
        assert process.stdout.readline().startswith("requested")
        process.send_signal(second)
        assert process.wait(timeout=20) == code


def test_a_second_sighup_is_ignored_as_terminals_send_two():
    with subprocess.Popen([sys.executable, "-c", LONG_STEP], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGHUP)
        assert process.stdout.readline() == "requested SIGHUP\n"
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        process.kill()
