"""Clips with engine truth that no critic was trained on, and groups of one true clip with its degraded copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from worldcompass.types import Actions, Group, Scenario, Truth

CHUNK = 4  # latents
PER_LATENT = 4  # frames
OTHER_ITEM, NO_ITEM = "other item", "no item"


@dataclass(frozen=True)
class Clip:
    """One chunk of a video, after at least one other chunk; its commands were carried out exactly."""

    frames_F3hw: Tensor
    past_F3hw: Tensor
    first_3hw: Tensor
    actions: Actions
    past_actions: Actions
    video: str
    """The video that it was cut from: clips of one video are no independent witnesses."""
    chunk: int
    instruction: str = ""
    """What else it does; empty where there are commands alone."""
    denied: Mapping[str, Clip] = field(default_factory=dict)
    """Lie -> the same chunk of a video that does not carry the instruction out."""

    @property
    def name(self) -> str:
        """Unique."""
        return "/".join([self.video, str(self.chunk), *filter(None, [self.instruction])])

    def group(self, candidates: Sequence[Tensor], actions: Actions | None = None) -> Group:
        """Candidates for this chunk's commands, or for others, whose true continuation is not known."""
        own = Truth(self.frames_F3hw, self.actions)
        return Group(
            torch.stack(list(candidates)), self.past_F3hw, self.first_3hw, actions or self.actions, PER_LATENT,
            truth=own if actions is None else None, past_actions=self.past_actions,
            instruction=self.instruction,
        )  # fmt: skip


def clips_of(scenarios: Sequence[Scenario], videos: Sequence[Tensor]) -> list[Clip]:
    """The second and third chunk of every video, where something is commanded."""
    clips = []
    for scenario, video in zip(scenarios, videos, strict=True):
        for chunk in (1, 2):
            actions = scenario.actions.latents(chunk * CHUNK, (chunk + 1) * CHUNK)
            if not bool(actions.commanded_K.any()):
                continue
            first = PER_LATENT * (chunk * CHUNK - 1) + 1
            frames, before = (
                video[first : first + PER_LATENT * CHUNK],
                scenario.actions.latents(0, chunk * CHUNK),
            )
            clips.append(Clip(frames, video[:first], video[0], actions, before, scenario.id, chunk))
    return clips


def partly_obeyed(clip: Clip, latents: int) -> Tensor:
    """Frames that carry out the first ``latents`` commands and then stand still."""
    moving = latents * PER_LATENT
    still = clip.frames_F3hw[moving - 1] if moving else clip.past_F3hw[-1]
    return torch.cat([clip.frames_F3hw[:moving], still.expand(len(clip.frames_F3hw) - moving, -1, -1, -1)])


def share_obeyed(clip: Clip, latents: int) -> float:
    """True share of commands that ``partly_obeyed`` carries out; standing still obeys the command to stand."""
    labels = clip.actions.cameras.labels_K
    followed = (torch.arange(len(labels)) < latents) | (labels == 0)
    return float(followed.float().mean())


def other_commands(clips: Sequence[Clip]) -> list[Actions]:
    """For every clip the commands of another one that agree with its own in no latent where they can."""
    chosen = []
    for index, clip in enumerate(clips):
        order = [clips[(index + step) % len(clips)].actions for step in range(1, len(clips))]
        differing = [a for a in order if bool((a.cameras.labels_K != clip.actions.cameras.labels_K).all())]
        chosen.append((differing or order)[0])
    return chosen
