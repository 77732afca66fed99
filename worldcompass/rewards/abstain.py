"""Abstaining: what critics do with steps and candidates of which they cannot be sure.

An abstention is no score. It enters no mean and no deviation (see ``training.advantages``), the candidate keeps
what the other critics say, and the run counts it (``valid`` of each reward in metrics.jsonl).
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldcompass.types import Group, Scores

LEAST_CONFIDENCE = (
    0.3  # of a step's motion: odometry's share of inliers on engine videos falls below it in 1%
)
NEEDED_SHARE = 0.5  # of the steps that count: with fewer trusted ones a candidate gets no score


def abstain(group: Group) -> Scores:
    """No score for any candidate."""
    size = group.frames_GF3hw.shape[0]
    return Scores(torch.zeros(size), torch.zeros(size, dtype=torch.bool))


def over_trusted(values_GS: Tensor, trusted_GS: Tensor, counts_GS: Tensor | None = None) -> Scores:
    """Mean over the trusted steps; no score for candidates with fewer than half of them, or none that counts.

    Args:
        counts_GS: bool, steps at which there is something to measure; all when None.
    """
    counts_GS = torch.ones_like(trusted_GS) if counts_GS is None else counts_GS.expand_as(trusted_GS)
    used_GS = trusted_GS & counts_GS
    total_G, used_G = counts_GS.sum(1), used_GS.sum(1)
    valid_G = (used_G > 0) & (used_G >= NEEDED_SHARE * total_G)
    mean_G = torch.where(used_GS, values_GS.float(), 0).sum(1) / used_G.clamp_min(1)
    return Scores(torch.where(valid_G, mean_G, 0).cpu(), valid_G.cpu())
