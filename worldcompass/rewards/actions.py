"""Share of commands that the estimated camera motion follows, with one calibrated threshold."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from worldcompass.critic import Need
from worldcompass.geometry import LabelThresholds, split_label
from worldcompass.rewards.abstain import LEAST_CONFIDENCE, abstain, mean_over_trusted
from worldcompass.rewards.cameras import CameraEstimator, look, seen_labels
from worldcompass.types import Group, Scores

Agreement = Callable[[Tensor, Tensor], Tensor]
"""(seen, commanded labels) -> agreement between 0 and 1, elementwise."""


def exact(seen: Tensor, commanded: Tensor) -> Tensor:
    """1 where all 81 classes agree."""
    return (seen == commanded).float()


def mean_of_both(seen: Tensor, commanded: Tensor) -> Tensor:
    """Half a point for the translation class, half for the rotation class (the paper's fine action reward)."""
    pairs = zip(split_label(seen), split_label(commanded), strict=True)
    return torch.stack([(a == b).float() for a, b in pairs]).mean(0)


class ActionAccuracy:
    """Mean agreement of estimated and commanded actions over the moving latents; between 0 and 1.

    Each world and estimator has one threshold, calibrated in advance (``calibrated_thresholds``) and independent of
    the command. The released reward takes the best of three instead (``BestOfThree``).
    """

    needs: tuple[Need, ...] = ("cameras",)

    def __init__(
        self,
        estimator: CameraEstimator,
        thresholds: LabelThresholds,
        agreement: Agreement = mean_of_both,
        least_confidence: float = LEAST_CONFIDENCE,
        name: str = "actions",
    ) -> None:
        self.estimator, self.thresholds, self.agreement = estimator, thresholds, agreement
        self.least_confidence, self.name = least_confidence, name

    def __call__(self, group: Group) -> Scores:
        """Score the candidates; abstains where fewer than half of the moving latents can be trusted."""
        seen = look(self.estimator, group, self.least_confidence)
        if seen is None:
            return abstain(group)
        agreed_GS = self.agreement(seen_labels(seen, self.thresholds), seen.labels_S)
        return mean_over_trusted(agreed_GS, seen.trusted_GS)
