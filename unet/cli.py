"""What the scripts share: choosing a backend, quiet start-up, and errors told in one message."""

import contextlib
import importlib.util
import logging
import os
import signal
import sys
from collections.abc import Iterator

import typer

from unet.errors import InputError, RunError

BACKENDS = {"tensorflow": "cpu", "jax": "jax", "torch": "torch"}
"""Backends in the order of preference, with the extra that installs each."""


def run(command) -> None:
    """Run a script's command line.

    Exit codes: 0 done, 1 the run failed, 2 the input cannot be used, 130 stopped by Ctrl-C. Errors are one message;
    with ``--debug`` (or UNET_DEBUG=1) anywhere on the command line the traceback comes too.

    Args:
        command: A function for typer; its docstring is the help.
    """
    debug = "--debug" in sys.argv or bool(os.environ.get("UNET_DEBUG"))
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(context_settings={"help_option_names": ["-h", "--help"]})(command)
    _set_up_logging()
    try:
        app()
    except InputError as error:
        _fail(error, 2, debug)
    except RunError as error:
        _fail(error, 1, debug)
    except OSError as error:
        _fail(error, 1, debug)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:  # also when typer has made an exit of Ctrl-C: another one ends the process without a word
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def use_backend() -> str:
    """Import Keras on the backend of KERAS_BACKEND, else on the first one installed; return its name.

    Raises:
        InputError: The backend is unknown or not installed; the message says how to install it.
    """
    wanted = os.environ.get("KERAS_BACKEND")
    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    if wanted and wanted not in BACKENDS:
        raise InputError(f"KERAS_BACKEND: {wanted!r} is not one of {', '.join(BACKENDS)}")
    if wanted and wanted not in installed:
        raise InputError(
            f"KERAS_BACKEND: {wanted} is not installed: pip install '.[{BACKENDS[wanted]}]' "
            f"(installed here: {', '.join(installed) or 'none'})"
        )
    if not installed:
        raise InputError("no backend is installed: pip install '.[cpu]' (or '.[cuda]', '.[jax]', '.[torch]')")
    os.environ["KERAS_BACKEND"] = wanted or installed[0]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with quiet_stderr():
        import keras
    return keras.backend.backend()


def use_backend_without_devices() -> dict[str, str]:
    """Import Keras on the CPU, in a command whose processes do the work; return the environment for them.

    Raises:
        InputError: As in :func:`use_backend`.
    """
    environment = dict(os.environ)
    os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    return environment | {"KERAS_BACKEND": use_backend()}


def _set_up_logging() -> None:
    logger = logging.getLogger("unet")
    logger.handlers = [_ConsoleHandler()]
    logger.setLevel(logging.INFO)
    logger.propagate = False


class _ConsoleHandler(logging.Handler):
    """Prints messages above the progress bar, in whole lines."""

    def emit(self, record):
        from unet.progress import console

        console.print(record.getMessage(), soft_wrap=True, markup=False, highlight=False)


def _fail(error: Exception, code: int, debug: bool) -> None:
    if debug:
        raise error
    print(f"error: {error}", file=sys.stderr)
    sys.exit(code)


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Drop what libraries print to file descriptor 2 while they load; an exception still carries its message."""
    sys.stderr.flush()
    saved = os.dup(2)
    with open(os.devnull, "wb") as sink:
        os.dup2(sink.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
