"""Cells in processes of their own."""

import signal
import subprocess
import tempfile
from pathlib import Path

from unet.processes import command, reason

POLL_SECONDS = 0.2


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
            command("unet.ablation.run.cell", str(run)),
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
