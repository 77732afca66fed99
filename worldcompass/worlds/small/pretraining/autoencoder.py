"""Pretraining of the autoencoder, stage after stage.

First the code: encoder and pictures, by their errors. Then the pictures alone, on the finished code, with the true
pictures' local contrast, since errors alone teach a decoder to blur what it does not know. A world may add stages,
such as one that learns depth.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worldcompass.runs.atomic import write_tensors
from worldcompass.seeding import generator_for
from worldcompass.training.optim import muon
from worldcompass.training.stage import Stage, StageRun
from worldcompass.worlds.small.autoencoder import Codec
from worldcompass.worlds.small.data import Shard, load
from worldcompass.worlds.small.pretraining.blueprint import Blueprint
from worldcompass.worlds.small.pretraining.measures import autoencoder_psnr
from worldcompass.worlds.small.pretraining.pictures import Pictures, PictureStage, to_unit

LEAST_PICTURES = 24  # of a step
PICTURES_PER_SEQUENCE = 2  # of the world's steps, if these are many
LINEAR_FRAMES = 4096  # frames whose principal components the autoencoder starts from
LEARNING_RATE = 1e-3  # of Muon


def draw_pictures(blueprint: Blueprint[Any], shards: list[Shard[Any]], rng: np.random.Generator) -> Pictures:
    """Random pictures, at least ``LEAST_PICTURES``."""
    layout = blueprint.recordings
    frames, truth = [], []
    for _ in range(max(LEAST_PICTURES, PICTURES_PER_SEQUENCE * blueprint.teaching.sequences)):
        shard = shards[rng.integers(len(shards))]
        episode = shard[rng.integers(len(shard))]
        latent = int(rng.integers(layout.num_latents(episode)))
        frames.append(np.asarray(episode.frames_Fhw3[latent * layout.frames_per_latent]))
        truth.append(blueprint.truth_of(episode, latent))
    parts = (torch.from_numpy(np.stack(part)) for part in zip(*truth, strict=True))
    return Pictures(to_unit(np.stack(frames)), tuple(parts))


def _single_frames(blueprint: Blueprint[Any], shards: list[Shard[Any]], rng: np.random.Generator) -> Tensor:
    """``LINEAR_FRAMES`` random frames with extra planes if any, float (B, p, h, w) in [0, 1]."""
    frames, planes = [], []
    for _ in range(LINEAR_FRAMES):
        shard = shards[rng.integers(len(shards))]
        episode = shard[rng.integers(len(shard))]
        if blueprint.planes_of is None:
            shown = episode.frames_Fhw3
            frames.append(np.asarray(shown[rng.integers(len(shown))]))
        else:
            latent = int(rng.integers(blueprint.recordings.num_latents(episode)))
            planes.append(blueprint.planes_of(episode, [latent]))
    return torch.cat(planes) if planes else to_unit(np.stack(frames))


def train_autoencoder(
    blueprint: Blueprint[Any],
    data: Path,
    out: Path,
    minutes: float,
    device: str,
    seed: int,
    start: Codec | None = None,
) -> Codec:
    """Train or resume all stages; the EMA weights go to ``out/autoencoder.safetensors``.

    Args:
        blueprint: of the world.
        data: its recordings.
        out: where states, curves and weights go.
        minutes: of all stages.
        device: to train on.
        seed: of the pictures that are drawn.
        start: an autoencoder to go on from; its code stays, and stages that would change it are left out.
    """
    train, heldout = (load(data, split, blueprint.recordings) for split in ("train", "heldout"))
    torch.manual_seed(seed)
    net = start or blueprint.autoencoder()
    if start is None:
        net.start_linear(_single_frames(blueprint, train, np.random.default_rng((seed, 0))))

    def measure(ema: nn.Module) -> dict[str, float]:
        assert isinstance(ema, Codec)
        return {"psnr": autoencoder_psnr(ema, heldout), **blueprint.measure_pictures(ema, heldout)}

    def trained(start: Codec, of: PictureStage) -> Codec:
        stage = Stage(of.name, minutes * of.share, LEARNING_RATE, 200)
        run = StageRun(stage, start.requires_grad_(True), out, device, muon)
        run.resume()

        def loss(step: int) -> Tensor:
            pictures = draw_pictures(blueprint, train, np.random.default_rng((seed, of.draw, step)))
            generator = generator_for(seed, of.name, step)
            return of.loss(run.net.train(of.learns_code), pictures.to(device), generator)

        net = run.run(loss, measure)
        assert isinstance(net, Codec)
        return net

    for stage in blueprint.stages:
        if start is None or not stage.learns_code:
            net = trained(net, stage)
    state = {name: value.contiguous().cpu() for name, value in net.state_dict().items()}
    write_tensors(out / "autoencoder.safetensors", state)
    return net
