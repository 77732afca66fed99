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
    actions: Actions
    """(P, M): what was carried out so far, latent 0 being the start image."""
    row_keys: tuple[tuple[Key, ...], ...]
    sigmas: Tensor
    """The denoising schedule."""
    frames_PF3hw: Tensor
    """uint8: the frames of the last step; after ``start_walk`` the start image alone."""

    @property
    def chunk_length(self) -> int:
        """Latents of one step: 1 where the world was trained for it, else its shortest chunk."""
        return min(self.world.spec.chunk_lengths)

    def step(self, coming: Actions) -> Walk:
        """The walks after one more chunk in which each holds its action: ``imagine``, then ``remember``."""
        return self.imagine(coming).remember()

    def press(self, keys: str) -> Walk:
        """The walks after a step in which all of them hold the same keys, such as ``w+left``.

        Raises:
            ValueError: for a key that the world does not know.
        """
        composite = self.world.spec.actions.of_words(keys.split("+"))
        return self.step(self.of([composite] * len(self.row_keys)))

    @torch.inference_mode()
    def imagine(self, coming: Actions) -> Imagined:
        """The pictures of one more chunk in which each walk holds its action.

        Args:
            coming: (P, 1), kept within the limits of what the world knows; see ``actions`` for what was carried
                out. Longer chunks begin with the start image the first time.

        Raises:
            ValueError: for actions that the world does not have, or not one for each walk.
        """
        space, walks = self.world.spec.actions, len(self.row_keys)
        space.check(coming)
        if len(coming) != 1 or coming.commanded_K.shape != (walks, 1):
            raise ValueError(
                f"expected one action for each of {walks} walks, got {tuple(coming.commanded_K.shape)}"
            )
        given = (
            0 if self.context.num_latents else 1
        )  # the start image, in a chunk that it does not fill alone
        return self._chunk(space.follow(self.actions, coming.to("cpu"), self.chunk_length - given))

    def of(self, composites_P: Sequence[int]) -> Actions:
        """One composite action for each walk, as ``step`` takes them.

        Raises:
            ValueError: when they are not one of the world's composites for each walk.
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
        """The commands of the coming chunk, the last of all, and the context attended for it."""
        chunk = whole.latents(len(whole) - self.chunk_length, len(whole)).to(device_of(self.world))
        generators = past_generators(self.row_keys, self.context.num_latents // self.chunk_length)
        return chunk, self.world.attend(self.context, chunk, generators)


@dataclass(frozen=True)
class Imagined:
    """Walks whose next chunk can be seen and is not yet part of their past, which takes about a tenth of a step."""

    before: Walk
    attended: Any
    """The world's own Context, attended for the chunk."""
    chunk: Actions
    clean_PCKHW: Tensor
    actions: Actions
    """(P, M): what was carried out from the start, the chunk's included."""
    frames_PF3hw: Tensor
    """uint8: the chunk's frames."""

    @property
    def world(self) -> WorldModel[Any]:
        """Where this is."""
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
    first = Actions.stack([s.actions.latents(0, 1) for s in scenarios]).to("cpu")
    still = world.spec.actions.commanded(torch.zeros(len(scenarios), 1, dtype=torch.long), like=first)
    walk = Walk(
        world,
        world.begin(scenarios),
        still,
        tuple((own, s.id) for own, s in zip(seeds, scenarios, strict=True)),
        world.spec.sigmas(num_steps),
        frames,
    )
    # The start image fills a chunk of 1 by itself; longer chunks wait for the first action.
    if walk.chunk_length == 1:
        walk = walk._chunk(still).remember()
    return _after_given(walk, scenarios)


def _after_given(walk: Walk, scenarios: Sequence[Scenario]) -> Walk:
    """The walks after every chunk that is given whole, under the scenarios' own commands as far as they go."""
    space, rest = walk.world.spec.actions, walk.of([0] * len(scenarios))
    while True:
        start = walk.context.num_latents
        whole = walk.actions.latents(0, max(1, start))  # the start image's latent is there from the beginning
        for latent in range(len(whole), start + walk.chunk_length):
            own = [s.actions.latents(latent, latent + 1).to("cpu") for s in scenarios]
            coming = [action if len(action) else rest.select(row) for row, action in enumerate(own)]
            whole = space.follow(whole, Actions.stack(coming), 1)
        if not given_whole(walk._attend(whole)[1]):
            return walk
        walk = walk._chunk(whole).remember()
