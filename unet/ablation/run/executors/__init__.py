"""Where cells run. Both executors start one process for each cell."""

from concurrent.futures import Future
from pathlib import Path
from typing import Protocol


class Executor(Protocol):
    """Runs cells in the background."""

    def submit(self, run: Path) -> Future:
        """Queue a run directory; the result of the future is why the run failed, or ``None``.

        The future raises RunError if no cell can run any more.
        """

    def stop(self) -> None:
        """Start no more cells and ask those that run to stop after their step; a second call kills them."""

    def close(self) -> None:
        """End everything that was started."""
