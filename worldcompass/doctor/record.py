"""The doctor's input, a run's metrics and events, and its output, findings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

from worldcompass.doctor.trends import Trend, trend, within
from worldcompass.runs.events import Event, Refused, RolledBack
from worldcompass.runs.metrics import Pictures, RewardMetrics, StepMetrics
from worldcompass.statistics import Estimate

BASELINE = 5  # first steps as the reference for later ones; more for longer curricula
PERSISTENT = 5  # consecutive steps that make a finding
ALARM = 0.999  # level of intervals that raise an alarm; high, as they are tested after every step
FOLLOWED = "actions followed"  # prefix of an evaluation's measures of obedience in a record
USUAL_STEPS = 100  # the paper's length of a run, for runs without a configuration

Severity = Literal["warning", "stuck", "harmful"]
"""``warning``: costs time or clarity. ``stuck``: the model learns nothing. ``harmful``: the weights get worse."""


@dataclass(frozen=True)
class Finding:
    """One disease."""

    name: str
    severity: Severity
    since: int
    """First affected step, as far as the metrics show."""
    cause: str
    """The problem, in a sentence."""
    evidence: str
    """The measured numbers with their limit."""
    advice: str

    def lines(self) -> list[str]:
        """The finding for a terminal."""
        return [
            f"{self.name.upper()} ({self.severity}, since step {self.since})",
            f"  {self.cause}",
            f"  evidence: {self.evidence}",
            f"  advice: {self.advice}",
            "",
        ]


@dataclass(frozen=True)
class Point:
    """One measured number of one step."""

    step: int
    chunk: str
    """With its way of walking, see ``StepMetrics.place``."""
    value: float


@dataclass(frozen=True)
class Record:
    """A run so far."""

    rows: Sequence[StepMetrics]
    events: Sequence[Event] = ()
    """Refused updates, stops, rollbacks and changed settings."""
    planned: int = USUAL_STEPS
    """Planned length of the run in steps."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Weights of rewards by name; 1 for the others."""
    evaluation: Mapping[str, Estimate] = field(default_factory=dict)
    """Change from base to trained model by the held-out judge, 95% intervals; empty without an evaluation."""
    probed: bool = False
    """Whether videos are probed during the run; what then lacks is a judge, not the setting."""

    @property
    def refused(self) -> list[Refused]:
        """Refused updates after the last step, except those that a rollback or a resume has passed."""
        last = self.rows[-1].step if self.rows else 0
        backs = [i for i, event in enumerate(self.events) if isinstance(event, RolledBack)]
        fresh = self.events[backs[-1] + 1 :] if backs else self.events
        return [event for event in fresh if isinstance(event, Refused) and event.step > last]

    @property
    def num_chunks(self) -> int:
        """Number of visited chunks of the curriculum."""
        return len({row.place for row in self.rows})

    @property
    def window(self) -> int:
        """Steps of an average: at least ``PERSISTENT``, and a multiple of the visited chunks."""
        return math.ceil(PERSISTENT / max(self.num_chunks, 1)) * max(self.num_chunks, 1)

    @property
    def rewards(self) -> list[str]:
        """Names of the critics."""
        return list(self.rows[-1].rewards) if self.rows else []

    @property
    def trained(self) -> list[str]:
        """Names of the critics whose rewards train the model; the others are only monitored."""
        return [name for name in self.rewards if self.weights.get(name, 1.0) > 0]

    @property
    def comparable(self) -> list[str]:
        """The training critics whose scores can be compared over time.

        One that learns with the model scores against what it has learned so far, so its mean falls as it learns.
        """
        learn = {name for row in self.rows for name in row.learners or {}}
        return [name for name in self.trained if name not in learn]

    def series(self, of: Callable[[StepMetrics], float | None]) -> list[Point]:
        """The finite values of a measurement, such as ``lambda step: step.clipped``."""
        found = [(row, of(row)) for row in self.rows]
        return [
            Point(row.step, row.place, float(value))
            for row, value in found
            if value is not None and math.isfinite(value)
        ]

    def reward(self, name: str, of: Callable[[RewardMetrics], float | None]) -> list[Point]:
        """The finite values of a measurement of one critic."""
        return self.series(lambda row: of(row.rewards[name]) if name in row.rewards else None)

    def pictures(self, of: Callable[[Pictures], float | None]) -> list[Point]:
        """The finite values of a measurement of the pictures."""
        return self.series(lambda row: None if row.pictures is None else of(row.pictures))

    def trend(self, reward: str, level: float) -> Trend | None:
        """The trend of a reward's mean, compared chunk by chunk."""
        points = self.reward(reward, lambda r: r.mean)
        return trend([p.step for p in points], [p.chunk for p in points], [p.value for p in points], level)

    def moved(self, of: Callable[[StepMetrics], float | None]) -> list[Point]:
        """The root of a mean square over that of the prediction error: a change in sizes of the error."""
        errors = self.series(lambda row: row.objective.get("error"))
        tops, bottoms = self.series(of), {point.step: point.value for point in errors}
        return [
            Point(p.step, p.chunk, math.sqrt(max(p.value, 0.0) / bottoms[p.step]))
            for p in tops
            if bottoms.get(p.step, 0.0) > 0
        ]

    def since_baseline(self, series: Sequence[Point], change: Callable[[float, float], float]) -> list[Point]:
        """``change(value, baseline)`` of every later point; the baseline is the first points' mean on its chunk."""
        size = max(BASELINE, self.num_chunks)
        baseline: dict[str, list[float]] = {}
        for point in series[:size]:
            baseline.setdefault(point.chunk, []).append(point.value)
        return [
            Point(p.step, p.chunk, change(p.value, fmean(baseline[p.chunk])))
            for p in series[size:]
            if p.chunk in baseline
        ]


