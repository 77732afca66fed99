"""The stage in which an autoencoder learns the frames between two pictures, and what it reaches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldcompass.worlds.small.autoencoder import Codec
from worldcompass.worlds.small.data import Episode, Shard
from worldcompass.worlds.small.pretraining.pictures import MEASURED_VIDEOS, Pictures, error_of, to_unit


def frames_up_to(episode: Episode, latent: int, frames_per_latent: int) -> tuple[np.ndarray, ...]:
    """The frames (n + 1, h, w, 3) from the end of the latent before to a latent's own; of latent 0, the next one's.

    A ``truth_of`` of ``between_loss``.
    """
    end = frames_per_latent * max(1, latent)
    return (np.asarray(episode.frames_Fhw3[end - frames_per_latent : end + 1]),)


def between_loss(net: Codec, pictures: Pictures, generator: torch.Generator) -> Tensor:
    """Error of the frames between two encoded pictures; the pictures' code stays as it is."""
    frames_BFhw3 = pictures.truth[0]
    frames = frames_BFhw3.movedim(-1, -3).float() / 255
    return error_of(frames_between(net, frames), frames[:, 1:-1])


def frames_between(net: Codec, frames_BF3hw: Tensor) -> Tensor:
    """The frames (B, n - 1, 3, h, w) between the first and the last of frames, both through the code."""
    with torch.no_grad():
        ends = frames_BF3hw[:, [0, -1]]
        looks = net.look(net.encode(ends.flatten(0, 1))).unflatten(ends.shape[:2])
    return net.between(looks)[:, 0]


@torch.no_grad()
def between_psnr(net: Codec, shards: Sequence[Shard[Any]]) -> dict[str, float]:
    """PSNR in dB of the frames between the pictures of held-out episodes, and of a cross-fade instead."""
    count, rng = net.config.frames_per_latent, np.random.default_rng(0)
    found = {"between_psnr": [], "cross_fade_psnr": []}
    for index in range(MEASURED_VIDEOS):
        shard = shards[index % len(shards)]
        episode = shard[index % len(shard)]
        latent = int(rng.integers(1, (len(episode.frames_Fhw3) - 1) // count + 1))
        frames = to_unit(frames_up_to(episode, latent, count)[0])[None].to(net.device)
        for name, between in (("between_psnr", type(net).between), ("cross_fade_psnr", Codec.between)):
            looks = net.look(net.encode(frames[0, [0, -1]])).unflatten((1, 2))
            error = (between(net, looks)[:, 0].clamp(0, 1) - frames[:, 1:-1]).square().mean().clamp_min(1e-6)
            found[name].append(float(-10 * torch.log10(error)))
    return {name: float(np.mean(values)) for name, values in found.items()}
