"""Distances between sets of videos: Frechet and kernel distances in several spaces.

``ratio = FD(model, reachable) / FD(other, engine)``: at 1, a model lies as far from what it could show as real
episodes lie from each other. One space alone can misrank pictures (arXiv 2604.28190), so there are several, and the
verdict averages logarithms. All sets have the same number of clips, as the Frechet distance depends on it
(arXiv 1911.07023); the kernel distance does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldcompass.judging.sources import BASE, TRAINED, Sources, Windows
from worldcompass.judging.spaces import Space, embedded
from worldcompass.statistics import Estimate, bootstrap, resamples

RESAMPLES = 300
NEAR_ZERO = 0.02  # of the floor: equal sets have a finite logarithm
BLOCK = 4096  # moments at once
SHRINK = 1e-3  # of the largest variance, added before scaling


@dataclass(frozen=True)
class Distance:
    """One space."""

    ratio: dict[str, Estimate]
    """Source -> ``exp`` of the mean log ratio of its sets; the sources are the models and ``engine``."""
    absolute: dict[str, Estimate]
    """The same against the engine's own frames; ``reachable`` is what a perfect network would get."""
    kernel: dict[str, float]
    """Source -> unbiased polynomial kernel distance, times 1000."""
    change: Estimate
    """Log ratio of the trained model minus that of the base: below 0, training came nearer."""
    kernel_change: Estimate
    """Kernel distance of the trained model minus that of the base, times 1000."""


@dataclass(frozen=True)
class Moments:
    """Sums over the clips of every video, from which moments of any resample follow."""

    count: int
    """Rows of a video."""
    sum_VD: Tensor
    outer_VDD: Tensor


def measure_distances(
    sources: Sources,
    windows: Windows,
    spaces: Sequence[Space],
    seed: int = 0,
    on_space: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Distance], Estimate]:
    """Compare the models with reachable truth in every space.

    Args:
        sources: with the models ``base`` and ``trained``.
        windows: the clips of each video.
        spaces: to compare in.
        seed: of the bootstrap over scenarios and seeds.
        on_space: called after each space.

    Returns:
        Space -> distance, and the mean over the spaces of ``Distance.change``.
    """
    rows = resamples(sources.rows, seed, RESAMPLES)
    rows_BV = np.concatenate([np.arange(len(sources.rows))[None], rows])
    found, changes = {}, []
    for space in spaces:
        distance, change_B = _in_space(sources, windows, space, rows_BV)
        found[space.name] = distance
        changes.append(change_B)
        on_space()
    change_B = np.mean(changes, 0)
    return found, bootstrap(change_B[1:], change_B[0], len(sources.rows))


def _in_space(
    sources: Sources, windows: Windows, space: Space, rows_BV: np.ndarray
) -> tuple[Distance, np.ndarray]:
    real = {
        "engine": sources.engine_SF3hw,
        "other": sources.other_SF3hw,
        "reachable": sources.reachable_SF3hw,
    }
    sets = {name: embedded(space, videos, windows) for name, videos in real.items()}
    sets = {name: [part.repeat(sources.seeds, 1, 1) for part in parts] for name, parts in sets.items()}
    sets |= {name: embedded(space, sources.flat(name), windows) for name in sources.models_KSF3hw}
    logs: dict[str, list[np.ndarray]] = {}
    absolute: dict[str, list[np.ndarray]] = {}
    kernels: dict[str, list[np.ndarray]] = {}
    for number in range(len(sets["engine"])):
        scaled = whitened({name: parts[number] for name, parts in sets.items()}, space.most_dims)
        moments = {name: moments_of(features) for name, features in scaled.items()}
        floor_B = frechet(moments["other"], moments["engine"], rows_BV)
        for name in (*sources.models_KSF3hw, "engine"):
            logs.setdefault(name, []).append(
                log_ratio(frechet(moments[name], moments["reachable"], rows_BV), floor_B)
            )
        for name in (*sources.models_KSF3hw, "reachable"):
            absolute.setdefault(name, []).append(
                log_ratio(frechet(moments[name], moments["engine"], rows_BV), floor_B)
            )
        for name in sources.models_KSF3hw:
            kernels.setdefault(name, []).append(
                1000 * kernel_distance(scaled[name], scaled["reachable"], rows_BV)
            )
    mean = {name: np.mean(parts, 0) for name, parts in logs.items()}
    mean_absolute = {name: np.mean(parts, 0) for name, parts in absolute.items()}
    kernel = {name: np.mean(parts, 0) for name, parts in kernels.items()}
    change_B, kernel_B = mean[TRAINED] - mean[BASE], kernel[TRAINED] - kernel[BASE]
    count = rows_BV.shape[1]
    distance = Distance(
        {name: _exp(v, count) for name, v in mean.items()},
        {name: _exp(v, count) for name, v in mean_absolute.items()},
        {name: float(v[0]) for name, v in kernel.items()},
        bootstrap(change_B[1:], change_B[0], count),
        bootstrap(kernel_B[1:], kernel_B[0], count),
    )
    return distance, change_B


