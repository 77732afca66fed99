"""Interactive rollouts: one action after another, from a player or an agent.

A ``Walk`` is frozen: a step returns a new one that shares structure with it. To save a place, keep the object; to
rewind or branch, continue from an older one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from worldcompass.rollout import chunk_noise, device_of, given_whole, imagine_chunk, past_generators
from worldcompass.seeding import Key
from worldcompass.types import Actions, Scenario
from worldcompass.ways import PLAY
from worldcompass.world import WorldModel


@dataclass(frozen=True)
class Walk:
    """P parallel walks, each a row of every tensor.

    Frames equal those of ``imagine_video`` with the same keys, scenario ids and ``chunk_length``.
    """

    world: WorldModel[Any]
    context: Any
    """The world's own Context of P pasts, not attended."""
    actions: Actions
    """(P, M): actions so far, with the start image as latent 0."""
    row_keys: tuple[tuple[Key, ...], ...]
    sigmas: Tensor
    """The denoising schedule."""
    frames_PF3hw: Tensor
    """uint8: frames of the last step; after ``start_walk`` only the start image."""

    @property
    def chunk_length(self) -> int:
        """Latents of one step, as the world declares them for its way ``play``."""
        return self.world.spec.ways[PLAY].chunk_length

    def step(self, coming: Actions) -> Walk:
        """The walks after one more chunk, in which each holds its action: ``imagine``, then ``remember``."""
        return self.imagine(coming).remember()

    def press(self, keys: str) -> Walk:
        """The walks after a step in which all hold the same keys, such as ``w+left``.

        Raises:
            ValueError: for an unknown key.
        """
        composite = self.world.spec.actions.of_words(keys.split("+"))
        return self.step(self.of([composite] * len(self.row_keys)))

    @torch.inference_mode()
    def imagine(self, coming: Actions) -> Imagined:
        """Imagine one more chunk, in which each walk holds its action.

        Args:
            coming: (P, 1), which is kept within the world's limits; ``actions`` of the result holds the actual
                ones. The first chunk starts with the start image if it is longer than one latent.

        Raises:
            ValueError: for actions outside the world's space, or not one per walk.
        """
        space, walks = self.world.spec.actions, len(self.row_keys)
        space.check(coming)
        if len(coming) != 1 or coming.commanded_K.shape != (walks, 1):
            raise ValueError(
                f"expected one action for each of {walks} walks, got {tuple(coming.commanded_K.shape)}"
            )
        # The start image takes one latent of a first chunk that is longer.
        given = 0 if self.context.num_latents else 1
        return self._chunk(space.follow(self.actions, coming.to("cpu"), self.chunk_length - given))

    def of(self, composites_P: Sequence[int]) -> Actions:
        """Actions for ``step`` from one composite per walk.

        Raises:
            ValueError: when they are not one composite of the world per walk.
        """
        space, walks = self.world.spec.actions, len(self.row_keys)
        if len(composites_P) != walks or not all(0 <= c < space.num_composites for c in composites_P):
            raise ValueError(
                f"expected {walks} composite actions from 0 to {space.num_composites - 1}, got {[*composites_P]}"
            )
        return space.commanded(torch.tensor(composites_P)[:, None], like=self.actions)

    def _chunk(self, whole: Actions) -> Imagined:
        chunk, attended = self._attend(whole)
        index = self.context.num_latents // self.chunk_length
        noise = chunk_noise(self.world, self.chunk_length, [(*keys, index) for keys in self.row_keys])
        clean = imagine_chunk(self.world, attended, chunk, noise, self.sigmas)
        return Imagined(self, attended, chunk, clean, whole, self.world.decode(clean, attended))

    def _attend(self, whole: Actions) -> tuple[Actions, Any]:
        """The commands of the last chunk in ``whole``, and the context attended for it."""
        chunk = whole.latents(len(whole) - self.chunk_length, len(whole)).to(device_of(self.world))
        generators = past_generators(self.row_keys, self.context.num_latents // self.chunk_length)
        return chunk, self.world.attend(self.context, chunk, generators)


@dataclass(frozen=True)
class Imagined:
    """Walks with imagined frames that are not yet remembered, which takes about a tenth of a step."""

    before: Walk
    attended: Any
    """The world's own Context, attended for the chunk."""
    chunk: Actions
    clean_PCKHW: Tensor
    actions: Actions
    """(P, M): actions from the start, those of the chunk included."""
    frames_PF3hw: Tensor
    """uint8: the chunk's frames."""

    @property
    def world(self) -> WorldModel[Any]:
        """The world of the walks."""
        return self.before.world

    @torch.inference_mode()
    def remember(self) -> Walk:
        """The walks after the chunk."""
        context = self.before.world.remember(self.attended, self.clean_PCKHW, self.chunk)
        return replace(self.before, context=context, actions=self.actions, frames_PF3hw=self.frames_PF3hw)


@torch.no_grad()
def start_walk(
    world: WorldModel[Any],
    scenarios: Sequence[Scenario],
    seed: int | Sequence[int] = 0,
    num_steps: int | None = None,
) -> Walk:
    """Start walks after the scenarios' start images, or after whole chunks of a recording.

    The scenarios' commands are used only for chunks that are given whole.

    Args:
        seed: one, or one per walk. Noise derives from it, the scenario's id and the index of the chunk.
        num_steps: denoising steps of every chunk; those of the world's way ``play`` when None. Others are
            neither trained nor measured.

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
    first = Actions.stack([s.actions.latents(0, 1) for s in scenarios]).to("cpu")
    still = world.spec.actions.commanded(torch.zeros(len(scenarios), 1, dtype=torch.long), like=first)
    walk = Walk(
        world,
        world.begin(scenarios),
        still,
        tuple((own, s.id) for own, s in zip(seeds, scenarios, strict=True)),
        world.spec.sigmas(num_steps or world.spec.ways[PLAY].num_steps),
        frames,
    )
    # The start image fills a chunk of one latent; longer chunks need the first action.
    if walk.chunk_length == 1:
        walk = walk._chunk(still).remember()
    return _after_given(walk, scenarios)


def _after_given(walk: Walk, scenarios: Sequence[Scenario]) -> Walk:
    """The walks after every chunk that is given whole, with the scenarios' commands and rest beyond their end."""
    space, rest = walk.world.spec.actions, walk.of([0] * len(scenarios))
    while True:
        start = walk.context.num_latents
        whole = walk.actions.latents(0, max(1, start))  # the latent of the start image always exists
        for latent in range(len(whole), start + walk.chunk_length):
            own = [s.actions.latents(latent, latent + 1).to("cpu") for s in scenarios]
            coming = [action if len(action) else rest.select(row) for row, action in enumerate(own)]
            whole = space.follow(whole, Actions.stack(coming), 1)
        if not given_whole(walk._attend(whole)[1]):
            return walk
        walk = walk._chunk(whole).remember()
