"""A progress bar with the remaining time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[..., None]]:
    """Show a progress bar; yields a function that advances it by one, or to the given count."""
    bar = Progress(TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    task = bar.add_task(what, total=total)

    def advance(done: int | None = None) -> None:
        if done is None:
            bar.advance(task)
        else:
            bar.update(task, completed=done)

    with bar:
        yield advance
