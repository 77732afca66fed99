"""How far the seen camera path is from the commanded one, whatever the estimator's scale."""

from __future__ import annotations

import torch
from torch import Tensor

from worldcompass.critic import Need
from worldcompass.geometry import Motion, nominal_poses, pose, relative_pose, rotation_angle, umeyama
from worldcompass.rewards.abstain import LEAST_CONFIDENCE, abstain, over_trusted
from worldcompass.rewards.cameras import CameraEstimator, look
from worldcompass.types import Group, Scores


class PoseError:
    """Minus the mean of rotation and translation error per latent, each in units of one nominal action; at most 0.

    For every segment of ``segment`` latents the relative pose that was seen is compared with the commanded one:
    the angle of the rotation between them over the nominal yaw, and the distance of the translations over the
    nominal move, both divided by the segment's length. Before that the seen path is scaled to the
    commanded one (the scale of Umeyama's alignment, IEEE PAMI 13, 1991; rotation and shift are not applied, as both
    paths start at one pose), so that an arbitrary unit does not matter. The price: too slow and too fast
    look alike where the whole chunk is so.
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
        """Errors over ``segment`` latents, relative to the world's nominal ``motion``."""
        if segment < 1:
            raise ValueError(f"segment must be at least 1 latent, got {segment}")
        self.estimator, self.motion, self.segment = estimator, motion, segment
        self.least_confidence, self.name = least_confidence, name

    def __call__(self, group: Group) -> Scores:
        """Score the candidates; abstains where too few latents can be trusted or the chunk is too short."""
        seen = look(self.estimator, group, self.least_confidence)
        if seen is None or len(seen.labels_S) < self.segment:
            return abstain(group)
        still = torch.zeros(1, dtype=torch.long)
        wanted_S44 = nominal_poses(torch.cat([still, seen.labels_S]), self.motion)
        turn_GS, move_GS = segment_errors(seen.path.world_from_camera_VS44.cpu(), wanted_S44, self.segment)
        trusted_GS = seen.trusted_GS.cpu().unfold(1, self.segment, 1).all(-1)
        parts = turn_GS / self.motion.yaw_deg + move_GS / self.motion.move
        return over_trusted(-parts / (2 * self.segment), trusted_GS)


def segment_errors(seen_GS44: Tensor, wanted_S44: Tensor, latents: int = 1) -> tuple[Tensor, Tensor]:
    """Rotation error in degrees and translation error in the wanted path's unit of every segment, (G, S - n) each.

    The seen paths are scaled to the wanted one; both begin at the identity.
    """
    wanted_GS44 = wanted_S44.expand_as(seen_GS44)
    scale_G, _, _ = umeyama(seen_GS44[..., :3, 3], wanted_GS44[..., :3, 3])
    scaled = pose(seen_GS44[..., :3, :3], scale_G[:, None, None] * seen_GS44[..., :3, 3])
    seen = relative_pose(scaled[:, :-latents], scaled[:, latents:])
    wanted = relative_pose(wanted_GS44[:, :-latents], wanted_GS44[:, latents:])
    turn_deg = rotation_angle(relative_pose(wanted, seen)[..., :3, :3])
    return turn_deg, (seen - wanted)[..., :3, 3].norm(dim=-1)
