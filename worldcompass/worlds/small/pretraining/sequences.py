"""Sequences of latents that the world model learns from.

A sequence is a few chunks. Half of the batches begin at a start image; in the other half the first chunk is an
older one of the episode, near the last latent's place: the memory that ``attend`` will choose.

Exact pasts are not what the model will imagine from: its own are blurred a little more with every chunk. So half of
the batches see a blurred past and are to give the sharp chunk all the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import pad

from worldcompass.runs.atomic import write_tensors
from worldcompass.types import Actions
from worldcompass.worlds.small.autoencoder import Codec
from worldcompass.worlds.small.data import Shard, load
from worldcompass.worlds.small.pretraining.blueprint import Blueprint
from worldcompass.worlds.small.world import SmallWorld

BLUR_REACH = 2  # pixels
NEAR_SHARE = 0.5  # of memories that lie near the last latent's place; the others lie anywhere


@dataclass(frozen=True)
class Latents:
    """A dataset through the autoencoder, one row per episode."""

    latents_EMCHW: Tensor
    """float16."""
    actions: Actions
    """(E, M): what really happened, or the labels that training is told, see ``Blueprint.labels_of``."""

    def to(self, device: torch.device | str) -> Latents:
        """The same on another device."""
        return Latents(self.latents_EMCHW.to(device), self.actions.to(device))


@torch.no_grad()
def encode_dataset(
    blueprint: Blueprint[Any], world: SmallWorld[Any], data: Path, split: str, cache_file: Path
) -> Latents:
    """Latents and actions of a split; latents are kept in ``cache_file`` for this autoencoder and these shards."""
    shards = load(data, split, blueprint.recordings)
    told_of = blueprint.labels_of if split == "train" and blueprint.labels_of else blueprint.actions_of
    actions = Actions.stack([told_of(episode) for shard in shards for episode in shard])
    made_from = _made_from(world.autoencoder, shards)
    if not cache_file.exists() or _facts(cache_file).get("made_from") != made_from:
        latents = torch.cat([_encoded(blueprint, world.autoencoder, shard) for shard in shards])
        write_tensors(cache_file, {"latents": latents}, {"made_from": made_from})
    return Latents(load_file(cache_file)["latents"], actions)


def _encoded(blueprint: Blueprint[Any], autoencoder: Codec, shard: Shard[Any]) -> Tensor:
    """Latents (E, M, C, H, W) of the episodes of a shard, float16 on the CPU."""
    rows = []
    for episode in shard:
        if blueprint.planes_of is not None:
            planes = blueprint.planes_of(episode, range(blueprint.recordings.num_latents(episode)))
            rows.append(autoencoder.encode_planes(planes.to(autoencoder.device)).half().cpu())
            continue
        ends = torch.from_numpy(np.array(episode.frames_Fhw3[:: autoencoder.config.frames_per_latent]))
        frames = ends.to(autoencoder.device).movedim(-1, -3).float() / 255
        rows.append(autoencoder.encode(frames).half().cpu())
    return torch.stack(rows)


def _made_from(autoencoder: Codec, shards: Sequence[Shard[Any]]) -> str:
    """SHA-256 of an autoencoder's weights and the names of shards."""
    digest = hashlib.sha256("/".join(shard.folder.name for shard in shards).encode())
    for value in autoencoder.state_dict().values():
        digest.update(value.cpu().contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()


def _facts(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


@dataclass(frozen=True)
class Batch:
    """Sequences of whole chunks."""

    clean_BMCHW: Tensor
    past_BMCHW: Tensor
    """The same as the chunks after them see them."""
    actions: Actions
    """(B, M)."""
    entry_B2CHW: Tensor
    """The latents right before the first and the second chunk in the episode; the start image is its own."""
    entry: Actions
    """(B, 2): of those."""
    start_BCHW: Tensor
    """The start image of each episode."""
    start: Actions
    """(B, 1): of those."""
    starts: bool
    """Whether the first latent is a start image and the first chunk is to be predicted too."""
    worn: bool = False
    """Whether the past is blurred or imagined; otherwise it is exact and gets noise instead."""


def draw_batch(
    blueprint: Blueprint[Any],
    world: SmallWorld[Any],
    latents: Latents,
    rng: np.random.Generator,
    sequences: int | None = None,
) -> Batch:
    """Random sequences; all of a batch begin alike so that shapes agree."""
    teaching, chunk = blueprint.teaching, world.spec.chunk_lengths[0]
    starts = bool(rng.random() < teaching.start_share)
    episodes, length = latents.latents_EMCHW.shape[:2]
    total, count = chunk * teaching.chunks, sequences or teaching.sequences
    device = latents.latents_EMCHW.device
    episode_B = torch.from_numpy(rng.integers(episodes, size=count)).to(device)
    actions = latents.actions.select(episode_B)
    if starts:
        begin = rng.integers(length - total + 1, size=(count, 1))
        index_BM = torch.from_numpy(begin + np.arange(total)).to(device)
    else:
        begin = rng.integers(chunk + 1, length - total + chunk + 1, size=(count, 1))
        recent = begin + np.arange(total - chunk)
        memory_BM = _memories(blueprint, world, actions, begin[:, 0], recent[:, -1], rng)
        index_BM = torch.cat([memory_BM, torch.from_numpy(recent).to(device)], 1)
    before_BM = (index_BM - 1).clamp_min(0)
    if starts:
        before_BM[:, 0] = index_BM[:, 0]
    came_from = before_BM[:, [0, chunk]]
    own = actions.pick_each(index_BM)
    clean, entry = (
        latents.latents_EMCHW[episode_B[:, None], index].float() for index in (index_BM, came_from)
    )
    return Batch(
        clean,
        clean,
        world.starting(own) if starts else own,
        entry,
        actions.pick_each(came_from),
        latents.latents_EMCHW[episode_B, 0].float(),
        actions.latents(0, 1),
        starts,
    )


def _memories(
    blueprint: Blueprint[Any],
    world: SmallWorld[Any],
    actions: Actions,
    before_B: np.ndarray,
    target_B: np.ndarray,
    rng: np.random.Generator,
) -> Tensor:
    """A chunk of latents of each episode before ``before_B``: near the target, or at random; int64 (B, chunk)."""
    chunk, device = world.spec.chunk_lengths[0], actions.commanded_K.device
    last_B = before_B - chunk
    anywhere = torch.from_numpy(rng.integers(1, last_B + 1)).to(device)
    distance = blueprint.memory_distance or world.distance
    far_BM = distance(actions, actions.pick_each(torch.from_numpy(target_B[:, None]).to(device)))
    place = torch.arange(len(actions), device=device)
    allowed = (place >= 1) & (place <= torch.from_numpy(last_B).to(device)[:, None])
    nearest = far_BM.masked_fill(~allowed, torch.inf).argmin(1)
    near = torch.from_numpy(rng.random(len(last_B)) < NEAR_SHARE).to(device)
    return torch.where(near, nearest, anywhere)[:, None] + place[:chunk]


@torch.no_grad()
def blur_past(
    blueprint: Blueprint[Any], world: SmallWorld[Any], batch: Batch, rng: np.random.Generator
) -> Batch:
    """The same with a blurred past, each sequence by its own width; a start image stays as it is."""
    teaching, sequences = blueprint.teaching, len(batch.past_BMCHW)
    width_B = torch.from_numpy(rng.uniform(*teaching.blur, sequences)).float()
    past, entry = (_blurred(x, width_B, world.autoencoder) for x in (batch.past_BMCHW, batch.entry_B2CHW))
    if teaching.blurred_noise:
        level_B = teaching.blurred_noise * rng.random(sequences) * (rng.random(sequences) < 0.5)
        generator = torch.Generator(past.device).manual_seed(int(rng.integers(2**63)))
        level = torch.from_numpy(level_B).float().to(past.device).view(-1, 1, 1, 1, 1)
        past, entry = (
            x + level * torch.randn(x.shape, generator=generator, device=x.device) for x in (past, entry)
        )
    if batch.starts:
        past[:, 0], entry[:, 0] = batch.past_BMCHW[:, 0], batch.entry_B2CHW[:, 0]
    return replace(batch, past_BMCHW=past, entry_B2CHW=entry, worn=True)


def _blurred(latents_BMCHW: Tensor, width_B: Tensor, autoencoder: Codec) -> Tensor:
    """Latents of their pictures under a Gaussian of each row's standard deviation in pixels."""
    device, shape = autoencoder.device, latents_BMCHW.shape[:2]
    pictures = autoencoder.pictures(latents_BMCHW.flatten(0, 1).to(device))
    offsets = torch.arange(-BLUR_REACH, BLUR_REACH + 1)
    kernel = torch.softmax(-(offsets**2) / (2 * width_B[:, None] ** 2), 1)
    kernel = kernel.repeat_interleave(shape[1], 0)[:, :, None, None, None].to(device)
    rows, columns = pictures.shape[-2:]
    padded = pad(pictures, (BLUR_REACH,) * 4, mode="replicate")
    across = torch.stack([padded[..., i : i + columns] for i in range(len(offsets))], 1)
    padded = (kernel * across).sum(1)
    down = torch.stack([padded[..., i : i + rows, :] for i in range(len(offsets))], 1)
    # The change alone, so that what the autoencoder loses is not lost twice.
    change = autoencoder.encode((kernel * down).sum(1)) - autoencoder.encode(pictures)
    return latents_BMCHW + change.to(latents_BMCHW.device).unflatten(0, shape)
