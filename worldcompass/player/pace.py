"""When pictures are shown, and when a step must begin to be ready in time: arithmetic on a clock, without waiting.

A key waits until the next step begins, so a step begins as late as its cost allows. Late steps are then no rarity,
and what keeps the picture smooth is the pace: a little lateness is caught up within the next pictures.
"""

from __future__ import annotations

from collections import deque

MAX_LATE = 1.0  # frames of lateness that are caught up; more of it and everything after is shown later too
CATCH_UP = 0.75  # frames: how close two pictures may follow each other while lateness is caught up
KEPT_COSTS = 24  # steps, four seconds of walking, that tell what the next one will cost
READY_IN_TIME = 0.8  # share of them that would have been ready in time; the others were a little late
WAKING = 0.002  # seconds that waking up and reading the keys may take


class Pace:
    """Pictures on an even grid in time, ``fps`` a second; times as of ``time.monotonic``."""

    def __init__(self, fps: float) -> None:
        self.frame = 1 / fps
        self.due = 0.0
        """When the next picture that is not known yet should be shown."""

    def place(self, now: float, count: int) -> list[float]:
        """When so many more pictures should be shown, the first of which can be shown from now on.

        A time may have passed by at most ``MAX_LATE``; later steps begin a new grid.
        """
        if now - self.due > MAX_LATE * self.frame:
            self.due = now
        times = [self.due + index * self.frame for index in range(count)]
        self.due += count * self.frame
        return times

    def after(self, last: float, wanted: float) -> float:
        """When a picture is shown that is wanted at some time, another having been shown last."""
        return max(wanted, last + CATCH_UP * self.frame)


class Costs:
    """What the last steps took from reading the keys to finished pictures, and so what the next one may take."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=KEPT_COSTS)

    def add(self, seconds: float) -> None:
        """One more step."""
        self._seconds.append(seconds)

    @property
    def ahead(self) -> float:
        """Seconds before its pictures are due at which a step is begun."""
        known = sorted(self._seconds)
        return known[min(int(READY_IN_TIME * len(known)), len(known) - 1)] + WAKING if known else WAKING
