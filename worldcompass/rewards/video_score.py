"""Critics' scores of a whole video, as a group of one candidate."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from worldcompass.actions import misfit
from worldcompass.critic import Critic, FailedCritic, ask
from worldcompass.errors import UserError
from worldcompass.media.video import fit
from worldcompass.types import Group
from worldcompass.world import WorldSpec


def score_video(
    frames_F3hw: Tensor, composites_M: Tensor, critics: Sequence[Critic], spec: WorldSpec
) -> dict[str, float | None]:
    """Scores by critic of a video that should follow these commands; None for a critic that abstains.

    Args:
        frames_F3hw: uint8, the start image first; cropped and resized to the critics' world.
        composites_M: int64, starting with 0 for the start image.
        critics: to ask.
        spec: of the world that the critics know.

    Raises:
        UserError: when commands and video differ in length, or a critic cannot score them.
    """
    needed = spec.num_frames(0, len(composites_M))
    if len(frames_F3hw) != needed:
        raise UserError(
            f"the path has {len(composites_M) - 1} moves of {spec.frames_per_latent} frames, which makes {needed}"
            f" frames with the start image, but the video has {len(frames_F3hw)}: give the path of this video"
        )
    for critic in critics:
        if why := misfit(critic, spec.actions):
            raise UserError(f"the critic {critic.name} {why}: leave it out")
    frames = fit(frames_F3hw, spec.frame_size)
    actions = spec.actions.commanded(composites_M)
    group = Group(frames[None], frames[:0], frames[0], actions, spec.frames_per_latent)
    return {critic.name: _score_of(critic, group) for critic in critics}


def _score_of(critic: Critic, group: Group) -> float | None:
    try:
        scores = ask(critic, group)
    except FailedCritic as why:
        raise UserError(f"the critic {critic.name} {why}") from why
    return float(scores.values_G[0]) if bool(scores.valid_G[0]) else None
