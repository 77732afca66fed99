"""Clips with engine truth, held out from the training of all critics, and groups of their degraded copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from worldcompass.geometry import motion_signs
from worldcompass.types import Actions, CameraMoves, Group, Scenario, Truth

CHUNK = 4  # latents
OTHER_ITEM, NO_ITEM = "other item", "no item"


@dataclass(frozen=True)
class Clip:
    """One chunk of a video, after at least one other chunk; it follows its commands exactly."""

    frames_F3hw: Tensor
    past_F3hw: Tensor
    first_3hw: Tensor
    actions: Actions
    past_actions: Actions
    video: str
    """The source video; clips of one video are not independent samples."""
    chunk: int
    instruction: str = ""
    """What the clip does apart from its commands; empty when there is nothing else."""
    denied: Mapping[str, Clip] = field(default_factory=dict)
    """Lie -> the same chunk of a video that does not follow the instruction."""

    @property
    def name(self) -> str:
        """A unique name."""
        return "/".join([self.video, str(self.chunk), *filter(None, [self.instruction])])

    @property
    def frames_per_latent(self) -> int:
        """Of its world."""
        return len(self.frames_F3hw) // len(self.actions)

    def group(self, candidates: Sequence[Tensor], actions: Actions | None = None) -> Group:
        """Candidates for this chunk's commands, or for other ones, which have no true continuation."""
        own = Truth(self.frames_F3hw, self.actions)
        return Group(
            torch.stack(list(candidates)),
            self.past_F3hw,
            self.first_3hw,
            actions or self.actions,
            self.frames_per_latent,
            truth=own if actions is None else None,
            past_actions=self.past_actions,
            instruction=self.instruction,
        )


def clips_of(scenarios: Sequence[Scenario], videos: Sequence[Tensor]) -> list[Clip]:
    """The second and third chunk of every video, without chunks that have no command."""
    clips = []
    for scenario, video in zip(scenarios, videos, strict=True):
        per_latent = (len(video) - 1) // (len(scenario.actions) - 1)  # the start image is one frame
        for chunk in (1, 2):
            actions = scenario.actions.latents(chunk * CHUNK, (chunk + 1) * CHUNK)
            if not bool(actions.commanded_K.any()):
                continue
            first = per_latent * (chunk * CHUNK - 1) + 1
            frames, before = (
                video[first : first + per_latent * CHUNK],
                scenario.actions.latents(0, chunk * CHUNK),
            )
            clips.append(Clip(frames, video[:first], video[0], actions, before, scenario.id, chunk))
    return clips


def partly_obeyed(clip: Clip, latents: int) -> Tensor:
    """Frames that follow the first ``latents`` commands and then freeze."""
    moving = latents * clip.frames_per_latent
    still = clip.frames_F3hw[moving - 1] if moving else clip.past_F3hw[-1]
    return torch.cat([clip.frames_F3hw[:moving], still.expand(len(clip.frames_F3hw) - moving, -1, -1, -1)])


def signs_of(actions: Actions) -> Tensor:
    """Signs of each latent's command along every axis, float32 (K, A).

    Cameras have right, forward, yaw right and pitch up; controls are in order, of several settings with their mean.
    """
    if isinstance(actions, CameraMoves):
        return motion_signs(actions.labels_K)
    return actions.controls.values_KTA.mean(-2).sign()


def share_obeyed(clip: Clip, latents: int) -> float:
    """True share of commands that ``partly_obeyed`` follows; frozen frames follow the command not to move."""
    followed = (torch.arange(len(clip.actions)) < latents) | ~clip.actions.commanded_K
    return float(followed.float().mean())


def other_clips(clips: Sequence[Clip]) -> list[Clip]:
    """For every clip another one; its commands differ in every latent if there is such a clip."""
    chosen = []
    for index, clip in enumerate(clips):
        own = signs_of(clip.actions)
        order = [clips[(index + step) % len(clips)] for step in range(1, len(clips))]
        differing = [other for other in order if bool((signs_of(other.actions) != own).any(-1).all())]
        chosen.append((differing or order)[0])
    return chosen
