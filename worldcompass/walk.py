"""Walking through a world live: one held action after another, as a player or an agent gives them.

A ``Walk`` is frozen: a step returns a new one that shares structure with it, so saving a place is keeping the
object, and rewinding or trying another way is going on from an older one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from worldcompass.geometry import nominal_poses, within_pitch
from worldcompass.rollout import chunk_noise, device_of, given_whole, imagine_chunk, past_generators
from worldcompass.seeding import Key
from worldcompass.types import Actions, Scenario
from worldcompass.world import WorldModel


@dataclass(frozen=True)
class Walk:
    """P walks side by side, each a row of every tensor.

    Equals ``imagine_video`` with the same keys, the scenarios' ids and chunks of ``chunk_length``.
    """

    world: WorldModel[Any]
    context: Any
    """The world's own Context of P pasts, not attended."""
    labels_PM: Tensor
    """int64: what was carried out so far, latent 0 being the start image."""
    intrinsics_P4: Tensor
    row_keys: tuple[tuple[Key, ...], ...]
    sigmas: Tensor
    """The denoising schedule."""
    frames_PF3hw: Tensor
    """uint8: the frames of the last step; after ``start_walk`` the start image alone."""

    @property
    def chunk_length(self) -> int:
        """Latents of one step: 1 where the world was trained for it, else its shortest chunk."""
        return min(self.world.spec.chunk_lengths)

    @property
    def world_from_camera_PM44(self) -> Tensor:
        """Where the commands would have led: the nominal path, (P, M, 4, 4)."""
        return nominal_poses(self.labels_PM, self.world.spec.motion)

    def step(self, labels_P: Tensor) -> Walk:
        """The walks after one more chunk in which each holds its action: ``imagine``, then ``remember``."""
        return self.imagine(labels_P).remember()

    @torch.inference_mode()
    def imagine(self, labels_P: Tensor) -> Imagined:
        """The pictures of one more chunk in which each walk holds its action.

        An action loses its looking up or down where that would leave the pitch the world knows; see
        ``labels_PM`` for what was carried out. Longer chunks begin with the start image the first time.

        Raises:
            ValueError: when the labels are not one composite action (0..80) per walk.
        """
        walks = len(self.row_keys)
        if labels_P.shape != (walks,) or not ((labels_P >= 0) & (labels_P < 81)).all():
            raise ValueError(f"expected {walks} composite actions from 0 to 80, got {labels_P.tolist()}")
        motion, limit = self.world.spec.motion, self.world.spec.max_pitch_deg
        labels = within_pitch(self.labels_PM, labels_P.long().cpu(), motion, limit, self.chunk_length)[
            :, None
        ]
        started = self.context.num_latents > 0
        history = self.labels_PM if started else self.labels_PM[:, :0]
        new = labels.expand(-1, self.chunk_length).clone()
        if not started:
            new[:, 0] = 0
        return self._chunk(torch.cat([history, new], 1))

    def _chunk(self, labels_PM: Tensor) -> Imagined:
        actions, attended = self._attend(labels_PM)
        index = self.context.num_latents // self.chunk_length
        noise = chunk_noise(self.world, self.chunk_length, [(*keys, index) for keys in self.row_keys])
        clean = imagine_chunk(self.world, attended, actions, noise, self.sigmas)
        return Imagined(self, attended, actions, clean, labels_PM, self.world.decode(clean, attended))

    def _attend(self, labels_PM: Tensor) -> tuple[Actions, Any]:
        """The commands of the coming chunk, the last of the labels, and the context attended for it."""
        length = self.chunk_length
        poses = nominal_poses(labels_PM, self.world.spec.motion)[:, -length:]
        intrinsics = self.intrinsics_P4[:, None].expand(-1, length, -1)
        actions = Actions(labels_PM[:, -length:], poses, intrinsics).to(device_of(self.world))
        generators = past_generators(self.row_keys, self.context.num_latents // length)
        return actions, self.world.attend(self.context, actions, generators)


@dataclass(frozen=True)
class Imagined:
    """Walks whose next chunk can be seen and is not yet part of their past, which takes about a tenth of a step."""

    before: Walk
    attended: Any
    """The world's own Context, attended for the chunk."""
    actions: Actions
    clean_PCKHW: Tensor
    labels_PM: Tensor
    """The chunk's included."""
    frames_PF3hw: Tensor
    """uint8: the chunk's frames."""

    @torch.inference_mode()
    def remember(self) -> Walk:
        """The walks after the chunk."""
        context = self.before.world.remember(self.attended, self.clean_PCKHW, self.actions)
        return replace(self.before, context=context, labels_PM=self.labels_PM, frames_PF3hw=self.frames_PF3hw)


@torch.no_grad()
def start_walk(
    world: WorldModel[Any],
    scenarios: Sequence[Scenario],
    seed: int | Sequence[int] = 0,
    num_steps: int | None = None,
) -> Walk:
    """Stand at the end of what the scenarios give: their start images, or whole chunks of a recording.

    Their commands are used for what is given whole, and for nothing else.

    Args:
        seed: noise derives from it, the scenario's id and the index of the chunk; one, or one per walk.
        num_steps: denoising steps of every chunk; the world's default when None. Fewer are faster and blurrier.

    Raises:
        ValueError: for several scenarios in a world that holds one past at a time.
    """
    if len(scenarios) > 1 and not world.spec.batches_pasts:
        raise ValueError(
            f"{world.spec.name} holds one past at a time: start {len(scenarios)} walks one by one"
        )
    image = [s.image_3hw for s in scenarios]
    frames = torch.zeros(len(scenarios), 0, 3, *world.spec.frame_size, dtype=torch.uint8)
    if all(i is not None for i in image):
        frames = torch.stack([i for i in image if i is not None])[:, None]
    seeds = [seed] * len(scenarios) if isinstance(seed, int) else seed
    walk = Walk(
        world,
        world.begin(scenarios),
        torch.zeros(len(scenarios), 1, dtype=torch.long),
        torch.stack([s.actions.intrinsics_K4[0] for s in scenarios]),
        tuple((own, s.id) for own, s in zip(seeds, scenarios, strict=True)),
        world.spec.sigmas(num_steps),
        frames,
    )
    # The start image fills a chunk of 1 by itself; longer chunks wait for the first action.
    if walk.chunk_length == 1:
        walk = walk._chunk(walk.labels_PM).remember()
    return _after_given(walk, scenarios)


def _after_given(walk: Walk, scenarios: Sequence[Scenario]) -> Walk:
    """The walks after every chunk that is given whole, under the scenarios' own commands as far as they go."""
    while True:
        start = walk.context.num_latents
        own = [s.actions.labels_K[start : start + walk.chunk_length] for s in scenarios]
        own_PK = torch.stack([pad(labels, (0, walk.chunk_length - len(labels))) for labels in own])
        labels_PM = torch.cat([walk.labels_PM[:, :start], own_PK], 1)
        if not given_whole(walk._attend(labels_PM)[1]):
            return walk
        walk = walk._chunk(labels_PM).remember()
