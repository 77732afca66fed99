"""Clips with engine truth that no critic was trained on, and groups of one true clip with its degraded copies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from worldcompass.types import Actions, Group, Scenario, Truth

if TYPE_CHECKING:
    from worldcompass.worlds.doom.engine.pickup_scenes import Played

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
        own = Truth(self.frames_F3hw, self.actions.labels_K, self.actions.world_from_camera_K44)
        return Group(
            torch.stack(list(candidates)), self.past_F3hw, self.first_3hw, actions or self.actions, PER_LATENT,
            truth=own if actions is None else None, past_actions=self.past_actions,
            instruction=self.instruction,
        )  # fmt: skip


def engine_clips(
    seed: int, per_map: int, on_scenario: Callable[[], None] = lambda: None, out_and_back: bool = False
) -> tuple[list[Scenario], list[Clip]]:
    """Clips on the maps that nothing was trained on, from starts that only audits use.

    With ``out_and_back`` every motion is followed by the one that undoes it.
    """
    from worldcompass.worlds.doom.engine.maps import UNSEEN
    from worldcompass.worlds.doom.engine.scenarios import draw_all

    drawn = draw_all(UNSEEN, ("mixed",), per_map, 3 * CHUNK, seed, "audit", on_scenario, out_and_back)
    scenarios = [scenario for _, scenario in drawn]
    return scenarios, clips_of(scenarios, [s.truth.frames_F3hw for s in scenarios if s.truth is not None])


def pickup_clips(seed: int, per_map: int, on_scene: Callable[[], None] = lambda: None) -> list[Clip]:
    """Chunks in which an item is taken, on the maps that nothing was trained on, asked for that item.

    Their lies are the same walk where the other item is taken, and where both are passed by. What is taken before
    the second chunk is left out.
    """
    from worldcompass.worlds.doom.engine.maps import UNSEEN
    from worldcompass.worlds.doom.engine.pickup_scenes import draw_scenes

    return [
        clip
        for played in draw_scenes(UNSEEN, per_map, seed, "pickups/audit", on_scene)
        for word in played.scene.words
        for clip in _of_scene(played, word)
    ]


def _of_scene(played: Played, word: str) -> list[Clip]:
    """The chunk in which a scene's item is taken, or none."""
    scene, group = played.scene, played.group(word)
    outcomes = {taken and taken[0]: layout for layout, taken in enumerate(scene.taken)}
    (other,) = (w for w in scene.words if w != word)
    (latent,) = (taken[1] for taken in scene.taken if taken is not None and taken[0] == word)
    chunk = latent // CHUNK
    if not chunk:
        return []
    first = PER_LATENT * (chunk * CHUNK - 1) + 1
    actions, before = (
        group.actions.latents(chunk * CHUNK, (chunk + 1) * CHUNK), group.actions.latents(0, chunk * CHUNK)
    )  # fmt: skip
    made = {
        name: Clip(
            video[first : first + PER_LATENT * CHUNK], video[:first], video[0], actions, before, scene.id,
            chunk, group.instruction,
        )
        for name, video in ((name, played.frames_GF3hw[outcomes[name]]) for name in (word, other, None))
    }  # fmt: skip
    return [replace(made[word], denied={OTHER_ITEM: made[other], NO_ITEM: made[None]})]


def clips_of(scenarios: Sequence[Scenario], videos: Sequence[Tensor]) -> list[Clip]:
    """The second and third chunk of every video, where something is commanded."""
    clips = []
    for scenario, video in zip(scenarios, videos, strict=True):
        for chunk in (1, 2):
            actions = scenario.actions.latents(chunk * CHUNK, (chunk + 1) * CHUNK)
            if not bool((actions.labels_K != 0).any()):
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
    labels = clip.actions.labels_K
    followed = (torch.arange(len(labels)) < latents) | (labels == 0)
    return float(followed.float().mean())


def other_commands(clips: Sequence[Clip]) -> list[Actions]:
    """For every clip the commands of another one that agree with its own in no latent where they can."""
    chosen = []
    for index, clip in enumerate(clips):
        order = [clips[(index + step) % len(clips)].actions for step in range(1, len(clips))]
        differing = [a for a in order if bool((a.labels_K != clip.actions.labels_K).all())]
        chosen.append((differing or order)[0])
    return chosen
