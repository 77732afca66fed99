"""The camera estimator of the embedded world: the motion critic, in the world's length unit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from worldcompass.geometry import pose, rotation_from_angles
from worldcompass.rewards.cameras import CameraPath, steps_of

if TYPE_CHECKING:
    from worldcompass.worlds.doom.critics.motion import MotionCritic


class DoomCameras:
    """Accumulates the motion of every latent, regressed by the embedded motion critic, to a path.

    Lengths are map units. The camera moves level, independent of its pitch. The confidence of a step is the
    product of the probabilities of its most likely translation and rotation.
    """

    name = "doom"

    def __init__(self, critic: MotionCritic | None = None) -> None:
        """Use ``critic``, by default the one with the weights of the package."""
        if critic is None:
            from worldcompass.worlds.doom.critics.weights import load_critics

            critic = load_critics().motion
        self.critic = critic.eval()

    @torch.no_grad()
    def __call__(self, frames_VF3hw: Tensor, intrinsics_4: Tensor, every: int) -> CameraPath:
        """See ``CameraEstimator``.

        Raises:
            ValueError: for steps of another length than one latent of the embedded world.
        """
        from worldcompass.worlds.doom.critics.motion import clips_of, features_of, mirror_features
        from worldcompass.worlds.doom.engine.facts import FRAMES_PER_LATENT, NOMINAL

        if every != FRAMES_PER_LATENT:
            raise ValueError(f"the embedded estimator needs steps of {FRAMES_PER_LATENT} frames, got {every}")
        shape = (len(frames_VF3hw), steps_of(frames_VF3hw, every))
        features = features_of(clips_of(frames_VF3hw).flatten(0, 1)).to(self.critic.heads.weight.device)
        translation, rotation, direct = self.critic(features)
        *_, turned = self.critic(mirror_features(features))
        mirror = torch.tensor([-1.0, 1.0, -1.0, 1.0], device=direct.device)
        motion_VS4 = ((direct + mirror * turned) / 2).float().cpu() * torch.tensor(NOMINAL)
        sure = translation.softmax(-1).amax(-1) * rotation.softmax(-1).amax(-1)
        return CameraPath(
            path_of_level_motion(motion_VS4.unflatten(0, shape)),
            intrinsics_4.cpu().float().expand(shape[0], shape[1] + 1, 4),
            sure.float().cpu().unflatten(0, shape),
        )


def path_of_level_motion(motion_VS4: Tensor) -> Tensor:
    """Poses (V, S + 1, 4, 4) of motions (right, forward, yaw deg, pitch deg) in the yaw frames of their starts."""
    start = torch.zeros_like(motion_VS4[:, :1, 0])
    yaw, pitch = (torch.cat([start, motion_VS4[..., i].cumsum(1)], 1) for i in (2, 3))
    level = rotation_from_angles(yaw, torch.zeros_like(yaw))
    step = torch.stack([motion_VS4[..., 0], torch.zeros_like(motion_VS4[..., 0]), motion_VS4[..., 1]], -1)
    walked = (level[:, :-1] @ step[..., None])[..., 0].cumsum(1)
    position = pad(walked, (0, 0, 1, 0))
    return pose(rotation_from_angles(yaw, pitch), position)
