"""Critics from a score of single frames: its mean over the chunk, and its drift from the video's first frame."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from worldcompass.rewards.quality import abstention
from worldcompass.types import Group, Scores


class FrameScorer(Protocol):
    """Scores single frames."""

    @property
    def name(self) -> str:
        """Name of the scores in the log."""
        ...

    def __call__(self, frames_F3hw: Tensor, caption: str) -> Tensor:
        """Scores of F uint8 frames, higher is better; float32 (F,)."""
        ...


class FrameScore:
    """Mean score of the last frame of every latent."""

    def __init__(self, scorer: FrameScorer, name: str | None = None) -> None:
        self.scorer, self.name = scorer, name or scorer.name

    def __call__(self, group: Group) -> Scores:
        """Score the candidates; abstains when the chunk shows only the given start image."""
        return abstention(group) or _valid(scores_of(self.scorer, group).mean(1))


class ScoreDrift:
    """Minus the mean absolute difference of a frame score from that of the video's first frame; at most 0.

    With HPSv3 and a fixed sentence as the score, this is the paper's drift reward.
    """

    def __init__(self, scorer: FrameScorer, name: str | None = None) -> None:
        self.scorer, self.name = scorer, name or f"{scorer.name}_drift"

    def __call__(self, group: Group) -> Scores:
        """Score the candidates; abstains when the chunk shows only the given start image."""
        if (none := abstention(group)) is not None:
            return none
        first = self.scorer(group.first_frame_3hw[None], group.caption).cpu()
        return _valid(-(scores_of(self.scorer, group) - first).abs().mean(1))


def scores_of(scorer: FrameScorer, group: Group) -> Tensor:
    """Scores of the last frame of every latent, float32 (G, K) on the CPU; all candidates in one call."""
    frames, per_latent = group.frames_GF3hw, group.frames_per_latent
    first_end = frames.shape[1] - 1 - per_latent * (len(group.actions) - 1)
    ends = frames[:, first_end::per_latent]
    return scorer(ends.flatten(0, 1), group.caption).cpu().float().unflatten(0, ends.shape[:2])


def _valid(values_G: Tensor) -> Scores:
    return Scores(values_G, torch.ones(len(values_G), dtype=torch.bool))
