"""The live table of a run in the terminal, and its lines in a log."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from worldcompass.media.progress import clock
from worldcompass.runs.metrics import StepMetrics

SHOWN_STEPS = 8
LINE_SECONDS = 10.0  # between two lines of a log, so that quick steps do not fill it


class LiveTable:
    """The last steps of a run, the remaining time and the doctor's warnings.

    Without a terminal the table is not shown. Steps become lines, at most one in ``LINE_SECONDS``, as does each new
    warning.
    """

    def __init__(
        self, num_steps: int, first_step: int = 0, live: bool = True, console: Console | None = None
    ) -> None:
        self.num_steps, self.first_step = num_steps, first_step
        self.console = console or Console()
        self.live_output, self.active = live, live and self.console.is_terminal
        self.started = time.monotonic()
        self.history: list[StepMetrics] = []
        self.warnings: Mapping[str, str] = {}
        self.answer = ""
        self._line_at = -math.inf
        self.live = Live(console=self.console, auto_refresh=False, transient=False)

    def __enter__(self) -> LiveTable:
        if self.active:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.active:
            self.live.stop()

    def show(self, metrics: StepMetrics, warnings: Mapping[str, str] | None = None, answer: str = "") -> None:
        """Add the metrics of a step and replace the warnings, which are sentences by a short name.

        Args:
            answer: to the question whether the run is learning, for the line below the table.
        """
        known, self.warnings, self.answer = self.warnings, warnings or {}, answer
        self.history = [*self.history, metrics][-SHOWN_STEPS:]
        if self.active:
            self.live.update(self.table(), refresh=True)
        elif self.live_output:
            now = time.monotonic()
            if now - self._line_at >= LINE_SECONDS or metrics.step == self.num_steps:
                self._line_at = now
                self.console.print(self.line(), markup=False, highlight=False, soft_wrap=True)
            for name in self.warnings.keys() - known.keys():
                self.console.print(f"step {metrics.step}, {name}: {self.warnings[name]}", markup=False)

    def seconds_left(self) -> float:
        """Estimated time for the remaining steps at the mean pace so far."""
        step = self.history[-1].step
        pace = (time.monotonic() - self.started) / max(step - self.first_step, 1)
        return pace * (self.num_steps - step)

    def line(self) -> str:
        """The last step in one line of a log."""
        row = self.history[-1]
        rewards = "".join(f"{name} {_mean_text(reward.mean)}, " for name, reward in row.rewards.items())
        return (
            f"step {row.step} of {self.num_steps}: {rewards}loss {_digits(row.loss, 4)}, "
            f"{sum(row.seconds.values()):.1f} s; {clock(self.seconds_left())} left"
        )

    def table(self) -> Table:
        """The table with its caption."""
        left = self.seconds_left()
        table = Table(title=f"step {self.history[-1].step} of {self.num_steps}, {clock(left)} left")
        rewards = list(self.history[-1].rewards)
        for name in ("step", "chunk", *rewards, "loss", "grad norm", "seconds"):
            table.add_column(name, justify="right")
        for row in self.history:
            means = [_mean_text(row.rewards[name].mean) for name in rewards]
            rest = _digits(row.loss, 4), _digits(row.grad_norm, 3), f"{sum(row.seconds.values()):.1f}"
            table.add_row(str(row.step), row.place, *means, *rest)
        lines = [
            f"[yellow][bold]{escape(name)}[/bold]: {escape(t)}[/yellow]" for name, t in self.warnings.items()
        ]
        if self.answer:
            lines = [f"Learning? {escape(self.answer)}", *lines]
        table.caption, table.caption_style, table.caption_justify = "\n".join(lines) or None, "", "left"
        return table


def _mean_text(mean: float | None) -> str:
    return "abstained" if mean is None else f"{mean:.3f}"


def _digits(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


class Stopwatch:
    """Measures the seconds of each stage of a step."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """End a stage and start the next."""
        now = time.perf_counter()
        self.laps[stage], self._last = round(now - self._last, 4), now
