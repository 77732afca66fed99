"""Numbers of an audit: paired comparisons with intervals, rank correlation, calibration; pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000


@dataclass(frozen=True)
class Share:
    """A share of clips with its 95% interval over clips."""

    mean: float
    low: float
    high: float
    n: int


def share(hits: np.ndarray, seed: int = 0) -> Share:
    """Mean of values in [0, 1] and its percentile bootstrap; n = 0 has no interval."""
    if not len(hits):
        return Share(float("nan"), float("nan"), float("nan"), 0)
    rows = np.random.default_rng(seed).integers(len(hits), size=(RESAMPLES, len(hits)))
    low, high = np.percentile(hits[rows].mean(1), [2.5, 97.5])
    return Share(float(hits.mean()), float(low), float(high), len(hits))


def punished(true: np.ndarray, degraded: np.ndarray, seed: int = 0) -> Share:
    """How often the degraded clip scores below the true one; a tie counts half."""
    return share(np.where(degraded < true, 1.0, np.where(degraded == true, 0.5, 0.0)), seed)


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