def streak(series: Sequence[Point], ill: Callable[[float], bool]) -> list[Point]:
    """The consecutive ill points at the end."""
    length = 0
    while length < len(series) and ill(series[-1 - length].value):
        length += 1
    return list(series[len(series) - length :])


def lasting(series: Sequence[Point], size: int, ill: Callable[[float], bool]) -> list[Point]:
    """The last points of which any ``size`` in a row are ill on average, so that one good step changes nothing."""
    windows = [series[end - size : end] for end in range(size, len(series) + 1)]
    means = [Point(window[-1].step, window[-1].chunk, average(window)) for window in windows]
    length = len(streak(means, ill))
    return list(series[len(series) - length - size + 1 :]) if length else []


def slope_of(record: Record, reward: str, level: float = ALARM) -> Estimate | None:
    """Change of a reward's mean per step, compared chunk by chunk; None with too few steps."""
    found = record.trend(reward, level)
    return None if found is None else found.slope


def peak(record: Record, reward: str) -> int:
    """The step with the best reward, averaged over ``PERSISTENT`` steps with the levels of chunks removed."""
    points = record.reward(reward, lambda r: r.mean)
    levels = within([p.chunk for p in points], [p.value for p in points])
    windows = range(len(levels) - PERSISTENT + 1)
    means = [round(fmean(levels[start : start + PERSISTENT]), 9) for start in windows]
    best = max(windows, key=lambda start: (means[start], start))  # the last of equals, where the fall starts
    return points[best + PERSISTENT // 2].step


def deepest_fall(record: Record, reward: str) -> tuple[str, float] | None:
    """The chunk whose reward fell most from its first two visits to its last two, with the change."""
    visits: dict[str, list[float]] = {}
    for point in record.reward(reward, lambda r: r.mean):
        visits.setdefault(point.chunk, []).append(point.value)
    changes = {c: fmean(values[-2:]) - fmean(values[:2]) for c, values in visits.items() if len(values) >= 4}
    chunk = min(changes, key=lambda c: changes[c], default=None)
    return None if chunk is None else (chunk, changes[chunk])


def average(points: Sequence[Point]) -> float:
    """Mean of the values."""
    return fmean(point.value for point in points)


def percent(points: Sequence[Point]) -> str:
    """The mean of the values in percent."""
    return f"{average(points):.0%}"
