"""Distances between sets of videos: Frechet and kernel distances in several spaces.

``ratio = FD(model, reachable) / FD(other, engine)``: at 1, a model lies as far from what it could show as real
episodes lie from each other. One space alone can misrank pictures (arXiv 2604.28190), so there are several, and the
verdict averages logarithms. All sets have the same number of clips, as the Frechet distance depends on it
(arXiv 1911.07023); the kernel distance does not.

With several seeds of post-training, each is compared alone and logarithms are averaged. Sets that pool seeds would
hide a drift that goes one way in one seed and another way in the next; a user gets one seed.

Features keep their scale: a direction counts by how much real pictures differ in it. Scaling all directions alike
would count details that nobody sees as much as a change of the whole picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from worldcompass.judging.memo import Memo
from worldcompass.judging.sources import BASE, STRETCHES, TRAINED, Sources, Windows
from worldcompass.judging.spaces import Space, embedded
from worldcompass.statistics import UNKNOWN, Estimate, crossed_over, resamples

RESAMPLES = 300
NEAR_ZERO = 0.02  # of the floor: equal sets have a finite logarithm
ENGINE, OTHER, REACHABLE = "engine", "other", "reachable"


@dataclass(frozen=True)
class Distance:
    """One space and one stretch of the videos."""

    ratio: dict[str, Estimate]
    """Source -> ratio to the floor; the sources are the models and, explained, ``engine``."""
    change: Estimate
    """Log ratio of the trained model minus that of the base: below 0, training came nearer."""
    absolute: dict[str, Estimate] = field(default_factory=dict[str, Estimate])
    """The same against the engine's own frames; ``reachable`` is what a perfect network would get."""
    kernel: dict[str, float] = field(default_factory=dict[str, float])
    """Source -> unbiased polynomial kernel distance, times 1000."""
    kernel_change: Estimate = UNKNOWN
    """Kernel distance of the trained model minus that of the base, times 1000."""


@dataclass(frozen=True)
class Distances:
    """All spaces and stretches."""

    spaces: dict[str, dict[str, Distance]]
    """Stretch -> space -> distance."""
    change: dict[str, dict[str, Estimate]]
    """Stretch -> family of spaces, ``pictures`` or ``motion`` -> mean of their ``Distance.change``."""


@dataclass(frozen=True)
class Moments:
    """Sums over the clips of every video, from which moments of any resample follow."""

    count: int
    """Rows of a video."""
    sum_VD: Tensor
    outer_VDD: Tensor

    def part(self, number: int, videos: int) -> Moments:
        """The moments of one seed's videos."""
        rows = slice(number * videos, (number + 1) * videos)
        return Moments(self.count, self.sum_VD[rows], self.outer_VDD[rows])


def measure_distances(
    sources: Sources,
    windows: Windows,
    spaces: Sequence[Space],
    seed: int = 0,
    on_space: Callable[[], None] = lambda: None,
    memo: Memo | None = None,
    explain: bool = True,
) -> Distances:
    """Compare the models with reachable truth in every space.

    Args:
        sources: with the models ``base`` and ``trained``.
        windows: the clips of each video.
        spaces: to compare in.
        seed: of the bootstrap over scenarios.
        on_space: called after each space.
        memo: of features of the spaces.
        explain: also compare with the engine's own frames and by kernels.
    """
    memo = memo or Memo()
    count = len(sources.scenarios)
    rows_BS = np.concatenate([np.arange(count)[None], resamples(sources.scenarios, seed, RESAMPLES)])
    models = tuple(sources.models_KSF3hw)
    found: dict[str, dict[str, Distance]] = {stretch: {} for stretch in STRETCHES}
    changes: dict[str, dict[str, list[np.ndarray]]] = {stretch: {} for stretch in STRETCHES}
    for space in spaces:
        sets = projected(_features(sources, windows, space, memo), space.most_dims)
        for stretch in STRETCHES:
            inside = list(windows.inside(stretch))
            cut = [{name: x[:, inside] for name, x in features.items()} for features in sets]
            distance, change_KB = _distance(cut, models, rows_BS, explain)
            found[stretch][space.name] = distance
            changes[stretch].setdefault(space.family, []).append(change_KB)
        on_space()
    change = {
        stretch: {family: crossed_over(np.mean(parts, 0), count) for family, parts in of.items()}
        for stretch, of in changes.items()
    }
    return Distances(found, change)


