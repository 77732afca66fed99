"""The interval of a difference that is measured on the same scenarios with several seeds.

Both are samples: other scenarios and other seeds would give other numbers. A bootstrap over three seeds has ten
outcomes and is too narrow, so that this is the interval of a crossed design with Student's t.
"""

from __future__ import annotations

import math

import numpy as np

from worldcompass.statistics import UNKNOWN, Estimate

GRID = 4_000  # points of the integral of Student's density


def crossed(values_KV: np.ndarray, level: float) -> Estimate:
    """The mean over K seeds and V scenarios with its two-sided interval.

    The variance of the mean is taken as ``S_k / K + S_v / V``, of the sample variances of the seeds' and the
    scenarios' means, with Satterthwaite's degrees of freedom. Noise of single videos is in both, so that it counts
    twice: where there is little else, the interval is too wide. With one seed it is over scenarios alone, and says
    nothing of other seeds; with one scenario it is unbounded.

    Args:
        values_KV: one value per seed and scenario.
        level: such as 0.95.
    """
    seeds, scenarios = values_KV.shape
    mean, n = float(values_KV.mean()), seeds * scenarios
    if scenarios < 2:
        return Estimate(mean, UNKNOWN.low, UNKNOWN.high, n)
    of_seeds, of_scenarios = values_KV.mean(1), values_KV.mean(0)
    by_scenario = float(of_scenarios.var(ddof=1)) / scenarios
    if seeds < 2:
        half = student_quantile(level, scenarios - 1) * math.sqrt(by_scenario)
        return Estimate(mean, mean - half, mean + half, n)
    by_seed = float(of_seeds.var(ddof=1)) / seeds
    variance = by_seed + by_scenario
    if not variance:
        return Estimate(mean, mean, mean, n)
    freedom = variance**2 / (by_seed**2 / (seeds - 1) + by_scenario**2 / (scenarios - 1))
    half = student_quantile(level, freedom) * math.sqrt(variance)
    return Estimate(mean, mean - half, mean + half, n)


def student_quantile(level: float, freedom: float) -> float:
    """Two-sided quantile of Student's t, for any degrees of freedom from 1 on.

    With ``t = sqrt(f) tan a`` the density is proportional to ``cos(a)^(f - 1)``, whose integral is inverted.
    """
    edges = np.linspace(0, math.pi / 2, GRID + 1)
    middles = (edges[:-1] + edges[1:]) / 2
    grown = np.concatenate([[0.0], np.cumsum(np.cos(middles) ** (freedom - 1))])
    angle = float(np.interp(level, grown / grown[-1], edges))
    return math.sqrt(freedom) * math.tan(angle)
