"""Completion in bash, which splits the command line at ``=`` too: ``model.upsampler=ca`` is three words.

Typer's script passes these words, and bash replaces the last of them only. So the words of a setting are joined for
typer, and the key is removed from what typer prints.
"""

import contextlib
import io
import os
import sys
from collections.abc import Callable

VARIABLE = "_UNET_COMPLETE"
"""Typer's script for the shell sets this environment variable."""


def is_requested() -> bool:
    """Whether this process has been started by bash to complete a command line."""
    return os.environ.get(VARIABLE) == "complete_bash" and "COMP_WORDS" in os.environ


def complete(command: Callable[[], int]) -> int:
    """Run a command that prints completions, one on each line; return its exit code."""
    words, current = os.environ["COMP_WORDS"].split("\n"), int(os.environ["COMP_CWORD"])
    joined: list[str] = []
    position = len(words)
    replaced = ""
    for index, word in enumerate(words):
        if index > 1 and (word.startswith("=") or joined[-1].endswith("=")):
            joined[-1] += word
        else:
            joined.append(word)
        if index == current:
            position = len(joined) - 1
            replaced = joined[-1] if word == "=" else joined[-1].removesuffix(word)
    os.environ.update(COMP_WORDS="\n".join(joined), COMP_CWORD=str(position))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = command()
    sys.stdout.write("".join(line.removeprefix(replaced) for line in printed.getvalue().splitlines(keepends=True)))
    return code
