"""Comparison with the truth frame by frame, where a model can still be asked for it.

That is so for one chunk after a true past, and for the first chunks of a free rollout. Later a single missed
command moves the camera, and the pictures no longer show the same view. Every frame is first moved by the shift
within 2 pixels that fits best, so that a small error of the camera is not taken for one of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldcompass.judging.place import PlaceNetwork, feature_distance
from worldcompass.judging.sources import BASE, TRAINED, Sources
from worldcompass.media.pixels import gain_limited_vif
from worldcompass.statistics import Crossing, Estimate

FREE_FRAMES = 44  # of a rollout: chunks 0 to 2
EVERY = 4  # frames between compared frames
MOST_SHIFT = 2  # pixels
RESAMPLES = 1000


@dataclass(frozen=True)
class Likeness:
    """Likeness to reachable truth of one kind of frames."""

    information: dict[str, Estimate]
    """Source -> gain-limited VIF in [0, 1], 1 for equal pictures; more contrast than the truth earns nothing."""
    distance: dict[str, Estimate]
    """Source -> distance in features that were learned from real frames by another task."""
    information_change: Estimate
    """Trained minus base; above 0, training came nearer."""
    distance_change: Estimate
    """Trained minus base; below 0, training came nearer."""


def measure_paired(sources: Sources, net: PlaceNetwork, seed: int = 0) -> dict[str, Likeness]:
    """``free``: the first chunks of the rollouts; ``after the truth``: single chunks, if the sources hold them."""
    crossing = Crossing.of(sources.rows, seed, RESAMPLES)
    stop = min(FREE_FRAMES, sources.frames - 1) + 1
    truth = sources.reachable_SF3hw[:, 1:stop:EVERY].repeat(sources.seeds, 1, 1, 1, 1)
    engine = sources.engine_SF3hw[:, 1:stop:EVERY].repeat(sources.seeds, 1, 1, 1, 1)
    videos = {name: sources.flat(name)[:, 1:stop:EVERY] for name in sources.models_KSF3hw}
    found = {"free": _likeness({**videos, "engine": engine}, truth, net, crossing)}
    if sources.steps is not None:
        first = sources.steps.first_frame
        chunks = {name: v.flatten(0, 1) for name, v in sources.steps.models_KST3hw.items()}
        index = slice(first, first + chunks[BASE].shape[1], EVERY)
        truth = sources.reachable_SF3hw[:, index].repeat(sources.seeds, 1, 1, 1, 1)
        engine = sources.engine_SF3hw[:, index].repeat(sources.seeds, 1, 1, 1, 1)
        chunks = {name: v[:, ::EVERY] for name, v in chunks.items()}
        found["after the truth"] = _likeness({**chunks, "engine": engine}, truth, net, crossing)
    return found


def _likeness(
    videos: dict[str, Tensor], truth_VT3hw: Tensor, net: PlaceNetwork, crossing: Crossing
) -> Likeness:
    pairs = {
        name: [aligned(v, y) for v, y in zip(part, truth_VT3hw, strict=True)] for name, part in videos.items()
    }
    information = {
        name: np.array([float(gain_limited_vif(x, y).mean()) for x, y in part])
        for name, part in pairs.items()
    }
    distance = {
        name: np.array([float(feature_distance(net, x, y).mean()) for x, y in part])
        for name, part in pairs.items()
    }

    return Likeness(
        {name: crossing.mean(v) for name, v in information.items()},
        {name: crossing.mean(v) for name, v in distance.items()},
        crossing.mean(information[TRAINED] - information[BASE]),
        crossing.mean(distance[TRAINED] - distance[BASE]),
    )


def aligned(frames_N3hw: Tensor, truth_N3hw: Tensor, most: int = MOST_SHIFT) -> tuple[Tensor, Tensor]:
    """Both without their margin, each frame at the shift of least squared error; float (N, 3, h', w')."""
    height, width = frames_N3hw.shape[-2:]
    x, y = frames_N3hw.float(), truth_N3hw.float()[..., most : height - most, most : width - most]
    shifts = [(down, right) for down in range(2 * most + 1) for right in range(2 * most + 1)]
    shifts.sort(key=lambda s: abs(s[0] - most) + abs(s[1] - most))  # no shift wins a tie
    moved = torch.stack([x[..., d : d + y.shape[-2], r : r + y.shape[-1]] for d, r in shifts])
    best_N = (moved - y).square().mean((-3, -2, -1)).argmin(0)
    return moved[best_N, torch.arange(len(x))], y
