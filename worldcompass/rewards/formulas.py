"""One formula of picture quality as a critic of its own, to be weighed by the run instead of inside of a sum."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from worldcompass.rewards.quality import abstention, drift, exposure_drift, sharpness_loss
from worldcompass.types import Group, Scores

Formula = Callable[[Group], Tensor]
"""group -> one number per candidate (G,), higher is better."""


def keeps_sharpness(group: Group) -> Tensor:
    """Minus the mean difference of log sharpness to the first frame: blur and invented grain alike; at most 0."""
    return sharpness_loss(group.frames_GF3hw, group.first_frame_3hw)


def keeps_colours(group: Group) -> Tensor:
    """Minus the mean difference of colour means and deviations to the first frame; at most 0, at least -1."""
    return drift(group.frames_GF3hw, group.first_frame_3hw)


def keeps_exposure(group: Group) -> Tensor:
    """Minus the mean difference of brightness to the first frame; at most 0, at least -1."""
    return exposure_drift(group.frames_GF3hw, group.first_frame_3hw)


class FormulaCritic:
    """``keeps_sharpness``, ``keeps_colours``, ``keeps_exposure``, ``flicker_of`` of quality.py, or your own."""

    def __init__(self, formula: Formula, name: str | None = None) -> None:
        self.formula, self.name = formula, name or formula.__name__

    def __call__(self, group: Group) -> Scores:
        """Score the candidates; abstains where the chunk shows nothing but the given start image."""
        if (none := abstention(group)) is not None:
            return none
        values = self.formula(group).float().cpu()
        return Scores(values, torch.ones(len(values), dtype=torch.bool))
