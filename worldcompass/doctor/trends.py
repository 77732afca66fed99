"""The doctor's arithmetic: trends that compare like with like, intervals, and how many steps a trend needs.

Rewards and pictures differ from chunk to chunk of the curriculum, so every chunk has its own level here and
only what changes within a chunk from pass to pass counts.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

from worldcompass.media.charts import number

MIN_FREEDOM = 3  # degrees of freedom below which an interval says nothing
POWER = 0.8  # probability with which a trend that is there should be seen
LEVEL = 0.99  # of the intervals that are shown; high because a run is looked at again and again


@dataclass(frozen=True)
class Estimate:
    """A number with its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """``+0.12 (+0.05 to +0.19)``."""
        return f"{_signed(self.value)} ({_signed(self.low)} to {_signed(self.high)})"

    @property
    def rises(self) -> bool:
        """The whole interval lies above zero."""
        return self.low > 0

    @property
    def falls(self) -> bool:
        """The whole interval lies below zero."""
        return self.high < 0

    def wider(self, level: float, wanted: float) -> Estimate:
        """The same at another level, as if it were normal."""
        normal = NormalDist()
        factor = normal.inv_cdf((1 + wanted) / 2) / normal.inv_cdf((1 + level) / 2)
        low, high = (
            self.value - factor * (self.value - self.low),
            self.value + factor * (self.high - self.value),
        )
        return Estimate(self.value, low, high)


@dataclass(frozen=True)
class Trend:
    """A slope per step, and the deviation of a single step around it."""

    slope: Estimate
    noise: float


def trend(
    steps: Sequence[int], chunks: Sequence[Hashable], values: Sequence[float], level: float = LEVEL
) -> Trend | None:
    """Least squares with one common slope and a level for every chunk; the interval is Student's.

    Returns:
        None with too few steps: ``n - chunks - 1`` must be at least 3, and chunks must have come again.
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
    """Steps after which a slope is told from zero with probability 0.8 at ``LEVEL``; inf for slope 0.

    The slope's error after n steps is ``noise sqrt(12 / n^3)``, which ``slope / (2.58 + 0.84)`` must reach.
    """
    normal = NormalDist()
    reach = normal.inv_cdf((1 + LEVEL) / 2) + normal.inv_cdf(POWER)
    return (math.sqrt(12) * reach * noise / abs(slope)) ** (2 / 3) if slope else math.inf


def student(level: float, freedom: int) -> float:
    """Two-sided quantile of Student's t: the Cornish-Fisher series (Abramowitz and Stegun 26.7.5).

    Within 1% at level 0.95 and 9% at level 0.999 for 3 degrees of freedom, far better above.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + number(value)


def within(chunks: Sequence[Hashable], values: Sequence[float]) -> list[float]:
    """Values minus the mean of their chunk: what is left to compare from chunk to chunk."""
    of_chunk: dict[Hashable, list[float]] = defaultdict(list)
    for chunk, value in zip(chunks, values, strict=True):
        of_chunk[chunk].append(value)
    means = {chunk: fmean(members) for chunk, members in of_chunk.items()}
    return [value - means[chunk] for chunk, value in zip(chunks, values, strict=True)]
