"""Agreement of the direction of motion with the commanded direction."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from worldcompass.critic import Need
from worldcompass.geometry import LabelThresholds, motion_signs
from worldcompass.rewards.abstain import LEAST_CONFIDENCE, abstain, mean_over_trusted
from worldcompass.rewards.cameras import CameraEstimator, look
from worldcompass.types import Group, Scores


class DirectionPurity:
    """Mean cosine between the estimated and the commanded direction; between -1 (the opposite) and 1.

    A latent's translation (right, forward) counts when one is commanded, and so does its turn (yaw, pitch in units
    of their thresholds). Lengths do not matter, so the estimator's scale does not either. Latents without a command
    are ignored here; ``ActionAccuracy`` scores them. Motion below the thresholds has no direction and counts 0.
    """

    needs: tuple[Need, ...] = ("cameras",)

    def __init__(
        self,
        estimator: CameraEstimator,
        thresholds: LabelThresholds,
        least_confidence: float = LEAST_CONFIDENCE,
        name: str = "purity",
    ) -> None:
        self.estimator, self.thresholds = estimator, thresholds
        self.least_confidence, self.name = least_confidence, name

    def __call__(self, group: Group) -> Scores:
        """Score the candidates; abstains when nothing is commanded or too few latents are trusted."""
        seen = look(self.estimator, group, self.least_confidence)
        if seen is None:
            return abstain(group)
        limits = self.thresholds
        unit_4 = torch.tensor([limits.move, limits.move, limits.yaw_deg, limits.pitch_deg])
        motion_GS4 = seen.motion_GS4.cpu() / unit_4
        wanted_S4 = motion_signs(seen.labels_S)
        cosines_GS2 = torch.stack([_cosine(motion_GS4, wanted_S4, part) for part in (0, 2)], -1)
        commanded_S2 = wanted_S4.unflatten(-1, (2, 2)).any(-1)
        values_GS = (cosines_GS2 * commanded_S2).sum(-1) / commanded_S2.sum(-1).clamp_min(1)
        return mean_over_trusted(values_GS, seen.trusted_GS.cpu(), commanded_S2.any(-1))


def _cosine(motion_GS4: Tensor, wanted_S4: Tensor, first: int) -> Tensor:
    """Cosine of the two components from ``first`` on; 0 for motion within the threshold."""
    motion, wanted = motion_GS4[..., first : first + 2], wanted_S4[:, first : first + 2]
    moving = motion.norm(dim=-1) > 1
    return torch.where(moving, cosine_similarity(motion, wanted.expand_as(motion), dim=-1), 0.0)
