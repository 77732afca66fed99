"""Means with intervals, formatted numbers, and tests of significance."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import lru_cache
from statistics import NormalDist
from typing import Any, TypeVar, cast

import numpy as np

MIN_FREEDOM = 3  # smallest degrees of freedom for an interval
Z_95 = 1.96  # standard deviations on either side of a mean for 95%
LEVEL = 0.99  # of shown intervals; high, as a run is checked repeatedly
NOMINAL = 0.95  # level of an interval, where nothing else is said
RESAMPLES = 2000  # of a bootstrap
GRID = 4_000  # points of the integral of Student's density
MOST_T = 12.0  # standard deviations, beyond which a density with many degrees of freedom has no mass


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval. Unknown values are NaN here and null in JSON."""

    mean: float
    low: float
    """Lower end of the interval, 95% by default."""
    high: float
    n: int | None = None
    """Size of the sample; None when not countable."""

    @property
    def known(self) -> bool:
        """Whether the mean is known."""
        return math.isfinite(self.mean)

    @property
    def bounded(self) -> bool:
        """Whether mean and interval are known."""
        return all(map(math.isfinite, (self.mean, self.low, self.high)))

    @property
    def rises(self) -> bool:
        """Whether the whole interval lies above zero."""
        return self.low > 0

    @property
    def falls(self) -> bool:
        """Whether the whole interval lies below zero."""
        return self.high < 0

    def within(self, least: float, most: float) -> Estimate:
        """The estimate with its interval cut to what values can be, such as 0 and 1 for a share."""
        low, high = (
            min(max(end, least), most) if math.isfinite(end) else end for end in (self.low, self.high)
        )
        return Estimate(self.mean, low, high, self.n)

    def exp(self) -> Estimate:
        """The estimate of a logarithm as the estimate of its value."""
        return Estimate(math.exp(self.mean), math.exp(self.low), math.exp(self.high), self.n)

    def times(self, factor: float) -> Estimate:
        """The estimate in another unit; ``factor`` must be positive."""
        return Estimate(self.mean * factor, self.low * factor, self.high * factor, self.n)

    def wider(self, level: float, wanted: float) -> Estimate:
        """The estimate with an interval of another level, assuming a normal distribution."""
        normal = NormalDist()
        factor = normal.inv_cdf((1 + wanted) / 2) / normal.inv_cdf((1 + level) / 2)
        low, high = self.mean - factor * (self.mean - self.low), self.mean + factor * (self.high - self.mean)
        return Estimate(self.mean, low, high, self.n)

    def __str__(self) -> str:
        """``+0.12 (+0.05 to +0.19)``."""
        return f"{_signed(self.mean)} ({_signed(self.low)} to {_signed(self.high)})"

    def in_percent(self, between: str = " ", digits: int = 1, none: str = "–") -> str:
        """A share in percent, such as ``41.3% [32.0, 50.1]``; ``none`` when unknown."""
        if not self.known:
            return none
        mean, low, high = (f"{100 * x:.{digits}f}" for x in (self.mean, self.low, self.high))
        return f"{mean}%{between}[{low}, {high}]"

    def to_json(self) -> dict[str, Any]:
        """``{"mean", "ci95", "n"}``, with null for unknown values."""
        return {"mean": _or_null(self.mean), "ci95": [_or_null(self.low), _or_null(self.high)], "n": self.n}

    @staticmethod
    def from_json(data: object) -> Estimate:
        """The inverse of ``to_json``; missing parts are unknown.

        Raises:
            ValueError: for malformed data.
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
    """Format a number with three significant digits, and an exponent only for extreme values."""
    if value is None or not math.isfinite(value):
        return "–"
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e").replace("-", "−")
    digits = 0 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{digits}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")


def percent(value: float, digits: int = 1) -> str:
    """Format a share as percent."""
    return f"{100 * value:.{digits}f}%".replace("-", "−") if math.isfinite(value) else "–"


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + number(value)


@lru_cache(maxsize=4096)
def student(level: float, freedom: float) -> float:
    """Two-sided quantile of Student's t, for any degrees of freedom from 1 on.

    With ``t = sqrt(f) tan a`` the density is proportional to ``cos(a)^(f - 1)``, whose integral is inverted.
    """
    end = min(math.pi / 2, MOST_T / math.sqrt(freedom))
    edges = np.linspace(0, end, GRID + 1)
    middles = (edges[:-1] + edges[1:]) / 2
    grown = np.concatenate([[0.0], np.cumsum(np.cos(middles) ** (freedom - 1))])
    angle = float(np.interp(level, grown / grown[-1], edges))
    return math.sqrt(freedom) * math.tan(angle)


# --------------------------------------------------------------------------- bootstrap


def resamples(scenarios: Sequence[str], seed: int = 0, count: int = RESAMPLES) -> np.ndarray:
    """Bootstrap rows over scenarios, keeping all videos of a scenario together; (count, V).

    Raises:
        ValueError: when scenarios have different numbers of videos.
    """
    return _drawn(_grid(scenarios), seed, count)


def _grid(scenarios: Sequence[str]) -> np.ndarray:
    """Which videos a scenario has, scenarios in the order of their names; (S, K)."""
    names = sorted(set(scenarios))
    rows = {name: [i for i, s in enumerate(scenarios) if s == name] for name in names}
    counts = {len(r) for r in rows.values()}
    if len(counts) != 1:
        raise ValueError(f"every scenario needs the same number of videos, got {sorted(counts)}")
    return np.array([rows[name] for name in names])


def _drawn(grid_SK: np.ndarray, seed: int, count: int) -> np.ndarray:
    picked_BS = np.random.default_rng(seed).integers(len(grid_SK), size=(count, len(grid_SK)))
    return grid_SK[picked_BS].reshape(count, -1)


def bootstrap(values_B: Sequence[float] | np.ndarray, mean: float, n: int) -> Estimate:
    """A mean with its 95% percentile interval, from its values over bootstrap resamples."""
    low, high = np.percentile(values_B, [2.5, 97.5])
    return Estimate(float(mean), float(low), float(high), int(n))


# --------------------------------------------------------------------------- several seeds


def crossed(values_KS: np.ndarray, level: float = NOMINAL) -> Estimate:
    """The mean over K seeds and S scenarios, each seed on the same scenarios, with its two-sided interval.

    Both are samples: other seeds and other scenarios would give other numbers. A bootstrap over three seeds has
    ten outcomes and is too narrow. The variance of the mean is taken as ``S_k / K + S_s / S``, of the sample
    variances of the seeds' and the scenarios' means, with Student's t and Satterthwaite's degrees of freedom.
    Noise of single videos is in both, so that it counts twice: where there is little else, the interval is too
    wide. With one seed it is over scenarios alone, and says nothing of other seeds; with one scenario it is
    unbounded.

    Args:
        values_KS: one value per seed and scenario.
        level: such as 0.95.
    """
    seeds, scenarios = values_KS.shape
    mean, n = float(values_KS.mean()), seeds * scenarios
    if scenarios < 2:
        return Estimate(mean, UNKNOWN.low, UNKNOWN.high, n)
    by_scenario = float(values_KS.mean(0).var(ddof=1)) / scenarios
    return _around(mean, values_KS.mean(1), by_scenario, scenarios, level)


def crossed_over(values_KB: np.ndarray, scenarios: int) -> Estimate:
    """The mean over K seeds of any value of a seed's videos on S scenarios, with its 95% interval.

    For values that are no mean over scenarios, such as distances of sets: as ``crossed``, with the scenarios'
    variance from a bootstrap. With one seed, the percentile interval of that bootstrap.

    Args:
        values_KB: for every seed, the value of all scenarios, then of every resample of scenarios; the same
            resamples for all seeds.
        scenarios: S.
    """
    mean, resampled_B = float(values_KB[:, 0].mean()), values_KB[:, 1:].mean(0)
    if len(values_KB) < 2:
        return bootstrap(resampled_B, mean, scenarios)
    by_scenario = float(resampled_B.var(ddof=1)) * scenarios / max(1, scenarios - 1)
    return _around(mean, values_KB[:, 0], by_scenario, scenarios, NOMINAL)


def _around(
    mean: float, of_seeds_K: np.ndarray, by_scenario: float, scenarios: int, level: float
) -> Estimate:
    """The interval from the values of single seeds and the variance of the mean by scenarios."""
    seeds = len(of_seeds_K)
    by_seed = float(of_seeds_K.var(ddof=1)) / seeds if seeds > 1 else 0.0
    variance = by_seed + by_scenario
    if not variance > 0:
        return Estimate(mean, mean - variance, mean + variance, seeds * scenarios)  # NaN stays NaN
    spread = by_seed**2 / max(1, seeds - 1) + by_scenario**2 / max(1, scenarios - 1)
    half = student(level, variance**2 / spread) * math.sqrt(variance)
    return Estimate(mean, mean - half, mean + half, seeds * scenarios)


@dataclass(frozen=True)
class Crossing:
    """V = K * S videos: every seed's of the same scenarios. It says which 95% interval a mean over them has.

    With one seed that is a bootstrap over scenarios, with several the interval of ``crossed``.
    """

    grid_KS: np.ndarray
    """The video of each seed and scenario."""
    rows_BV: np.ndarray
    """Resamples of scenarios, all seeds of a scenario together."""

    @staticmethod
    def of(scenarios: Sequence[str], seed: int = 0, count: int = RESAMPLES) -> Crossing:
        """The crossing of videos whose scenarios these are; the n-th video of a scenario is of the n-th seed.

        Raises:
            ValueError: when scenarios have different numbers of videos.
        """
        grid_SK = _grid(scenarios)
        return Crossing(grid_SK.T, _drawn(grid_SK, seed, count))

    @property
    def scenarios(self) -> int:
        """S."""
        return self.grid_KS.shape[1]

    def by_seed(self) -> np.ndarray:
        """The videos of every seed: of all scenarios, then of the resamples; (K, 1 + B, S)."""
        resampled_BSK = self.rows_BV.reshape(len(self.rows_BV), self.scenarios, -1)
        return np.concatenate([self.grid_KS[:, None], resampled_BSK.transpose(2, 0, 1)], 1)

    def mean(self, values_V: np.ndarray) -> Estimate:
        """The mean over the videos."""
        return self.means(values_V[:, None])[0]

    def means(self, values_VD: np.ndarray) -> list[Estimate]:
        """The mean over the videos of each of D values."""
        if len(self.grid_KS) > 1:
            return [crossed(values_V[self.grid_KS]) for values_V in values_VD.T]
        videos = len(values_VD)
        taken_BV = np.stack([np.bincount(row, minlength=videos) for row in self.rows_BV])
        resampled_BD = taken_BV @ values_VD / videos
        means_D = values_VD.mean(0)
        return [bootstrap(b, m, videos) for b, m in zip(resampled_BD.T, means_D, strict=True)]

    def share_closed(self, engine_V: np.ndarray, base_V: np.ndarray, trained_V: np.ndarray) -> Estimate:
        """``(trained - base) / (engine - base)`` of the means; unknown without a gap.

        With one seed, resamples without a gap are skipped. With several the ratio is linearised at its value,
        which holds where the gap is well above its own error.
        """
        gained, gap = trained_V - base_V, engine_V - base_V
        if gap.mean() == 0:
            return Estimate(math.nan, math.nan, math.nan, len(gap))
        share = gained.mean() / gap.mean()
        if len(self.grid_KS) > 1:
            return self.mean(share + (gained - share * gap) / gap.mean())
        gained_B, gap_B = gained[self.rows_BV].mean(1), gap[self.rows_BV].mean(1)
        if not gap_B.any():
            return Estimate(math.nan, math.nan, math.nan, len(gap))
        return bootstrap(gained_B[gap_B != 0] / gap_B[gap_B != 0], share, len(gap))


# --------------------------------------------------------------------------- shares


def wilson(mean: float, n: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's interval of a share of ``n``; (0, 1) when ``n`` is 0.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    if n == 0:
        return 0.0, 1.0
    centre, grown = mean + z**2 / (2 * n), 1 + z**2 / n
    half = z * math.sqrt(mean * (1 - mean) / n + z**2 / (4 * n * n))
    return max(0.0, (centre - half) / grown), min(1.0, (centre + half) / grown)


def share(hits: np.ndarray, videos: Sequence[str]) -> Estimate:
    """Mean of values in [0, 1] over clips, with Wilson's interval for the number of videos; unknown without clips.

    Clips of one video are not independent. The mean of a video lies in [0, 1] and so varies at most like a coin, so
    the interval is never too narrow. A bootstrap would have no width when all clips agree.

    Returns:
        The estimate; ``n`` counts clips.
    """
    if not len(hits):
        return Estimate(math.nan, math.nan, math.nan, 0)
    mean = float(hits.mean())
    return Estimate(mean, *wilson(mean, len(set(videos))), len(hits))


def win_rate(wins: int, losses: int) -> Estimate:
    """Share of wins among decided votes with Wilson's interval; without votes an unknown mean in (0, 1)."""
    n = wins + losses
    mean = wins / n if n else math.nan
    return Estimate(mean, *wilson(mean, n), n)


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact p of the sign test: ``min(1, 2 P(X <= min(wins, losses)))``, X ~ Binomial(n, 1/2)."""
    decided = wins + losses
    tail = sum(math.comb(decided, k) for k in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / 2**decided)


def detectable_share(decided: int, power: float = 0.8, level: float = 0.05) -> float:
    """The smallest true share of wins that a two-sided sign test shows with some power; NaN if none does.

    The test shows it when the subject wins so often that ``sign_test <= level``. Wins are binomial.

    Args:
        decided: number of votes without ties.
        power: wanted probability to show it.
        level: of the test.
    """
    needed = next((k for k in range(decided // 2, decided + 1) if sign_test(k, decided - k) <= level), None)
    if needed is None:
        return math.nan

    def shown(share: float) -> float:
        return sum(
            math.comb(decided, k) * share**k * (1 - share) ** (decided - k)
            for k in range(needed, decided + 1)
        )

    low, high = 0.5, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if shown(middle) < power else (low, middle)
    return high


# --------------------------------------------------------------------------- scores against truth


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's correlation, with mean ranks for ties; 0 when one variable is constant."""
    a, b = _ranks(x), _ranks(y)
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / size) if size > 0 else 0.0