def _features(sources: Sources, windows: Windows, space: Space, memo: Memo) -> list[dict[str, Tensor]]:
    """For each set of the space: source -> features (V, W, P, D); a model has the videos of all its seeds."""
    videos = {
        ENGINE: sources.engine_SF3hw,
        OTHER: sources.other_SF3hw,
        REACHABLE: sources.reachable_SF3hw,
        **{name: sources.flat(name) for name in sources.models_KSF3hw},
    }
    found = {
        name: memo.of(("space", space.name), v, partial(embedded, space, v, windows))
        for name, v in videos.items()
    }
    return [{name: sets[i] for name, sets in found.items()} for i in range(len(found[ENGINE]))]


@dataclass(frozen=True)
class Axes:
    """Leading principal directions of real features."""

    mean_D: Tensor
    directions_Dd: Tensor


def axes_of(features: Mapping[str, Tensor], most_dims: int) -> Axes:
    """The leading principal directions of the engine's and the reachable videos."""
    real = torch.cat([features[ENGINE], features[REACHABLE]]).flatten(0, 2).double()
    mean = real.mean(0)
    _, vectors = torch.linalg.eigh(torch.cov((real - mean).T).reshape(real.shape[1], -1))
    return Axes(mean, vectors.flip(1)[:, :most_dims])


def on_axes(features_D: Tensor, axes: Axes) -> Tensor:
    """Features (..., D) on the axes, (..., d)."""
    return (features_D.double() - axes.mean_D) @ axes.directions_Dd


def projected(sets: Sequence[Mapping[str, Tensor]], most_dims: int) -> list[dict[str, Tensor]]:
    """Every source's features on the axes of its set; (V, W, P, D')."""
    found = []
    for features in sets:
        axes = axes_of(features, most_dims)
        found.append({name: on_axes(x, axes) for name, x in features.items()})
    return found


