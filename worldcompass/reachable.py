"""What a world makes of real video: true pasts, and reachable truth.

An autoencoder loses detail, so no weights of the network can show the engine's own frames. *Reachable truth* is the
engine's video through the world's ``encode`` and ``decode``: the best picture that a perfect network would give. A
reward whose best score lies beyond it asks for artefacts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from worldcompass.errors import UnfitInputs
from worldcompass.rollout import Past, batches, chunk_actions, past_generators
from worldcompass.seeding import Key
from worldcompass.types import Scenario
from worldcompass.world import Encoder, Reconstructor, WorldModel


@torch.no_grad()
def true_past(
    world: WorldModel[Any],
    scenarios: Sequence[Scenario],
    num_chunks: int,
    chunk_length: int,
    row_keys: Sequence[tuple[Key, ...]],
) -> Past:
    """The engine's own chunks 0 .. num_chunks - 1 as the past, encoded; frames are the engine's.

    Args:
        world: an ``Encoder``; it must batch pasts for more than one scenario.
        scenarios: with the engine's continuation.
        num_chunks: finished chunks of the past.
        chunk_length: latents per chunk.
        row_keys: one tuple per scenario, for worlds that draw in ``attend``.

    Raises:
        UnfitInputs: when the world cannot encode, or a scenario lacks its continuation.
    """
    frames = true_frames(world, scenarios, num_chunks * chunk_length)
    chunks, context = _walk(world, scenarios, frames, num_chunks, chunk_length, row_keys)
    return Past(context, frames, len(scenarios) * len(chunks), true=True)


@torch.no_grad()
def reachable_truth(
    world: WorldModel[Any],
    scenarios: Sequence[Scenario],
    chunk_length: int | None = None,
    num_latents: int | None = None,
) -> Tensor:
    """The engine's videos through the world's autoencoder; uint8 (P, F, 3, h, w) on the CPU.

    Args:
        world: an ``Encoder``.
        scenarios: of one length, with the engine's continuation.
        chunk_length: latents per chunk; the world's default when None.
        num_latents: of each video, whole chunks; all whole chunks of the scenarios when None.

    Raises:
        UnfitInputs: when the world cannot encode, or a scenario lacks its continuation.
    """
    length = chunk_length or world.spec.chunk_lengths[0]
    chunks = (num_latents or len(scenarios[0].actions)) // length
    videos = []
    for batch in batches(world, scenarios):
        frames = true_frames(world, batch, chunks * length)
        if isinstance(world, Reconstructor):
            videos.append(world.reconstruct(frames).cpu())
            continue
        walked, _ = _walk(world, batch, frames, chunks, length, [("reachable", s.id) for s in batch])
        videos.append(torch.cat([world.decode(clean, attended).cpu() for attended, clean in walked], 1))
    return torch.cat(videos)


def with_reachable(
    world: WorldModel[Any], scenarios: Sequence[Scenario], chunk_length: int, num_latents: int
) -> list[Scenario]:
    """The scenarios with reachable truth of their first latents; see ``reachable_truth``."""
    videos = reachable_truth(world, scenarios, chunk_length, num_latents)
    found = []
    for scenario, video in zip(scenarios, videos, strict=True):
        assert scenario.truth is not None
        found.append(replace(scenario, truth=replace(scenario.truth, reachable_F3hw=video)))
    return found


def true_frames(world: WorldModel[Any], scenarios: Sequence[Scenario], num_latents: int) -> Tensor:
    """The engine's frames of the first latents; uint8 (P, F, 3, h, w).

    Raises:
        UnfitInputs: when the world cannot encode, or a scenario lacks its continuation.
    """
    if not isinstance(world, Encoder):
        raise UnfitInputs(
            f"{world.spec.name} has no method encode(frames), which true pasts and reachable truth need: add it"
            " (worldcompass.world.Encoder)"
        )
    count, frames = world.spec.num_frames(0, num_latents), []
    for scenario in scenarios:
        known = 0 if scenario.truth is None else len(scenario.truth.frames_F3hw)
        if scenario.truth is None or known < count:
            raise UnfitInputs(
                f"scenario {scenario.id} has {known} frames of the engine's continuation, {count} are needed:"
                " make scenarios with truth, or ask for fewer latents"
            )
        frames.append(scenario.truth.frames_F3hw[:count])
    return torch.stack(frames)


def _walk(
    world: WorldModel[Any], scenarios: Sequence[Scenario], frames_PF3hw: Tensor, num_chunks: int, length: int,
    row_keys: Sequence[tuple[Key, ...]],
) -> tuple[list[tuple[Any, Tensor]], Any]:  # fmt: skip
    """Each chunk's attended context and encoded latents, and the context after all of them."""
    context, walked = world.begin(scenarios), []
    if num_chunks == 0:
        return walked, context
    assert isinstance(world, Encoder)
    for chunk, clean in enumerate(world.encode(frames_PF3hw).split(length, 2)):
        actions = chunk_actions(world, scenarios, chunk, length)
        attended = world.attend(context, actions, past_generators(row_keys, chunk))
        walked.append((attended, clean))
        context = world.remember(attended, clean, actions)
    return walked, context
