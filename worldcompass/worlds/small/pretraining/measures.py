"""What a small world reaches on held-out episodes; PSNR in dB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.rollout import imagine_chunk
from worldcompass.seeding import generator_for
from worldcompass.types import Actions, Scenario
from worldcompass.worlds.small.autoencoder import Codec
from worldcompass.worlds.small.data import Shard, load
from worldcompass.worlds.small.pretraining.blueprint import Blueprint
from worldcompass.worlds.small.pretraining.pictures import MEASURED_VIDEOS, to_unit
from worldcompass.worlds.small.world import SmallWorld

MEASURED_CHUNKS = 3  # of a video: two of a true past, one imagined
MOST_TRIES = 1000  # windows looked at for one video in whose last chunk something moves
STARTS, BETWEEN_STARTS = 6, 7  # windows of an episode that are tried, and the latents between their starts


@dataclass(frozen=True)
class Measures:
    """What weights reach."""

    autoencoder_psnr: float
    """Of whole videos, start image included."""
    one_chunk_psnr: float
    """Of one chunk from a true past under true actions, where something moves."""
    last_frame_psnr: float
    """Of repeating the last frame instead."""
    own: Mapping[str, float]
    """The world's own measures of its pictures."""


@torch.no_grad()
def autoencoder_psnr(net: Codec, shards: Sequence[Shard[Any]], latents: int = 8) -> float:
    """Mean PSNR in dB over whole videos of held-out episodes, start image included."""
    net.eval()
    device = net.device
    scores = []
    for index in range(MEASURED_VIDEOS):
        shard = shards[index % len(shards)]
        episode = shard[index % len(shard)].frames_Fhw3
        frames = to_unit(episode[None, : net.config.frames_per_latent * (latents - 1) + 1]).to(device)
        out = net.decode_chunk(net.encode_video(frames), None).clamp(0, 1)
        scores.append(
            -10 * torch.log10((out - frames).square().mean(dim=(2, 3, 4)).clamp_min(1e-8)).mean().item()
        )
    return float(np.mean(scores))


@torch.no_grad()
def one_chunk_psnr(blueprint: Blueprint[Any], world: SmallWorld[Any], data: Path) -> dict[str, float]:
    """PSNR in dB of one chunk from a true past under true actions, against repeating the last frame.

    Held-out episodes; only chunks in which something moves.
    """
    spec, chunk = world.spec, world.spec.chunk_lengths[0]
    frames, actions = _heldout_videos(blueprint, world, data, MEASURED_VIDEOS)
    scenarios = [
        Scenario(str(i), a, image_3hw=f[0]) for i, (f, a) in enumerate(zip(frames, actions, strict=True))
    ]
    context = world.begin(scenarios)
    device = context.last_PCHW.device
    latents = world.encode(torch.stack(frames))
    stacked = Actions.stack(actions).to(device)
    for begin in range(0, (MEASURED_CHUNKS - 1) * chunk, chunk):
        part = stacked.latents(begin, begin + chunk)
        context = world.remember(world.attend(context, part), latents[:, :, begin : begin + chunk], part)
    start, stop = (MEASURED_CHUNKS - 1) * chunk, MEASURED_CHUNKS * chunk
    part = stacked.latents(start, stop)
    attended = world.attend(context, part)
    noise = torch.randn(latents[:, :, :chunk].shape, generator=generator_for("one_chunk_psnr")).to(device)
    clean = imagine_chunk(world, attended, part, lambda step: noise, spec.sigmas())
    out = world.decode(clean, attended).float().cpu()
    shown = torch.stack(frames).float()
    true = shown[:, spec.num_frames(0, start) : spec.num_frames(0, stop)]
    last = shown[:, spec.num_frames(0, start) - 1 : spec.num_frames(0, start)]
    rebuilt = world.decode(latents[:, :, start:stop], attended).float().cpu()
    return {
        "psnr": _psnr(out, true),
        "psnr_of_last_frame": _psnr(last.expand_as(true), true),
        "psnr_of_autoencoder": _psnr(rebuilt, true),
    }


def _psnr(a: Tensor, b: Tensor) -> float:
    error = ((a - b) / 255).square().mean(dim=(-3, -2, -1)).clamp_min(1e-6)
    return float((-10 * torch.log10(error)).mean())


def _heldout_videos(
    blueprint: Blueprint[Any], world: SmallWorld[Any], data: Path, count: int
) -> tuple[list[Tensor], list[Actions]]:
    """Videos of ``MEASURED_CHUNKS`` whose last chunk moves, with what really happened as their actions."""
    layout = blueprint.recordings
    shards, chunk = load(data, "heldout", layout), world.spec.chunk_lengths[0]
    total = MEASURED_CHUNKS * chunk
    frames, actions, tried = [], [], 0
    while len(frames) < count:
        if tried > MOST_TRIES * count:
            raise UserError(
                f"in {data} hardly any held-out video has {chunk} latents in a row with a command: record longer"
                " motions"
            )
        shard = shards[tried % len(shards)]
        episode = shard[(tried // len(shards)) % len(shard)]
        starts = layout.num_latents(episode) - total + 1
        begin = (1 + BETWEEN_STARTS * (tried % STARTS)) % starts
        window = episode.window(begin, begin + total, layout.frames_per_latent)
        tried += 1
        happened = world.starting(blueprint.actions_of(window))
        if not happened.latents(total - chunk, total).commanded_K.all():
            continue
        frames.append(torch.from_numpy(np.array(window.frames_Fhw3)).movedim(-1, -3))
        actions.append(happened)
    return frames, actions