def kendall(x: np.ndarray, y: np.ndarray) -> float:
    """Kendall's tau-b, which allows for ties; 0 when one variable is constant.

    Source: Kendall, "The treatment of ties in ranking problems", Biometrika 33 (1945).
    """
    a, b = (np.sign(v[:, None] - v[None]) for v in (np.asarray(x, float), np.asarray(y, float)))
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / size) if size > 0 else 0.0


def calibration_error(scores: np.ndarray, truth: np.ndarray) -> float:
    """Mean absolute difference of mean score and truth, averaged over the truth's levels."""
    levels = np.unique(truth)
    return float(np.mean([abs(scores[truth == level].mean() - level) for level in levels]))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return (last - (counts - 1) / 2)[inverse]


T = TypeVar("T")


def mean_of(values: Sequence[T], summed: Collection[str] = (), total: bool = False) -> T:
    """The mean of numbers, or of mappings and frozen dataclasses that hold them.

    A number that is None in some of them is the mean of the others. Equal values stay as they are, and of anything
    else the first one is taken.

    Args:
        values: one or more of the same structure.
        summed: names of keys and fields whose numbers are added instead, such as costs.
        total: add all numbers.
    """
    present = [value for value in values if value is not None]
    if not present:
        return values[0]
    first: Any = present[0]
    if isinstance(first, Mapping):
        rows = cast("list[Mapping[str, object]]", present)
        return cast(
            "T", {n: mean_of([row.get(n) for row in rows], summed, total or n in summed) for n in rows[0]}
        )
    if is_dataclass(first):
        means = {
            f.name: mean_of([getattr(v, f.name) for v in present], summed, total or f.name in summed)
            for f in fields(first)
        }
        return cast("T", replace(cast("Any", first), **means))
    is_number = isinstance(first, int | float) and not isinstance(first, bool)
    if not is_number or (not total and all(value == first for value in present)):
        return present[0]
    whole = sum(cast("list[float]", present))
    return cast("T", whole if total else whole / len(present))
