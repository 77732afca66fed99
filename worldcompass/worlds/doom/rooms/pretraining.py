"""Pretraining of the rooms: depth first, then the world."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from worldcompass.geometry import label_from_motion
from worldcompass.worlds.doom.engine.collect import FORMAT, DoomEpisode, true_labels
from worldcompass.worlds.doom.engine.facts import FRAMES_PER_LATENT, NOMINAL, THRESHOLDS
from worldcompass.worlds.doom.network.autoencoder import between_looks
from worldcompass.worlds.doom.pretraining import PITCH, actions_of, place_distance, truth_of
from worldcompass.worlds.doom.rooms.autoencoder import RoomsAutoencoder
from worldcompass.worlds.doom.rooms.transformer import RoomsTransformer
from worldcompass.worlds.doom.rooms.world import WEIGHTS, RoomsWorld
from worldcompass.worlds.small.data import Shard
from worldcompass.worlds.small.pretraining.blueprint import MIXING, Blueprint
from worldcompass.worlds.small.pretraining.pictures import (
    EDGES,
    MEASURED_VIDEOS,
    Pictures,
    PictureStage,
    to_unit,
)

DEPTH_NOISE = 0.15  # largest noise on the latents that depth is learned from: imagined ones are not exact


def depth_loss(net: RoomsAutoencoder, pictures: Pictures, generator: torch.Generator) -> Tensor:
    """Errors of log nearness and its edges, and of pitch, from pictures through the code."""
    true_nearness, true_pitch = pictures.truth
    code = net.encode(pictures.frames_B3hw)
    level = DEPTH_NOISE * torch.rand(len(code), 1, 1, 1, generator=generator).to(code.device)
    noise = torch.randn(code.shape, generator=generator).to(code.device)
    nearness, pitch = net.depth(net.pictures((1 - level) * code + level * noise).clamp(0, 1))
    error = nearness.log() - true_nearness.float().log()
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + EDGES * edges + PITCH * (pitch - true_pitch).abs().mean()


@torch.no_grad()
def pictures_read(net: RoomsAutoencoder, shards: Sequence[Shard[DoomEpisode]]) -> dict[str, float]:
    """Of held-out episodes: share of latents whose action is read from the pictures, and error of log nearness."""
    right, errors = [], []
    for index in range(MEASURED_VIDEOS):
        shard = shards[index % len(shards)]
        episode = shard[index % len(shard)]
        latents = net.encode(to_unit(episode.frames_Fhw3[::FRAMES_PER_LATENT][:16]).to(net.device))
        looks = net.look(latents)
        true = torch.from_numpy(np.array(episode.nearness_Mhw[:16], np.float32)).to(net.device)
        errors.append((looks.nearness.log() - true.log()).abs().mean().cpu())
        _, motion = between_looks(looks.unflatten((1, -1)))
        labels = label_from_motion(motion[0].cpu() * torch.tensor(NOMINAL), THRESHOLDS)
        right.append((labels == true_labels(episode.cameras_F5)[1 : 1 + len(labels)]).float().mean())
    return {
        "motions_read": float(torch.stack(right).mean()),
        "depth_error": float(torch.stack(errors).mean()),
    }


BLUEPRINT = Blueprint(
    recordings=FORMAT,
    weights=WEIGHTS,
    autoencoder=RoomsAutoencoder,
    net=lambda autoencoder: RoomsTransformer(autoencoder.code),
    world=RoomsWorld,
    actions_of=actions_of,
    stages=(PictureStage("depth", 1.0, depth_loss),),
    truth_of=truth_of,
    measure_pictures=pictures_read,
    memory_distance=place_distance,
    teaching=MIXING,
)
