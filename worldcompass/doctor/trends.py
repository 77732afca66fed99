"""The doctor's statistics: trends within chunks, intervals, and the number of steps that a trend needs.

Rewards and pictures differ between chunks of the curriculum. Every chunk therefore has its own level, and only
changes within a chunk from pass to pass count.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

from worldcompass.statistics import LEVEL, MIN_FREEDOM, Estimate, student

POWER = 0.8  # probability of detecting a real trend


@dataclass(frozen=True)
class Trend:
    """A slope per step, and the standard deviation of a single step around it."""

    slope: Estimate
    noise: float


def trend(
    steps: Sequence[int], chunks: Sequence[Hashable], values: Sequence[float], level: float = LEVEL
) -> Trend | None:
    """Least squares with one common slope and a level for every chunk; the interval is Student's.

    Returns:
        None with too few steps: ``n - chunks - 1`` must be at least 3, and a chunk must have been visited twice.
    """
    freedom = len(values) - len(set(chunks)) - 1
    x, y = within(chunks, steps), within(chunks, values)
    spread = sum(v * v for v in x)
    if freedom < MIN_FREEDOM or spread == 0:
        return None
    slope = sum(a * b for a, b in zip(x, y, strict=True)) / spread
    noise = math.sqrt(sum((b - slope * a) ** 2 for a, b in zip(x, y, strict=True)) / freedom)
    reach = student(level, freedom) * noise / math.sqrt(spread)
    return Trend(Estimate(slope, slope - reach, slope + reach), noise)


def mean(values: Sequence[float], level: float = LEVEL) -> Estimate | None:
    """The mean of independent values with Student's interval; None below four values."""
    freedom = len(values) - 1
    if freedom < MIN_FREEDOM:
        return None
    middle = fmean(values)
    deviation = math.sqrt(sum((v - middle) ** 2 for v in values) / freedom)
    reach = student(level, freedom) * deviation / math.sqrt(len(values))
    return Estimate(middle, middle - reach, middle + reach)


def steps_needed(noise: float, slope: float) -> float:
    """Steps until a slope differs from zero with probability 0.8 at ``LEVEL``; inf for slope 0.

    The slope's error after n steps is ``noise sqrt(12 / n^3)``, which ``slope / (2.58 + 0.84)`` must reach.
    """
    normal = NormalDist()
    reach = normal.inv_cdf((1 + LEVEL) / 2) + normal.inv_cdf(POWER)
    return (math.sqrt(12) * reach * noise / abs(slope)) ** (2 / 3) if slope else math.inf


def within(chunks: Sequence[Hashable], values: Sequence[float]) -> list[float]:
    """Values minus the mean of their chunk, which makes chunks comparable."""
    of_chunk: dict[Hashable, list[float]] = defaultdict(list)
    for chunk, value in zip(chunks, values, strict=True):
        of_chunk[chunk].append(value)
    means = {chunk: fmean(members) for chunk, members in of_chunk.items()}
    return [value - means[chunk] for chunk, value in zip(chunks, values, strict=True)]
