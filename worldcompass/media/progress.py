"""Progress with the remaining time: a bar in a terminal, and now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 30.0  # between two lines of a log


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[..., None]]:
    """Show progress; yields a function that advances it by one, or to the given count.

    A count in its first call is what was finished before, which says nothing about the time that is left.

    Where the output is no terminal, lines go to the standard error, so that they never mix with results.
    """
    if not Console().is_terminal:
        yield _lines(what, total)
        return
    bar = Progress(TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    task = bar.add_task(what, total=total)

    def advance(done: int | None = None) -> None:
        if done is None:
            bar.advance(task)
        else:
            bar.update(task, completed=done)

    with bar:
        yield advance


def _lines(what: str, total: int) -> Callable[..., None]:
    """Prints a line for a long piece of work: every ``LINE_SECONDS``, and at the end of one that took longer."""
    begun = said = time.monotonic()
    count, first = 0, -1

    def advance(done: int | None = None) -> None:
        nonlocal count, said, first
        before, now, count = count, time.monotonic(), count + 1 if done is None else done
        if first < 0:
            first = done or 0  # what was finished before
        if now - said >= LINE_SECONDS or (before < count == total and said > begun):
            left = (now - begun) / max(count - first, 1) * (total - count)
            print(f"{what}: {count} of {total}, {clock(left)} left", file=sys.stderr, flush=True)
            said = now

    return advance


def clock(seconds: float) -> str:
    """A duration in words: ``45 s``, ``3 min 20 s``, ``2 h 05 min``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_rest = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_rest:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
