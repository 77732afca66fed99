"""Means with intervals, numbers for people, and the few tests of significance that the package needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

MIN_FREEDOM = 3  # degrees of freedom below which an interval says nothing
Z_95 = 1.96  # standard deviations on either side of a mean that hold 95%
LEVEL = 0.99  # of the intervals that are shown; high because a run is looked at again and again
RESAMPLES = 2000  # of a bootstrap


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval. What is not known is NaN here and null in JSON."""

    mean: float
    low: float
    """Lower end of the interval, 95% where nothing else is said."""
    high: float
    n: int | None = None
    """Size of the sample, where there is one to count."""

    @property
    def known(self) -> bool:
        """There is a mean."""
        return math.isfinite(self.mean)

    @property
    def bounded(self) -> bool:
        """There is a mean and an interval."""
        return all(map(math.isfinite, (self.mean, self.low, self.high)))

    @property
    def rises(self) -> bool:
        """The whole interval lies above zero."""
        return self.low > 0

    @property
    def falls(self) -> bool:
        """The whole interval lies below zero."""
        return self.high < 0

    def times(self, factor: float) -> Estimate:
        """The same in another unit; ``factor`` is positive."""
        return Estimate(self.mean * factor, self.low * factor, self.high * factor, self.n)

    def wider(self, level: float, wanted: float) -> Estimate:
        """The same at another level, as if it were normal."""
        normal = NormalDist()
        factor = normal.inv_cdf((1 + wanted) / 2) / normal.inv_cdf((1 + level) / 2)
        low, high = self.mean - factor * (self.mean - self.low), self.mean + factor * (self.high - self.mean)
        return Estimate(self.mean, low, high, self.n)

    def __str__(self) -> str:
        """``+0.12 (+0.05 to +0.19)``."""
        return f"{_signed(self.mean)} ({_signed(self.low)} to {_signed(self.high)})"

    def in_percent(self, between: str = " ", digits: int = 1, none: str = "no gap") -> str:
        """A share for people, such as ``41.3% [32.0, 50.1]``; ``none`` where it is not known."""
        if not self.known:
            return none
        mean, low, high = (f"{100 * x:.{digits}f}" for x in (self.mean, self.low, self.high))
        return f"{mean}%{between}[{low}, {high}]"

    def to_json(self) -> dict[str, Any]:
        """``{"mean", "ci95", "n"}``, null for what is not known."""
        return {"mean": _or_null(self.mean), "ci95": [_or_null(self.low), _or_null(self.high)], "n": self.n}

    @staticmethod
    def from_json(data: object) -> Estimate:
        """The inverse of ``to_json``; parts that are missing are not known.

        Raises:
            ValueError: when it is something else.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"expected a mean with its interval, got {type(data).__name__}")
        ends, n = data.get("ci95") or [None, None], data.get("n")
        if not isinstance(ends, list) or len(ends) != 2:
            raise ValueError(f"expected the two ends of an interval as ci95, got {ends!r}")
        if n is not None and (not isinstance(n, int) or isinstance(n, bool)):
            raise ValueError(f"expected a count as n, got {n!r}")
        return Estimate(_or_nan(data.get("mean")), _or_nan(ends[0]), _or_nan(ends[1]), n)


UNKNOWN = Estimate(math.nan, math.nan, math.nan)


def _or_null(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _or_nan(value: object) -> float:
    if value is None:
        return math.nan
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"expected a number, got {value!r}")
    return float(value)


def number(value: float | None) -> str:
    """A number for people: three significant digits, no exponent where it can be helped."""
    if value is None or not math.isfinite(value):
        return "–"
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e").replace("-", "−")
    digits = 0 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{digits}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")


def percent(value: float, digits: int = 1) -> str:
    """A share as percent for people."""
    return f"{100 * value:.{digits}f}%".replace("-", "−") if math.isfinite(value) else "–"


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + number(value)


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


# --------------------------------------------------------------------------- bootstrap


def resamples(scenarios: Sequence[str], seed: int = 0, count: int = RESAMPLES) -> np.ndarray:
    """Bootstrap rows over scenarios: videos of one scenario (other seeds) stay together; (count, V)."""
    names = sorted(set(scenarios))
    rows = {name: [i for i, s in enumerate(scenarios) if s == name] for name in names}
    counts = {len(r) for r in rows.values()}
    if len(counts) != 1:
        raise ValueError(f"every scenario needs the same number of videos, got {sorted(counts)}")
    grid = np.array([rows[name] for name in names])
    rng = np.random.default_rng(seed)
    pick = rng.integers(len(names), size=(count, len(names)))
    seeds = rng.integers(grid.shape[1], size=(count, 1, grid.shape[1]))
    return grid[pick[..., None], seeds].reshape(count, -1)


def bootstrap(values_B: Sequence[float] | np.ndarray, mean: float, n: int) -> Estimate:
    """A mean with its 95% percentile interval; ``values_B`` are its values over bootstrap resamples."""
    low, high = np.percentile(values_B, [2.5, 97.5])
    return Estimate(float(mean), float(low), float(high), int(n))


def share_closed(
    engine_V: np.ndarray, base_V: np.ndarray, trained_V: np.ndarray, rows: np.ndarray
) -> Estimate:
    """``(trained - base) / (engine - base)`` with its interval; not known where the base leaves no gap.

    Resamples in which there is no gap are left out.
    """
    gained, gap = trained_V - base_V, engine_V - base_V
    gained_B, gap_B = gained[rows].mean(1), gap[rows].mean(1)
    if gap.mean() == 0 or not gap_B.any():
        return Estimate(math.nan, math.nan, math.nan, len(gap))
    return bootstrap(gained_B[gap_B != 0] / gap_B[gap_B != 0], gained.mean() / gap.mean(), len(gap))


# --------------------------------------------------------------------------- shares


def wilson(mean: float, n: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's interval of a share of ``n``; (0, 1) where ``n`` is 0.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    if n == 0:
        return 0.0, 1.0
    centre, grown = mean + z**2 / (2 * n), 1 + z**2 / n
    half = z * math.sqrt(mean * (1 - mean) / n + z**2 / (4 * n * n))
    return max(0.0, (centre - half) / grown), min(1.0, (centre + half) / grown)


def share(hits: np.ndarray, videos: Sequence[str]) -> Estimate:
    """Mean of values in [0, 1] over clips; Wilson's interval with the videos as the sample.

    Clips of one video are not independent. What they say together lies in [0, 1] and so varies at most as a coin
    does: the interval is never too narrow, even where all agree, and resampling would be certain. Not known without
    clips.

    Returns:
        ``n`` counts clips.
    """
    if not len(hits):
        return Estimate(math.nan, math.nan, math.nan, 0)
    mean = float(hits.mean())
    return Estimate(mean, *wilson(mean, len(set(videos))), len(hits))


def win_rate(wins: int, losses: int) -> Estimate:
    """Share of wins among decided votes with Wilson's interval; without any, from 0 to 1 around nothing."""
    n = wins + losses
    mean = wins / n if n else math.nan
    return Estimate(mean, *wilson(mean, n), n)


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact p of the sign test: ``min(1, 2 P(X <= min(wins, losses)))``, X ~ Binomial(n, 1/2)."""
    decided = wins + losses
    tail = sum(math.comb(decided, k) for k in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / 2**decided)


# --------------------------------------------------------------------------- scores against truth


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's, ties sharing their mean rank; 0 where one does not vary."""
    a, b = _ranks(x), _ranks(y)
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / size) if size > 0 else 0.0


def calibration_error(scores: np.ndarray, truth: np.ndarray) -> float:
    """Mean absolute difference of mean score and truth over the truth's levels, each counted equally."""
    levels = np.unique(truth)
    return float(np.mean([abs(scores[truth == level].mean() - level) for level in levels]))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return (last - (counts - 1) / 2)[inverse]
