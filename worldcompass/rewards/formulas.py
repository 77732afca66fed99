"""Single formulas of picture quality as separate critics, so that the run sets their weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from worldcompass.rewards.quality import abstention, drift, exposure_drift, sharpness_loss
from worldcompass.types import Group, Scores

Formula = Callable[[Group], Tensor]
"""group -> one number per candidate (G,), higher is better."""


def keeps_sharpness(group: Group) -> Tensor:
    """Minus the mean difference of log sharpness from the first frame, for blur and added grain; at most 0."""
    return sharpness_loss(group.frames_GF3hw, group.first_frame_3hw)


def keeps_colours(group: Group) -> Tensor:
    """Minus the mean difference of colour means and deviations from the first frame; -1 to 0."""
    return drift(group.frames_GF3hw, group.first_frame_3hw)


def keeps_exposure(group: Group) -> Tensor:
    """Minus the mean difference of brightness from the first frame; -1 to 0."""
    return exposure_drift(group.frames_GF3hw, group.first_frame_3hw)


class FormulaCritic:
    """A critic from one formula: one of this module's, ``flicker_of`` of quality.py, or your own."""

    def __init__(self, formula: Formula, name: str | None = None) -> None:
        self.formula, self.name = formula, name or formula.__name__

    def __call__(self, group: Group) -> Scores:
        """Score the candidates; abstains when the chunk shows only the given start image."""
        if (none := abstention(group)) is not None:
            return none
        values = self.formula(group).float().cpu()
        return Scores(values, torch.ones(len(values), dtype=torch.bool))
