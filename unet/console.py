"""What a person sees on the terminal: progress bars, log messages, and errors as one message with an exit code.

Names of classes and files may come from strangers. Only this module decides how they reach a terminal or a log:
:func:`escaped`, with control characters written out.
"""

import contextlib
import logging
import os
import sys
import traceback
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from unet import interrupts
from unet.errors import InputError, RunError
from unet.files import remedy

T = TypeVar("T")


class _Console(Console):
    """A console whose terminal may be closed, or whose pipe nobody may read: messages are lost, but work continues."""

    @property  # type: ignore[misc]
    def file(self):
        return _Lossy(super().file)


class _Lossy:
    """A stream whose writes never raise."""

    def __init__(self, stream):
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


console = _Console(stderr=True)
"""Where progress and messages go; results go to standard output."""


_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories of characters that control a terminal, reorder the text around them, or end a line."""
_JOINERS = "\u200c\u200d"
"""Characters of category Cf that ordinary words contain in several scripts, and emoji."""


def escaped(text: object, keep: str = "") -> str:
    """Return text with control characters written out, as in ``\\x1b[31m``, so that it cannot act on a terminal.

    Args:
        text: Anything; a path or a class name, for example.
        keep: Characters to leave as they are, such as line breaks.
    """
    return "".join(
        character.encode("unicode_escape", "surrogatepass").decode()
        if unicodedata.category(character) in _HIDDEN and character not in keep + _JOINERS
        else character
        for character in str(text)
    )


def say(line: object) -> None:
    """Print one line to standard output, escaped."""
    print(escaped(line))


class EscapedFormatter(logging.Formatter):
    """Formats log records with escaped arguments: only the message's own template can contain line breaks."""

    def format(self, record):
        copy = logging.makeLogRecord(record.__dict__)
        if isinstance(record.args, tuple):
            copy.args = tuple(value if isinstance(value, int | float) else escaped(value) for value in record.args)
        copy.msg = escaped(record.msg, keep="\n\t")
        return super().format(copy)


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
    console.file.flush()
    saved = os.dup(2)
    with open(os.devnull, "wb") as sink:
        os.dup2(sink.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def run(command: Callable[[], object]) -> None:
    """Run the command that this process is for, and exit with its exit code.

    After Ctrl-C, SIGTERM or SIGHUP the process ends without the interpreter's clean-up, which takes a second or two
    where a backend is loaded.
    """
    _open_standard_streams()
    try:
        code = exit_code(command)
        failed = exit_code(_flush_standard_streams)
        code = code or failed
        if code in interrupts.STOP_EXIT_CODES:
            os._exit(code)
        sys.exit(code)
    finally:
        interrupts.end_silently_on_ctrl_c()


def _open_standard_streams() -> None:
    """Open closed standard streams; otherwise the next file opened would receive what libraries print there."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)  # the lowest one free, which is that of the stream
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def _flush_standard_streams() -> None:
    """Flush the output now, so that a failure can still change the exit code.

    Raises:
        RunError: The output cannot be written.
        SystemExit: Nobody reads it any more, as in ``unet summary pets | head -1``.
    """
    for stream, name in ((sys.stdout, "standard output"), (sys.stderr, "standard error")):
        try:
            stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if isinstance(error, BrokenPipeError):
                raise SystemExit(1) from None
            raise RunError(f"{name}: {error.strerror}{remedy(error)}") from None


def exit_code(command: Callable[[], object], debug: bool = False) -> int:
    """Run a command and report an error as one message on standard error.

    Args:
        command: The function to call. It may end in ``SystemExit``, as command-line parsers do.
        debug: Print the traceback of an error, too; UNET_DEBUG=1 does the same.

    Returns:
        0 for success, 1 for a failed run, 2 for input that cannot be used, 130 after Ctrl-C, 143 after SIGTERM,
        129 after SIGHUP.
    """
    debug = debug or bool(os.environ.get("UNET_DEBUG"))
    with _logging():
        try:
            with interrupts.sigterm_as_exit():
                command()
        except InputError as error:
            return _report(error, error.for_command_line(), 2, debug)
        except RunError as error:
            return _report(error, str(error), 1, debug)
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            return _report(error, f"{place}{error.strerror or error}{remedy(error)}", 1, debug)
        except KeyboardInterrupt:
            return 130
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


@contextlib.contextmanager
def _logging() -> Iterator[None]:
    """Print the messages of the logger ``unet`` on the terminal."""
    logger = logging.getLogger("unet")
    before = logger.handlers, logger.level, logger.propagate
    logger.handlers, logger.propagate = [_ConsoleHandler()], False
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before[0], before[2]
        logger.setLevel(before[1])


class _ConsoleHandler(logging.Handler):
    """Prints messages above the progress bar, in whole lines."""

    def __init__(self):
        super().__init__()
        self.setFormatter(EscapedFormatter())

    def emit(self, record):
        console.print(self.format(record), soft_wrap=True, markup=False, highlight=False, emoji=False)


def _report(error: Exception, message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    report(message)
    return code


def report(message: str) -> None:
    """Print an error to standard error, as one message."""
    lines = escaped(message, keep="\n\t").split("\n")
    with contextlib.suppress(OSError):  # nobody reads standard error any more
        # Indented, so that a name with a line break cannot pass for another message.
        print("error: " + "\n".join([lines[0], *(f"  {line}" for line in lines[1:])]), file=sys.stderr, flush=True)
