"""Processes of this machine."""

import subprocess
from typing import NamedTuple


class Process(NamedTuple):
    """A running process."""

    number: int
    parent: int
    command: str
    """Program and arguments."""


def running(text: str = "") -> list[Process]:
    """The running processes whose command lines contain a text."""
    command = ["ps", "-ww", "-eo", "pid,ppid,args"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = (line.split(maxsplit=2) for line in listed.splitlines()[1:])
    return [Process(int(number), int(parent), command) for number, parent, command in rows if text in command]


def command_lines(text: str) -> list[str]:
    """Command lines of the running processes that contain a text."""
    return [process.command for process in running(text)]
