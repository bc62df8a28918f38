"""Ctrl-C, SIGTERM and SIGHUP: stop after the current step, or at once. The only module that touches signals."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

HANG_UP = tuple(signal.Signals[name] for name in ("SIGHUP",) if name in signal.Signals.__members__)
"""Sent when a terminal is closed; Windows has no such signal."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, *HANG_UP)
"""Ctrl-C, the warning of a scheduler that is about to take the machine, and a closed terminal."""


@contextlib.contextmanager
def stop_gracefully(request_stop: Callable[[int], None]) -> Iterator[None]:
    """Call ``request_stop(signal_number)`` on the first stop signal; end the process at once on the second.

    A terminal that is closed often sends SIGHUP twice, so a second SIGHUP is ignored.

    For work that can only be interrupted between two steps: an exception raised in the middle of one would leave
    Keras' variables without values on JAX. Ending at once loses no file, as files are replaced in one step. The
    caller's handlers are restored afterwards. A signal for which the caller has installed a handler is left alone;
    outside the main thread nothing changes.

    Args:
        request_stop: Called from the signal handler, so it should only set a flag and log. :func:`stopped_by` gives
            the exception to raise when the work has stopped.
    """

    def first(number, frame):
        for listened in handled:
            signal.signal(listened, signal.SIG_IGN if listened in HANG_UP else second)
        request_stop(number)

    def second(number, frame):
        if sys.stderr.isatty():
            os.write(sys.stderr.fileno(), b"\x1b[?25h")  # show the cursor that a progress bar has hidden
        os._exit(exit_code(number))

    with _handlers(first, STOP_SIGNALS) as handled:
        yield


@contextlib.contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise ``SystemExit`` in the main thread, so that ``finally`` blocks run.

    The caller's handler is restored afterwards; where the caller has installed one of their own, or outside the main
    thread, nothing changes.
    """

    def terminate(number, frame):
        if number in HANG_UP:
            signal.signal(number, signal.SIG_IGN)
        raise stopped_by(number)

    with _handlers(terminate, (signal.SIGTERM, *HANG_UP)):
        yield


def ignored() -> contextlib.AbstractContextManager:
    """Ignore stop signals, in a process that another one stops."""
    return _handlers(signal.SIG_IGN, STOP_SIGNALS)


@contextlib.contextmanager
def handlers_restored() -> Iterator[None]:
    """Undo what a library changes about the handlers of stop signals: ``ray.init``, for example, replaces one."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS if _in_main_thread()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stopped_by(number: int) -> BaseException:
    """Exception for a process stopped by a signal: KeyboardInterrupt for SIGINT, else SystemExit with its exit code."""
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(exit_code(number))


def exit_code(number: int) -> int:
    """Exit code of a process that a signal has ended, as shells report it: 130 for SIGINT, 143 for SIGTERM, …"""
    return 128 + number


STOP_EXIT_CODES = tuple(exit_code(number) for number in STOP_SIGNALS)
"""Exit codes of a process that a stop signal has ended."""


def name(number: int) -> str:
    """Name of a stop signal for messages: ``Ctrl-C``, ``SIGTERM`` or ``SIGHUP``."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def end_silently_on_ctrl_c() -> None:
    """Let Ctrl-C end the process without a traceback, while the interpreter is shutting down."""
    if _in_main_thread():
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def listen_to_parent(parent: int) -> None:
    """Make a child process stoppable by SIGINT, and on Linux send it SIGINT when its parent dies, or has died.

    Ray's workers start processes with SIGINT blocked, and ``nohup`` starts them with SIGINT ignored.

    Args:
        parent: Process number of the parent.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    set_parent_death_signal = 1
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other systems have no prctl
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGINT)
        if os.getppid() != parent:
            signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def _handlers(
    handler: Callable | signal.Handlers, numbers: tuple[signal.Signals, ...]
) -> Iterator[list[signal.Signals]]:
    """Install the handler for the signals that the caller does not handle; yield these signals."""
    before = {number: signal.getsignal(number) for number in numbers if _in_main_thread()}
    handled = [number for number, current in before.items() if _is_default(current)]
    try:
        for number in handled:
            signal.signal(number, handler)
        yield handled
    finally:
        for number in handled:
            signal.signal(number, before[number])


def _is_default(handler) -> bool:
    """Whether a handler is Python's own, or this module's in an enclosing block."""
    defaults = (signal.SIG_DFL, signal.default_int_handler)
    return handler in defaults or getattr(handler, "__module__", None) == __name__


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
