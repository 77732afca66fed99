"""Likeness to what the engine shows, through the world's own autoencoder, where the two can be compared."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from worldcompass.critic import Need
from worldcompass.media.pixels import gain_limited_vif
from worldcompass.rewards.abstain import abstain
from worldcompass.rewards.alignment import align
from worldcompass.rewards.quality import abstention, colour_statistics, flicker
from worldcompass.rewards.random_features import RandomFeatures
from worldcompass.types import Group, Scores

LEAST_FIT = 0.5  # correlation of gradients at the best shift; below it another view is shown
MOST_DEPTH = 2  # imagined chunks before the one that is compared
FEATURE_WEIGHT = 0.5  # of the feature distance beside the fidelity
EVERY = 2  # frames: every second one is compared, as neighbours tell nearly the same
FEATURES_SEED = 11  # of the random network


class TruthPaired:
    """``VIF - 0.5 d``: gain-limited fidelity to reachable truth, less a distance in random features.

    Both are means over the chunk's frames, each shifted by up to two pixels. Reachable truth is the engine's video
    through the world's autoencoder, so no artefact can exceed it. The critic abstains without it, after more than
    two imagined chunks, where the places differ for good reason, and from candidates that show another view.
    """

    name = "likeness"
    needs: tuple[Need, ...] = ("truth", "reachable")

    def __init__(
        self, least_fit: float = LEAST_FIT, most_depth: int = MOST_DEPTH, name: str = "likeness"
    ) -> None:
        """Abstain below ``least_fit`` and beyond ``most_depth``."""
        self.least_fit, self.most_depth, self.name = least_fit, most_depth, name
        self.features = RandomFeatures(FEATURES_SEED).eval()

    def __call__(self, group: Group) -> Scores:
        """Score the candidates, at most 1; see the class for abstention."""
        true_F3hw = group.reachable()
        if true_F3hw is None or group.depth > self.most_depth:
            return abstain(group)
        values_G, fit_G = self.parts(group.frames_GF3hw, true_F3hw)
        valid_G = fit_G >= self.least_fit
        return Scores(torch.where(valid_G, values_G, 0).float().cpu(), valid_G.cpu())

    def parts(self, frames_GF3hw: Tensor, true_F3hw: Tensor) -> tuple[Tensor, Tensor]:
        """Likeness and fit of every candidate, means over every second frame; (G,), (G,)."""
        start = (len(true_F3hw) - 1) % EVERY  # the last frame always counts
        frames, true = frames_GF3hw[:, start::EVERY], true_F3hw[start::EVERY]
        size = frames.shape[:2]
        pair = align(frames.flatten(0, 1), true)  # frames of all candidates share the truth's statistics
        distance = self.features.to(frames.device).distance(pair.frames_N3hw, pair.references_M3hw)
        values = gain_limited_vif(pair.frames_N3hw, pair.references_M3hw) - FEATURE_WEIGHT * distance
        return values.unflatten(0, size).mean(1), pair.fit_N.unflatten(0, size).mean(1)


Formula = Callable[[Tensor, Tensor], Tensor]
"""(candidates' frames (G, F, 3, h, w), reachable truth (F, 3, h, w)) -> value (G,), higher is better."""


def flicker_distance(frames_GF3hw: Tensor, true_F3hw: Tensor) -> Tensor:
    """Minus the distance of the flicker from the truth's, so that neither more nor less is better; (G,)."""
    return -(flicker(frames_GF3hw) - flicker(true_F3hw)).abs()


def colour_distance(frames_GF3hw: Tensor, true_F3hw: Tensor) -> Tensor:
    """Minus the mean distance of every channel's mean and deviation from the truth's; (G,)."""
    return -(colour_statistics(frames_GF3hw) - colour_statistics(true_F3hw)).abs().mean((-2, -1))


class TwoSided:
    """Weighted distances of a chunk's colour and flicker from reachable truth's; abstains where that is unknown.

    Both are statistics of whole chunks, so they hold at every depth where the commands are followed.
    """

    needs: tuple[Need, ...] = ("truth", "reachable")

    def __init__(self, colour: float = 6.0, flickering: float = 0.0, name: str = "steadiness") -> None:
        """Weigh the distances. Flicker has no weight by default.

        In the embedded world its distance falls while pictures leave the truth (``benchmarks/step_zero.py``).
        """
        self.colour, self.flickering, self.name = colour, flickering, name

    def __call__(self, group: Group) -> Scores:
        """Score the candidates, at most 0."""
        true_F3hw = group.reachable()
        if true_F3hw is None:
            return abstain(group)
        frames = group.frames_GF3hw
        values = self.colour * colour_distance(frames, true_F3hw)
        values = values + self.flickering * flicker_distance(frames, true_F3hw)
        return abstention(group) or Scores(values.float().cpu(), torch.ones(len(values), dtype=torch.bool))