def _distance(
    sets: Sequence[Mapping[str, Tensor]], models: Sequence[str], rows_BS: np.ndarray, explain: bool
) -> tuple[Distance, np.ndarray]:
    """The distances of one space, summed over its sets, and their change by seed and resample, (K, B)."""
    sums = [{name: moments_of(x.flatten(1, 2)) for name, x in features.items()} for features in sets]
    scenarios = rows_BS.shape[1]
    known = {
        name: [
            [gaussians_of(of[name].part(k, scenarios), rows_BS) for of in sums]
            for k in range(len(sums[0][name].sum_VD) // scenarios)
        ]
        for name in sums[0]
    }
    to = {name: [root_of(g) for g in known[name][0]] for name in (ENGINE, REACHABLE)}

    def apart(a: str, b: str) -> np.ndarray:
        """Summed over the sets, for every seed of ``a``; (K, B)."""
        return np.array(
            [
                np.sum([apart_from(g, h, r) for g, h, r in zip(of, known[b][0], to[b], strict=True)], 0)
                for of in known[a]
            ]
        )

    floor_B = apart(OTHER, ENGINE)[0]

    def logs(a: str, b: str) -> np.ndarray:
        return log_ratio(apart(a, b), floor_B)

    def ratios(names: Sequence[str], b: str) -> dict[str, Estimate]:
        return {name: crossed_over(logs(name, b), scenarios).exp() for name in names}

    to_truth = {name: logs(name, REACHABLE) for name in models}
    change_KB = to_truth[TRAINED] - to_truth[BASE]
    distance = Distance(
        {name: crossed_over(v, scenarios).exp() for name, v in to_truth.items()},
        crossed_over(change_KB, scenarios),
    )
    if not explain:
        return distance, change_KB
    joined = _joined(sets)
    kernel = {name: 1000 * _kernel(joined[name], joined[REACHABLE], rows_BS) for name in models}
    explained = replace(
        distance,
        ratio=distance.ratio | ratios((ENGINE,), REACHABLE),
        absolute=ratios((*models, REACHABLE), ENGINE),
        kernel={name: float(v[:, 0].mean()) for name, v in kernel.items()},
        kernel_change=crossed_over(kernel[TRAINED] - kernel[BASE], scenarios),
    )
    return explained, change_KB


def _kernel(model_VND: Tensor, truth_SND: Tensor, rows_BS: np.ndarray) -> np.ndarray:
    """Kernel distance of every seed in every resample; (K, B)."""
    parts = model_VND.split(len(truth_SND))
    return np.stack([kernel_distance(part, truth_SND, rows_BS) for part in parts])


def _joined(sets: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Features of all sets side by side, mean over a clip's parts, in units of the largest deviation; (V, W, D).

    One kernel of clips, not one for each pair of patches, which would be quadratic in their number.
    """
    means = [{name: x.mean(2) for name, x in features.items()} for features in sets]
    units = [x[REACHABLE].flatten(0, 1).std(0).max().clamp_min(1e-12) for x in means]
    return {
        name: torch.cat([x[name] / u for x, u in zip(means, units, strict=True)], -1) for name in means[0]
    }


def log_ratio(distance_B: np.ndarray, floor_B: np.ndarray) -> np.ndarray:
    """Logarithm of a distance over the floor; equal sets stay finite."""
    return np.log(np.maximum(distance_B, NEAR_ZERO * floor_B) / floor_B)


def moments_of(features_VND: Tensor) -> Moments:
    """Sums and sums of outer products of every video."""
    outer = features_VND.transpose(1, 2) @ features_VND
    return Moments(features_VND.shape[1], features_VND.sum(1), outer)


@dataclass(frozen=True)
class Gaussians:
    """Mean and covariance of every resample."""

    mean_BD: Tensor
    cov_BDD: Tensor


def gaussians_of(moments: Moments, rows_BV: np.ndarray) -> Gaussians:
    """The Gaussian of the videos of every resample."""
    weights_BV = _weights(rows_BV)
    total = moments.count * weights_BV.sum(1)
    mean = weights_BV @ moments.sum_VD / total[:, None]
    dims = mean.shape[1]
    second = (weights_BV @ moments.outer_VDD.flatten(1)).view(-1, dims, dims) / total[:, None, None]
    return Gaussians(mean, second - mean[:, :, None] * mean[:, None])


def root_of(gaussians: Gaussians) -> Tensor:
    """Symmetric roots of the covariances, (B, D, D)."""
    values, vectors = torch.linalg.eigh(gaussians.cov_BDD)
    return (vectors * values.clamp_min(0).sqrt()[:, None]) @ vectors.transpose(1, 2)


def apart_from(a: Gaussians, b: Gaussians, root_b_BDD: Tensor) -> np.ndarray:
    """Frechet distance of every resample's Gaussians, (B,); ``root_b_BDD`` are the roots of b's covariances.

    ``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_b^(1/2) C_a C_b^(1/2))^(1/2))``, arXiv 1706.08500.
    """
    inner = torch.linalg.eigvalsh(root_b_BDD @ a.cov_BDD @ root_b_BDD).clamp_min(0).sqrt().sum(1)
    traces = (a.cov_BDD + b.cov_BDD).diagonal(dim1=1, dim2=2).sum(1)
    return ((a.mean_BD - b.mean_BD).square().sum(1) + traces - 2 * inner).clamp_min(0).numpy()


def frechet(a: Moments, b: Moments, rows_BV: np.ndarray) -> np.ndarray:
    """Frechet distance of the videos of every resample, (B,); see ``apart_from``."""
    of_b = gaussians_of(b, rows_BV)
    return apart_from(gaussians_of(a, rows_BV), of_b, root_of(of_b))


def _weights(rows_BV: np.ndarray) -> Tensor:
    """How often every video occurs in a resample, (B, V)."""
    rows, ones = torch.from_numpy(rows_BV), torch.ones(rows_BV.shape, dtype=torch.float64)
    return torch.zeros_like(ones).scatter_add_(1, rows, ones)


def kernel_distance(a_VND: Tensor, b_VND: Tensor, rows_BV: np.ndarray) -> np.ndarray:
    """Unbiased squared MMD with the cubic kernel of KID (arXiv 1801.01401), (B,).

    Pairs of clips of one video are left out, as they are not independent.
    """
    weights = _weights(rows_BV)
    between = _pair_means(a_VND, b_VND)
    inside_a, inside_b = _pair_means(a_VND, a_VND), _pair_means(b_VND, b_VND)
    apart = torch.ones_like(between).fill_diagonal_(0)

    def mean(kernel_VV: Tensor) -> Tensor:
        return ((weights @ (kernel_VV * apart)) * weights).sum(1) / ((weights @ apart) * weights).sum(1)

    return (mean(inside_a) + mean(inside_b) - 2 * mean(between)).numpy()


def _pair_means(a_VND: Tensor, b_VND: Tensor) -> Tensor:
    """Mean kernel between the clips of two videos, (V, V)."""
    videos, count, dims = a_VND.shape
    kernel = (a_VND.flatten(0, 1).float() @ b_VND.flatten(0, 1).float().T / dims + 1) ** 3
    return kernel.view(videos, count, len(b_VND), count).mean((1, 3)).double()
