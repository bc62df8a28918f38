"""Processes of this machine."""

import subprocess


def command_lines(text: str) -> list[str]:
    """Command lines of the running processes that contain a text."""
    listed = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if text in line]
