"""Numbers of an audit: paired comparisons with intervals, rank correlation, calibration; pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worldcompass.statistics import Z_95

NEVER_FAR = "never far from the truth"  # what a search found nothing in


@dataclass(frozen=True)
class Share:
    """A share of clips with its 95% interval."""

    mean: float
    low: float
    high: float
    n: int
    """Clips."""
    videos: int
    """Videos that they were cut from: the independent witnesses."""


def share(hits: np.ndarray, videos: Sequence[str]) -> Share:
    """Mean of values in [0, 1] over clips; Wilson's interval with the videos as the sample.

    Clips of one video are not independent. What they say together lies in [0, 1] and so varies at most as a coin
    does: the interval is never too narrow, also where all agree, of which resampling would make certainty.
    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927). Without
    clips there is no interval.
    """
    n = len(set(videos))
    if not n:
        return Share(float("nan"), float("nan"), float("nan"), 0, 0)
    mean = float(hits.mean())
    centre, grown = mean + Z_95**2 / (2 * n), 1 + Z_95**2 / n
    half = Z_95 * np.sqrt(mean * (1 - mean) / n + Z_95**2 / (4 * n * n))
    low, high = float((centre - half) / grown), float((centre + half) / grown)
    return Share(mean, max(0.0, low), min(1.0, high), len(hits), n)


def punished(true: np.ndarray, degraded: np.ndarray, videos: Sequence[str]) -> Share:
    """How often the degraded clip scores below the true one; a tie counts half."""
    return share(np.where(degraded < true, 1.0, np.where(degraded == true, 0.5, 0.0)), videos)


def shown(value: Share, none: str = "never scored") -> str:
    """A share in percent with its interval, ``none`` where there is nothing to share."""
    if not value.n:
        return none
    low, mean, high = (round(100 * x) for x in (value.low, value.mean, value.high))
    return f"{mean}% [{low}, {high}]"


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
