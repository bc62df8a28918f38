"""What a person sees on the terminal: progress bars, log messages, and errors as one message with an exit code."""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from unet import interrupts
from unet.errors import InputError, RunError

T = TypeVar("T")

console = Console(stderr=True)
"""Where progress and messages go; results go to standard output."""


def bar(*columns, **options) -> Progress:
    """A progress bar in the house style; ``columns`` come after the standard ones."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        *columns,
        console=console,
        **options,
    )


def track(items: Iterable[T], total: int | None, description: str) -> Iterator[T]:
    """Iterate with a bar that disappears at the end; without one where the output is not a terminal."""
    if not console.is_terminal:
        yield from items
        return
    with bar(transient=True) as progress:
        yield from progress.track(items, total=total, description=description)


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Discard what libraries print to file descriptor 2 while they load; exceptions still carry their message."""
    sys.stderr.flush()
    saved = os.dup(2)
    with open(os.devnull, "wb") as sink:
        os.dup2(sink.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def run(command: Callable[[], object]) -> None:
    """Run a command line, and turn its errors into one message and an exit code.

    Exit codes: 0 done, 1 the run failed, 2 the input cannot be used, 130 stopped by Ctrl-C, 143 stopped by SIGTERM.
    With ``--debug`` (or UNET_DEBUG=1) anywhere on the command line the traceback is printed as well.
    """
    debug = "--debug" in sys.argv or bool(os.environ.get("UNET_DEBUG"))
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    _set_up_logging()
    try:
        command()
    except InputError as error:
        _fail(error, 2, debug)
    except (RunError, OSError) as error:
        _fail(error, 1, debug)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:  # also when typer has turned Ctrl-C into an exit: a second one ends the process silently
        interrupts.end_silently_on_ctrl_c()


def _set_up_logging() -> None:
    logger = logging.getLogger("unet")
    logger.handlers = [_ConsoleHandler()]
    logger.setLevel(logging.INFO)
    logger.propagate = False


class _ConsoleHandler(logging.Handler):
    """Prints messages above the progress bar, in whole lines."""

    def emit(self, record):
        console.print(record.getMessage(), soft_wrap=True, markup=False, highlight=False)


def _fail(error: Exception, code: int, debug: bool) -> None:
    if debug:
        raise error
    message = error.for_command_line() if isinstance(error, InputError) else error
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
