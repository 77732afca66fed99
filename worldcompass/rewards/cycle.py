"""Cycle closure: a camera that returns to a pose must see the same view. Needs no labels and no pose network."""

from __future__ import annotations

import torch
from torch import Tensor

from worldcompass.critic import Need
from worldcompass.geometry import LabelThresholds, camera_motion
from worldcompass.rewards.abstain import abstain
from worldcompass.rewards.reference import Likeness, ssim
from worldcompass.types import Group, Scores

CLOSE = 0.5  # in units of a label's thresholds: closer commanded poses count as the same


class CycleClosure:
    """Mean likeness of each view to the earlier view from the same commanded pose.

    A latent counts when its commanded pose is within half a label's threshold of an earlier latent's, and the
    commanded camera left that pose in between by more than the threshold. It is compared with the latest such
    latent. Scores have the range of the likeness (``ssim``: -1 to 1). A frozen video closes every cycle: always
    combine it with a critic of interaction.
    """

    needs: tuple[Need, ...] = ("cameras",)

    def __init__(self, thresholds: LabelThresholds, likeness: Likeness = ssim, name: str = "cycle") -> None:
        self.thresholds, self.likeness, self.name = thresholds, likeness, name

    def __call__(self, group: Group) -> Scores:
        """Score the candidates; abstains when the chunk returns to no pose or past commands are unknown."""
        poses_M44, shown = self._trajectory(group)
        pairs = returns(poses_M44, self.thresholds, len(group.actions))
        if not pairs:
            return abstain(group)
        now, before = (shown[:, list(latents)] for latents in zip(*pairs, strict=True))
        likeness = self.likeness(now.flatten(0, 1), before.flatten(0, 1))
        values = likeness.unflatten(0, now.shape[:2]).mean(1)
        return Scores(values.float().cpu(), torch.ones(len(values), dtype=torch.bool))

    def _trajectory(self, group: Group) -> tuple[Tensor, Tensor]:
        """Commanded poses (M, 4, 4) of all latents up to the chunk's end, and their last frames (G, M, ...)."""
        frames = group.frames_GF3hw
        past = group.past_frames_F3hw.to(frames.device).expand(len(frames), *group.past_frames_F3hw.shape)
        video, poses = torch.cat([past, frames], 1), group.actions.cameras.world_from_camera_K44
        if group.past_actions is not None:
            poses = torch.cat([group.past_actions.cameras.world_from_camera_K44, poses])
        first_end = video.shape[1] - 1 - group.frames_per_latent * (len(poses) - 1)
        return poses.cpu(), video[:, first_end :: group.frames_per_latent]


def returns(poses_M44: Tensor, thresholds: LabelThresholds, last: int) -> list[tuple[int, int]]:
    """Pairs (latent, latest earlier latent at its pose before the camera left) for the ``last`` latents."""
    unit = torch.tensor([thresholds.move, thresholds.move, thresholds.yaw_deg, thresholds.pitch_deg])
    pairs = []
    for now in range(len(poses_M44) - last, len(poses_M44)):
        apart = (camera_motion(poses_M44[now].expand_as(poses_M44), poses_M44) / unit).abs().amax(-1)[:now]
        away = (apart > 1).nonzero().flatten()
        if len(away):
            candidates = (apart[: int(away[-1])] <= CLOSE).nonzero().flatten()
            if len(candidates):
                pairs.append((now, int(candidates[-1])))
    return pairs
