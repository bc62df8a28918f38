"""Progress that a person sees: bars on a terminal, nothing where output goes to a file."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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
