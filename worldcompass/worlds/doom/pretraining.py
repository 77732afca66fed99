"""Pretraining of the Doom world: what it adds to a small world is depth, pitch and the motions read from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from worldcompass.geometry import label_from_motion
from worldcompass.types import Actions, CameraMoves
from worldcompass.worlds.doom.engine.collect import FORMAT, DoomEpisode, latent_poses, true_labels
from worldcompass.worlds.doom.engine.facts import FRAMES_PER_LATENT, INTRINSICS, MOTION, NOMINAL, THRESHOLDS
from worldcompass.worlds.doom.network.autoencoder import DoomAutoencoder, between_looks
from worldcompass.worlds.doom.network.transformer import DoomTransformer
from worldcompass.worlds.doom.world import WEIGHTS, DoomWorld
from worldcompass.worlds.small.data import Shard
from worldcompass.worlds.small.pretraining.blueprint import Blueprint
from worldcompass.worlds.small.pretraining.pictures import (
    EDGES,
    MEASURED_VIDEOS,
    Pictures,
    PictureStage,
    decoder_loss,
    picture_loss,
    to_unit,
)

PITCH = 0.2  # weight of the error of pitch, in nominal units
DEPTH_NOISE = 0.25  # largest noise on the latents that depth is learned from


def truth_of(episode: DoomEpisode, latent: int) -> tuple[np.ndarray, ...]:
    """The engine's nearness (48, 64) and its pitch in nominal units, at the end of a latent."""
    pitch = float(episode.cameras_F5[latent * FRAMES_PER_LATENT, 4]) / MOTION.pitch_deg
    return np.asarray(episode.nearness_Mhw[latent], np.float32), np.array(pitch, np.float32)


def depth_loss(net: DoomAutoencoder, pictures: Pictures, generator: torch.Generator) -> Tensor:
    """Errors of log nearness and its edges, and of pitch.

    Latents have any noise up to ``DEPTH_NOISE``: what is read from them must serve imagined ones too.
    """
    true_nearness, true_pitch = pictures.truth
    with torch.no_grad():
        code = net.encode(pictures.frames_B3hw)
        level = DEPTH_NOISE * torch.rand(len(code), 1, 1, 1, generator=generator).to(code.device)
        noise = torch.randn(code.shape, generator=generator).to(code.device)
        latents = (1 - level) * code + level * noise
        _, features = net.picture(latents)
    nearness, pitch = net.depth(latents, features)
    true_nearness = interpolate(true_nearness[:, None], size=nearness.shape[-2:], mode="area")[:, 0]
    error = nearness.log() - true_nearness.log()
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + EDGES * edges + PITCH * (pitch - true_pitch).abs().mean()


@torch.no_grad()
def motions_read(net: DoomAutoencoder, shards: Sequence[Shard[DoomEpisode]]) -> dict[str, float]:
    """Share of latents of held-out episodes whose composite action the decoder reads from the pictures."""
    device, right = next(net.parameters()).device, []
    for index in range(MEASURED_VIDEOS):
        shard = shards[index % len(shards)]
        episode = shard[index % len(shard)]
        latents = net.encode(to_unit(episode.frames_Fhw3[::FRAMES_PER_LATENT][:16]).to(device))
        _, motion = between_looks(net.look(latents).unflatten((1, -1)))
        labels = label_from_motion(motion[0].cpu() * torch.tensor(NOMINAL), THRESHOLDS)
        right.append((labels == true_labels(episode.cameras_F5)[1 : 1 + len(labels)]).float().mean())
    return {"motions_read": float(torch.stack(right).mean())}


def actions_of(episode: DoomEpisode) -> CameraMoves:
    """What really happened, from the engine's own cameras."""
    labels = true_labels(episode.cameras_F5)
    lens = torch.tensor(INTRINSICS).expand(len(labels), 4)
    return CameraMoves(labels, latent_poses(episode.cameras_F5), lens)


def place_distance(past: Actions, target: Actions) -> Tensor:
    """How far cameras (B, M) stood from the targets' (B, 1), in map units."""
    places, place = (x.cameras.world_from_camera_K44[..., :3, 3] for x in (past, target))
    return (places - place).norm(dim=-1)


BLUEPRINT = Blueprint(
    recordings=FORMAT,
    weights=WEIGHTS,
    autoencoder=DoomAutoencoder,
    net=lambda autoencoder: DoomTransformer(),
    world=DoomWorld,
    actions_of=actions_of,
    stages=(
        PictureStage("autoencoder", 0.5, picture_loss, learns_code=True),
        PictureStage("decoder", 0.3, decoder_loss),
        PictureStage("depth", 0.2, depth_loss, draw=1),
    ),
    truth_of=truth_of,
    measure_pictures=motions_read,
    memory_distance=place_distance,
)
