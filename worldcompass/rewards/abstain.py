"""Abstention: how critics treat steps and candidates that they cannot score reliably.

An abstention is not a score. It enters no mean and no deviation (see ``training.advantages``). The candidate keeps
the scores of the other critics, and the run logs the share of valid scores (``valid`` of each reward in
metrics.jsonl).
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldcompass.types import Group, Scores

# Of a step's motion. On engine videos, odometry's share of inliers is lower in only 1% of steps.
LEAST_CONFIDENCE = 0.3
NEEDED_SHARE = 0.5  # share of the relevant steps that must be trusted for a candidate to get a score


def abstain(group: Group) -> Scores:
    """No score for any candidate."""
    size = group.frames_GF3hw.shape[0]
    return Scores(torch.zeros(size), torch.zeros(size, dtype=torch.bool))


def mean_over_trusted(values_GS: Tensor, trusted_GS: Tensor, counts_GS: Tensor | None = None) -> Scores:
    """Mean over the trusted relevant steps; abstains where fewer than half of the relevant steps are trusted.

    Args:
        values_GS: value of each step.
        trusted_GS: bool, steps whose measurement is reliable.
        counts_GS: bool, relevant steps, where there is something to measure; all when None.
    """
    counts_GS = torch.ones_like(trusted_GS) if counts_GS is None else counts_GS.expand_as(trusted_GS)
    used_GS = trusted_GS & counts_GS
    total_G, used_G = counts_GS.sum(1), used_GS.sum(1)
    valid_G = (used_G > 0) & (used_G >= NEEDED_SHARE * total_G)
    mean_G = torch.where(used_GS, values_GS.float(), 0).sum(1) / used_G.clamp_min(1)
    return Scores(torch.where(valid_G, mean_G, 0).cpu(), valid_G.cpu())
