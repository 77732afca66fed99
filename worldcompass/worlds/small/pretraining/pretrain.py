"""Pretraining of a small world: the autoencoder, then the world model, then weights as a package ships them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worldcompass.errors import UserError
from worldcompass.rollout import computes_bf16
from worldcompass.seeding import generator_for
from worldcompass.training.optim import muon
from worldcompass.training.stage import Stage, StageRun
from worldcompass.worlds.small.autoencoder import Codec
from worldcompass.worlds.small.data import load, require
from worldcompass.worlds.small.pretraining.autoencoder import train_autoencoder
from worldcompass.worlds.small.pretraining.blueprint import Blueprint
from worldcompass.worlds.small.pretraining.loss import imagine_past, world_loss
from worldcompass.worlds.small.pretraining.measures import Measures, autoencoder_psnr, one_chunk_psnr
from worldcompass.worlds.small.pretraining.sequences import blur_past, draw_batch, encode_dataset
from worldcompass.worlds.small.transformer import ChunkTransformer
from worldcompass.worlds.small.world import SmallWorld

MOST_ROUNDS = 2  # times that a past is imagined after an imagined one


def load_world(blueprint: Blueprint[Any], folder: Path | None, device: str = "cpu") -> SmallWorld[Any]:
    """The world with the weights of a folder, or those of the package when None.

    Raises:
        UserError: when the files are missing, of another version or for another network.
    """
    autoencoder = blueprint.autoencoder()
    net = blueprint.net(autoencoder)
    blueprint.weights.load(folder, autoencoder, net)
    return blueprint.world(autoencoder.to(device), net.to(device))


def measure(blueprint: Blueprint[Any], data: Path, weights: Path | None = None) -> Measures:
    """The measures that training logs, for finished weights; the package's own when None.

    Raises:
        UserError: when ``data`` is no dataset or ``weights`` no weights of this version.
    """
    world = load_world(blueprint, weights)
    shards = load(data, "heldout", blueprint.recordings)
    chunk = one_chunk_psnr(blueprint, world, data)
    return Measures(
        autoencoder_psnr(world.autoencoder, shards),
        chunk["psnr"],
        chunk["psnr_of_last_frame"],
        blueprint.measure_pictures(world.autoencoder, shards),
    )


def pretrain(
    blueprint: Blueprint[Any],
    data: Path,
    out: Path,
    device: str = "cpu",
    minutes_autoencoder: float = 20,
    minutes_world: float = 120,
    seed: int = 0,
    resume: bool = False,
    sequences: int | None = None,
    start: Path | None = None,
) -> Path:
    """Run or resume both parts; the finished weights lie in ``out`` under the names of ``blueprint.weights``.

    Args:
        blueprint: of the world.
        data: its recordings.
        out: where states, curves and weights go.
        device: to train on.
        minutes_autoencoder: of the autoencoder's stages; 0 leaves that of ``start`` as it is.
        minutes_world: of the transformer.
        seed: of weights and draws.
        resume: whether ``out`` may hold a run, which goes on.
        sequences: of a step, instead of the world's own number.
        start: a folder of weights to go on from; the code of its autoencoder stays.

    Raises:
        UserError: when ``data`` is no dataset, ``device`` is not there, or ``out`` holds a run not to be resumed.
    """
    if not resume and any(out.glob("*.state.safetensors")):
        raise UserError(f"{out} holds a pretraining run: resume with --resume or choose another --out")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("no CUDA device here: use --device cpu")
    require(data, blueprint.recordings)
    if sequences is not None:
        blueprint = replace(blueprint, teaching=replace(blueprint.teaching, sequences=sequences))
    files = blueprint.weights
    begun = start and load_world(blueprint, start)
    codec = begun.autoencoder if begun else None
    if codec is None or minutes_autoencoder:
        codec = train_autoencoder(blueprint, data, out, minutes_autoencoder, device, seed, codec)
    autoencoder = codec
    _announce(out / files.autoencoder, files.export(autoencoder, out / files.autoencoder))
    autoencoder.requires_grad_(False)
    net = begun.net if begun else None
    net = train_world(blueprint, data, out, autoencoder, minutes_world, device, seed, net)
    _announce(out / files.net, files.export(net, out / files.net))
    return out


def train_world(
    blueprint: Blueprint[Any],
    data: Path,
    out: Path,
    autoencoder: Codec,
    minutes: float,
    device: str,
    seed: int,
    start: ChunkTransformer | None = None,
) -> ChunkTransformer:
    """Train or resume the world's stage, from nothing or from ``start``, and return the EMA weights."""
    teaching, kind = blueprint.teaching, torch.device(device)
    torch.manual_seed(seed)
    stage = Stage("world", minutes, teaching.learning_rate, 100)
    run = StageRun(stage, start or blueprint.net(autoencoder), out, device, muon)
    run.resume()
    assert isinstance(run.net, ChunkTransformer)
    world = blueprint.world(autoencoder, run.net)
    latents = encode_dataset(blueprint, world, data, "train", out / "latents.safetensors").to(device)
    single = teaching.single_share if 1 in world.spec.chunk_lengths else 0.0

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng((seed, 2, step))
        chunk = 1 if rng.random() < single else world.spec.chunk_lengths[0]
        batch = draw_batch(blueprint, world, latents, rng)
        generator = generator_for(seed, "world", step, device=device)
        imagined = rng.random() < teaching.imagined_share and step >= teaching.imagined_from
        if not imagined and rng.random() < teaching.blurred_share:
            batch = blur_past(blueprint, world, batch, rng)
        with torch.autocast(kind.type, torch.bfloat16, enabled=computes_bf16(kind)):
            for _ in range(int(rng.integers(1, MOST_ROUNDS + 1)) if imagined else 0):
                batch = imagine_past(blueprint, world, batch, chunk, generator)
            return world_loss(blueprint, world, batch, chunk, generator)

    def evaluate(ema: nn.Module) -> dict[str, float]:
        assert isinstance(ema, ChunkTransformer)
        return one_chunk_psnr(blueprint, blueprint.world(autoencoder, ema), data)

    net = run.run(loss_of, evaluate)
    assert isinstance(net, ChunkTransformer)
    return net


def _announce(path: Path, digest: str) -> None:
    facts = {"file": path.name, "bytes": path.stat().st_size, "sha256": digest}
    print(json.dumps(facts), flush=True)
