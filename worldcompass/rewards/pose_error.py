"""Distance between the estimated and the commanded camera path, independent of the estimator's scale."""

from __future__ import annotations

import torch
from torch import Tensor

from worldcompass.critic import Need
from worldcompass.geometry import Motion, nominal_poses, pose, relative_pose, rotation_angle, umeyama
from worldcompass.rewards.abstain import LEAST_CONFIDENCE, abstain, mean_over_trusted
from worldcompass.rewards.cameras import CameraEstimator, look
from worldcompass.types import Group, Scores


class PoseError:
    """Minus the mean of rotation and translation error per latent, each in units of one nominal action; at most 0.

    Every segment of ``segment`` latents compares the estimated relative pose with the commanded one. The rotation
    error is the angle between them over the nominal yaw, and the translation error is their distance over the
    nominal move, both divided by the segment's length. First, the estimated path is scaled to the commanded one, so
    that the unit does not matter. The scale is that of Umeyama's alignment (IEEE PAMI 13, 1991), without its
    rotation and shift, as both paths start at the same pose. Therefore a whole chunk that is too slow or too fast
    costs nothing.
    """

    needs: tuple[Need, ...] = ("cameras",)

    def __init__(
        self,
        estimator: CameraEstimator,
        motion: Motion,
        segment: int = 1,
        least_confidence: float = LEAST_CONFIDENCE,
        name: str = "pose_error",
    ) -> None:
        """Measure errors over ``segment`` latents, relative to the world's nominal ``motion``."""
        if segment < 1:
            raise ValueError(f"segment must be at least 1 latent, got {segment}")
        self.estimator, self.motion, self.segment = estimator, motion, segment
        self.least_confidence, self.name = least_confidence, name

    def __call__(self, group: Group) -> Scores:
        """Score the candidates; abstains when too few latents are trusted or the chunk is too short."""
        seen = look(self.estimator, group, self.least_confidence)
        if seen is None or len(seen.labels_S) < self.segment:
            return abstain(group)
        still = torch.zeros(1, dtype=torch.long)
        wanted_S44 = nominal_poses(torch.cat([still, seen.labels_S]), self.motion)
        turn_GS, move_GS = segment_errors(seen.path.world_from_camera_VS44.cpu(), wanted_S44, self.segment)
        trusted_GS = seen.trusted_GS.cpu().unfold(1, self.segment, 1).all(-1)
        parts = turn_GS / self.motion.yaw_deg + move_GS / self.motion.move
        return mean_over_trusted(-parts / (2 * self.segment), trusted_GS)


def segment_errors(seen_GS44: Tensor, wanted_S44: Tensor, latents: int = 1) -> tuple[Tensor, Tensor]:
    """Rotation errors in degrees and translation errors in the commanded path's unit; (G, S + 1 - n) each.

    There is one of each per segment. Estimated paths are scaled to the commanded one; both begin at the identity.

    Args:
        seen_GS44: estimated poses, S + 1 per candidate.
        wanted_S44: commanded poses.
        latents: n, the length of a segment.
    """
    wanted_GS44 = wanted_S44.expand_as(seen_GS44)
    scale_G, _, _ = umeyama(seen_GS44[..., :3, 3], wanted_GS44[..., :3, 3])
    scaled = pose(seen_GS44[..., :3, :3], scale_G[:, None, None] * seen_GS44[..., :3, 3])
    seen = relative_pose(scaled[:, :-latents], scaled[:, latents:])
    wanted = relative_pose(wanted_GS44[:, :-latents], wanted_GS44[:, latents:])
    turn_deg = rotation_angle(relative_pose(wanted, seen)[..., :3, :3])
    return turn_deg, (seen - wanted)[..., :3, 3].norm(dim=-1)
