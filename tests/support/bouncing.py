"""A small world of the kit, a square that two controls move: engine, recordings, spec and blueprint."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from worldcompass.controls import Axis, Controls
from worldcompass.noise import ShiftedLevels
from worldcompass.types import ControlValues, Scenario
from worldcompass.world import WorldSpec
from worldcompass.worlds.small import data
from worldcompass.worlds.small.autoencoder import Autoencoder, CodeConfig
from worldcompass.worlds.small.pretraining.blueprint import Blueprint, Teaching
from worldcompass.worlds.small.transformer import ChunkTransformer, TransformerConfig
from worldcompass.worlds.small.weights import WeightFiles
from worldcompass.worlds.small.world import SmallWorld

SIZE, SQUARE, LATENTS = 16, 5, 20
CODE = CodeConfig((SIZE, SIZE), frames_per_latent=4, channels=6, cell=4, fine=8, coarse=16)
NET = TransformerConfig(CODE.latent_shape, controls=2, token=(2, 2), width=24, depth=2, head=12, condition=16)
SPEC = WorldSpec(
    name="bouncing",
    latent_shape=CODE.latent_shape,
    chunk_lengths=(4, 1),
    frames_per_latent=4,
    fps=20.0,
    frame_size=(SIZE, SIZE),
    schedule=ShiftedLevels(shift=2.0, num_steps=4),
    actions=Controls((Axis("x", words=("left", "right")), Axis("y", words=("up", "down")))),
    batches_pasts=True,
)


@dataclass(frozen=True)
class BouncingEpisode(data.Episode):
    controls_M2: np.ndarray


FORMAT = data.Format(BouncingEpisode, version=1, frames_per_latent=4, remedy="record some")


def play(controls_M2: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Frames (F, h, w, 3) of a bright square on a dark ground that bounces off the picture's edges."""
    room, frames = SIZE - SQUARE, []
    for step in [np.zeros(2), *np.repeat(controls_M2[1:], 4, 0)]:
        place = room - np.abs(room - np.abs(place + step))
        frame = np.full((SIZE, SIZE, 3), 30, np.uint8)
        x, y = place.round().astype(int)
        frame[y : y + SQUARE, x : x + SQUARE] = (220, 200, 60)
        frames.append(frame)
    return np.stack(frames)


def record(number: int, root: Path, split: str) -> None:
    rng = np.random.default_rng(number)
    controls = np.repeat(rng.choice([-1.0, 1.0], (2, 4, 2)), 5, 1).astype(np.float32)
    controls[:, 0] = 0
    episodes = [BouncingEpisode(play(c, rng.uniform(0, 11, 2)), c) for c in controls]
    data.write_shard(root / split / str(number), episodes)


def recordings(root: Path) -> Path:
    """Three episodes of two to a split, recorded in this process."""
    data.claim(root, FORMAT, {"world": "bouncing"}, 0, "record less")
    for split, numbers in {"train": range(2), "heldout": range(2, 3)}.items():
        shards = {root / split / str(number): number for number in numbers}
        data.collect(shards, partial(record, root=root, split=split), workers=1)
    return root


def actions_of(episode: BouncingEpisode) -> ControlValues:
    return ControlValues(torch.from_numpy(np.array(episode.controls_M2))[:, None])


class BouncingWorld(SmallWorld[Autoencoder]):
    spec = SPEC


BLUEPRINT = Blueprint(
    recordings=FORMAT,
    weights=WeightFiles("bouncing", "1"),
    autoencoder=partial(Autoencoder, CODE),
    net=lambda autoencoder: ChunkTransformer(NET),
    world=BouncingWorld,
    actions_of=actions_of,
    teaching=Teaching(sequences=2),
)


def random_world(config: TransformerConfig = NET, kind: type[SmallWorld] = BouncingWorld) -> SmallWorld:
    """Random weights without zeros, so that every path of the networks matters."""
    torch.manual_seed(0)
    autoencoder, net = Autoencoder(CODE), ChunkTransformer(config)
    for parameter in (*autoencoder.parameters(), *net.parameters()):
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return kind(autoencoder, net)


def scenarios(latents: int = 12) -> list[Scenario]:
    starts = play(np.ones((2, 2)), np.full(2, 3.0))
    found = []
    for number, path in enumerate(("right-4, up-20", "down-3, left+up-20")):
        actions = SPEC.actions.commanded(SPEC.actions.parse(path)).latents(0, latents)
        image = torch.from_numpy(starts[number]).permute(2, 0, 1)
        found.append(Scenario(f"b{number}", actions, image_3hw=image))
    return found