def _exp(logs_B: np.ndarray, count: int) -> Estimate:
    return bootstrap(np.exp(logs_B[1:]), math.exp(logs_B[0]), count)


def log_ratio(distance_B: np.ndarray, floor_B: np.ndarray) -> np.ndarray:
    """Logarithm of a distance over the floor; equal sets stay finite."""
    return np.log(np.maximum(distance_B, NEAR_ZERO * floor_B) / floor_B)


def whitened(features: dict[str, Tensor], most_dims: int) -> dict[str, Tensor]:
    """Project on the engine's principal directions and scale each to its deviation there; (V, N, D').

    Without the scaling a few directions of large variance, such as brightness, would decide alone.
    """
    engine = features["engine"].flatten(0, 1).double()
    mean = engine.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov((engine - mean).T).reshape(engine.shape[1], -1))
    values, vectors = values.flip(0)[:most_dims], vectors.flip(1)[:, :most_dims]
    scale = (values + SHRINK * values[0]).clamp_min(1e-12).rsqrt()
    return {name: ((x.double() - mean) @ (vectors * scale)) for name, x in features.items()}


def moments_of(features_VND: Tensor) -> Moments:
    """Sums and sums of outer products of every video."""
    outer = features_VND.transpose(1, 2) @ features_VND
    return Moments(features_VND.shape[1], features_VND.sum(1), outer)


def frechet(a: Moments, b: Moments, rows_BV: np.ndarray) -> np.ndarray:
    """Frechet distance of Gaussians in every resample of videos, (B,).

    ``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^(1/2) C_b C_a^(1/2))^(1/2))``, arXiv 1706.08500.
    """
    weights_BV = _weights(rows_BV)
    mean_a, cov_a = _gaussian(a, weights_BV)
    mean_b, cov_b = _gaussian(b, weights_BV)
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp_min(0).sqrt()[:, None]) @ vectors.transpose(1, 2)
    inner = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum(1)
    traces = cov_a.diagonal(dim1=1, dim2=2).sum(1) + cov_b.diagonal(dim1=1, dim2=2).sum(1)
    return ((mean_a - mean_b).square().sum(1) + traces - 2 * inner).clamp_min(0).numpy()


def _gaussian(moments: Moments, weights_BV: Tensor) -> tuple[Tensor, Tensor]:
    total = moments.count * weights_BV.sum(1)
    mean = weights_BV @ moments.sum_VD / total[:, None]
    dims = mean.shape[1]
    second = (weights_BV @ moments.outer_VDD.flatten(1)).view(-1, dims, dims) / total[:, None, None]
    return mean, second - mean[:, :, None] * mean[:, None]


def _weights(rows_BV: np.ndarray) -> Tensor:
    """How often every video occurs in a resample, (B, V)."""
    return torch.stack(
        [torch.bincount(torch.from_numpy(row), minlength=rows_BV.shape[1]) for row in rows_BV]
    ).double()


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
