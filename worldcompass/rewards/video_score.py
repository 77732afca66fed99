"""Critics' scores of a whole video, as a group of one candidate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from worldcompass.actions import misfit
from worldcompass.critic import Critic, FailedCritic, ask
from worldcompass.errors import UserError
from worldcompass.media.video import fit, read_video
from worldcompass.types import Actions, Group
from worldcompass.world import WorldSpec


def score_video(
    frames_F3hw: Tensor, actions: Actions, critics: Sequence[Critic], spec: WorldSpec
) -> dict[str, float | None]:
    """Scores by critic of a video that should follow these commands; None for a critic that abstains.

    Args:
        frames_F3hw: uint8, the start image first; cropped and resized to the critics' world.
        actions: the commands, one trajectory of M latents.
        critics: to ask.
        spec: of the world that the critics know.

    Raises:
        UserError: when commands and video differ in length, or a critic cannot score them.
    """
    if len(frames_F3hw) != spec.num_frames(0, len(actions)):
        raise _wrong_length(str(len(frames_F3hw)), len(actions), spec)
    for critic in critics:
        if why := misfit(critic, spec.actions):
            raise UserError(f"the critic {critic.name} {why}: leave it out")
    frames = fit(frames_F3hw, spec.frame_size)
    group = Group(frames[None], frames[:0], frames[0], actions, spec.frames_per_latent)
    return {critic.name: _score_of(critic, group) for critic in critics}


def read_for(
    source: Path | bytes, composites_M: Tensor, spec: WorldSpec, max_pixels: int | None = None
) -> Tensor:
    """The frames of a video file in the size of ``spec``, uint8; one frame after the needed ones ends the reading.

    Args:
        source: a file, or its content.
        composites_M: the commands.
        spec: of the world.
        max_pixels: see ``read_video``.

    Raises:
        UserError: when it is no video, or longer than the commands.
    """
    needed = spec.num_frames(0, len(composites_M))
    frames = read_video(source, needed + 1, max_pixels, spec.frame_size)
    if len(frames) > needed:
        raise _wrong_length("more", len(composites_M), spec)
    return frames


def _wrong_length(got: str, latents: int, spec: WorldSpec) -> UserError:
    return UserError(
        f"the path has {latents - 1} moves of {spec.frames_per_latent} frames, which makes"
        f" {spec.num_frames(0, latents)} frames with the start image, but the video has {got}: give the"
        " path of this video"
    )


def _score_of(critic: Critic, group: Group) -> float | None:
    try:
        scores = ask(critic, group)
    except FailedCritic as why:
        raise UserError(f"the critic {critic.name} {why}") from why
    return float(scores.values_G[0]) if bool(scores.valid_G[0]) else None
