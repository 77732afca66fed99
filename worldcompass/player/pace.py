"""Timing of pictures and steps: when to show a picture, and when to start a step to be on time.

A key takes effect when the next step starts, so steps start as late as their cost allows. Some steps are then late.
The pace keeps the picture smooth: the next pictures catch up a small delay.
"""

from __future__ import annotations

from collections import deque

MAX_LATE = 1.0  # frames of delay to catch up; a longer delay shifts all later pictures
CATCH_UP = 0.75  # frames between two pictures while catching up
KEPT_COSTS = 24  # recent steps, about four seconds, that predict the next cost
READY_IN_TIME = 0.8  # share of recent steps that the prediction covers
WAKING = 0.002  # seconds to wake up and read the keys


class Pace:
    """Pictures on an even time grid, ``fps`` per second; times as of ``time.monotonic``."""

    def __init__(self, fps: float) -> None:
        self.frame = 1 / fps
        self.due = 0.0
        """Display time of the next picture without one."""

    def place(self, now: float, count: int) -> list[float]:
        """Display times of ``count`` more pictures, which are ready at ``now``.

        Times lie at most ``MAX_LATE`` frames in the past; after a longer delay a new grid starts.
        """
        if now - self.due > MAX_LATE * self.frame:
            self.due = now
        times = [self.due + index * self.frame for index in range(count)]
        self.due += count * self.frame
        return times

    def after(self, last: float, wanted: float) -> float:
        """Display time of a picture that is wanted at one time, after another picture at ``last``."""
        return max(wanted, last + CATCH_UP * self.frame)


class Costs:
    """Durations of recent steps from reading the keys to finished pictures, to predict the next one."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=KEPT_COSTS)

    def add(self, seconds: float) -> None:
        """Add the duration of a step."""
        self._seconds.append(seconds)

    @property
    def ahead(self) -> float:
        """Seconds by which a step starts before its pictures are due."""
        known = sorted(self._seconds)
        return known[min(int(READY_IN_TIME * len(known)), len(known) - 1)] + WAKING if known else WAKING
