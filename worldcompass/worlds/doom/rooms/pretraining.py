"""Pretraining of the rooms: depth first, then the world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from worldcompass.geometry import label_from_motion
from worldcompass.worlds.doom.engine.collect import FORMAT, DoomEpisode, true_labels
from worldcompass.worlds.doom.engine.facts import FRAMES_PER_LATENT, NOMINAL, THRESHOLDS
from worldcompass.worlds.doom.network.autoencoder import between_looks
from worldcompass.worlds.doom.pretraining import PITCH, actions_of, place_distance, truth_of
from worldcompass.worlds.doom.rooms.autoencoder import RoomsAutoencoder, with_depth
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

PITCH_NOISE = 0.1  # largest noise on pictures, for their pitch: it is read from imagined ones too


def depth_loss(net: RoomsAutoencoder, pictures: Pictures, generator: torch.Generator) -> Tensor:
    """Errors of log nearness and its edges, and of pitch.

    Half of the pictures have noise: depth is guessed of exact ones alone, but pitch is read from imagined ones too.
    """
    true_nearness, true_pitch = pictures.truth
    frames = pictures.frames_B3hw
    level = PITCH_NOISE * torch.rand(len(frames), 1, 1, 1, generator=generator).to(frames.device)
    level[::2] = 0
    noise = torch.randn(frames.shape, generator=generator).to(frames.device)
    nearness, pitch = net.depth(frames + level * noise)
    error = nearness.log() - true_nearness.float().log()
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + EDGES * edges + PITCH * (pitch - true_pitch).abs().mean()


def planes_of(episode: DoomEpisode, latents: Sequence[int]) -> Tensor:
    """Pictures with the engine's own depth, see ``with_depth``."""
    ends = [latent * FRAMES_PER_LATENT for latent in latents]
    nearness = np.asarray(episode.nearness_Mhw[np.array(latents)], np.float32)
    return with_depth(to_unit(episode.frames_Fhw3[ends]), torch.from_numpy(nearness))


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
    planes_of=planes_of,
    memory_distance=place_distance,
    teaching=replace(MIXING, blurred_share=0.0),
)
