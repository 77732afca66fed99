"""A progress bar with the remaining time."""

from __future__ import annotations

from collections.abc import Callable

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class progress:
    """Inside, calls of what it yields advance the bar by one, or to a count."""

    def __init__(self, what: str, total: int) -> None:
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns)
        self._task = self._bar.add_task(what, total=total)

    def __enter__(self) -> Callable[..., None]:
        self._bar.start()
        return self._advance

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def _advance(self, done: int | None = None) -> None:
        if done is None:
            self._bar.advance(self._task)
        else:
            self._bar.update(self._task, completed=done)
