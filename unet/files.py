"""Reading regular files only; writing files atomically: under a temporary name, flushed, then renamed. Lock files."""

import contextlib
import errno
import functools
import json
import logging
import os
import shutil
import stat
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from unet.errors import RunError

log = logging.getLogger("unet")

UNFINISHED = ".unfinished-"
"""Start of the names of files and folders that are being written. A process that is killed leaves them behind."""
ARCHIVE_YEARS = range(1980, 2108)
"""Years that the time stamps in a zip archive, such as a .keras file, can express."""
CACHE = "~/.cache/unet-upsamplers"
"""Where prepared data and compiled programs are kept by default."""


def open_file(path: str | Path) -> BinaryIO:
    """Open a regular file for reading bytes; never waits, as opening a named pipe would.

    Raises:
        OSError: There is no such file, it cannot be read, or it is a directory, pipe, socket or device.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # a null character
        raise OSError(errno.EINVAL, str(error), str(path)) from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_text(path: str | Path, limit: int) -> str:
    """Read a regular file of UTF-8 text, with or without a byte-order mark.

    Raises:
        OSError: It cannot be opened (:func:`open_file`), has more than ``limit`` bytes, or is not UTF-8.
    """
    with open_file(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(f"it is larger than {limit:,} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise OSError(f"it is not UTF-8 (byte {error.start + 1:,}); save it as UTF-8") from None


def files_below(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Files in a folder and its subfolders, in order; links to folders are followed, but not in circles.

    Args:
        folder: The folder. Nothing is yielded for one that may not be read.
        above: Real paths of the folders that led to it.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    with contextlib.suppress(PermissionError):
        for path in sorted(folder.iterdir()):
            if os.path.isdir(path):
                yield from files_below(path, (*above, real))
            else:
                yield path


def expanded(path: str | Path) -> Path:
    """Replace a leading ``~`` by the home directory; a path with the name of an unknown user stays as it is."""
    return Path(os.path.expanduser(path))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same directory to write to; rename it to ``path`` if the block succeeds.

    The temporary name keeps the suffix of ``path``, for writers that choose the format by it. A reader of ``path``
    sees either the old file or the new one, always complete.

    Raises:
        RunError: The file cannot be written, for example because the disk is full; the old one is still there.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _claimed(lambda: _new_file(path)) as temporary:
            try:
                yield temporary
                with open(temporary, "rb+") as file:
                    os.fsync(file.fileno())
                os.chmod(temporary, 0o666 & ~umask())
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder in ``parent``, from which finished files can be moved in one step; delete it at the end.

    Raises:
        RunError: The folder cannot be made.
    """
    with contextlib.ExitStack() as stack:
        with writing(parent):
            parent.mkdir(parents=True, exist_ok=True)
            temporary = stack.enter_context(_claimed(lambda: Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=parent))))
        stack.callback(shutil.rmtree, temporary, ignore_errors=True)
        yield temporary


def remove_unfinished(folder: Path) -> None:
    """Delete what killed processes have left in a folder, but nothing that another process is writing at the moment."""
    for leftover in folder.glob(f"{UNFINISHED}*"):
        with contextlib.suppress(OSError), _open(leftover) as handle:
            if not _lock(handle):
                continue
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an :class:`OSError` in the block into a :class:`~unet.errors.RunError` that names ``path`` and a remedy.

    So is the error of an archive whose time stamp cannot be written, because the system clock is wrong.
    """
    try:
        yield
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror or error}{remedy(error)}") from error
    except (ValueError, struct.error) as error:
        year = time.localtime(time.time()).tm_year
        if year in ARCHIVE_YEARS:
            raise
        raise RunError(
            f"{path}: cannot be written: the system clock says that it is {year}; set it, then run the same command "
            "again"
        ) from error


def remedy(error: OSError) -> str:
    """Advice on a system error, to be appended to its message; empty if there is none."""
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
        return "; free some space, then run the same command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "; change its permissions, or choose another place"
    return ""


@contextlib.contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on the file at ``path``, which is created if it does not exist.

    On a file system without locks, such as some network file systems, the block runs without one, after a warning.

    Args:
        path: The lock file; it stays when the lock is released.
        wait: Whether to wait while another process holds the lock.

    Raises:
        BlockingIOError: Another process holds the lock, and ``wait`` is false.
        RunError: The file cannot be written.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        yield
        return
    with contextlib.ExitStack() as stack:
        with writing(path):
            file = stack.enter_context(open(path, "w"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError as error:
            _warn_without_locks(path.parent.absolute(), error.strerror or str(error))
        yield


@functools.cache  # one warning for each folder
def _warn_without_locks(folder: Path, reason: str) -> None:
    log.warning("%s: files cannot be locked there (%s); let only one process at a time write to it", folder, reason)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content) -> None:
    """Write ``content`` to ``path`` as indented JSON, atomically; NaN, which JSON does not have, becomes null."""
    write_text(path, json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")


def _finite(content):
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and content != content:
        return None
    return content


def umask() -> int:
    """Permission bits that this process denies to new files."""
    current = os.umask(0)
    os.umask(current)
    return current


def _new_file(path: Path) -> Path:
    handle, name = tempfile.mkstemp(prefix=UNFINISHED, suffix=path.suffix, dir=path.parent)
    os.close(handle)
    return Path(name)


@contextlib.contextmanager
def _claimed(create: Callable[[], Path]) -> Iterator[Path]:
    """Create a file or folder and hold a lock on it, which tells other processes that it is still in use."""
    while True:
        path = create()
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(FileNotFoundError):
                _lock(stack.enter_context(_open(path)), wait=True)
            if path.exists():  # otherwise another process took it for a leftover, before it was locked
                stack = stack.pop_all()
                break
    with stack:
        yield path


@contextlib.contextmanager
def _open(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


def _lock(handle: int, wait: bool = False) -> bool:
    """Lock an open file until it is closed; return whether that was possible."""
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:  # another process holds it, or the file system has no locks
        return False
    return True
