"""Sequences of latents that the world model learns from.

A sequence is a few chunks. Half of the batches begin at a start image; in the other half the first chunk is an
older one of the episode, near the last latent's place: the memory that ``attend`` will choose.

Exact pasts are not what the model will imagine from: its own are blurred a little more with every chunk. So half of
the batches see a blurred past and are to give the sharp chunk all the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
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
from worldcompass.worlds.small.pretraining.pictures import to_unit
from worldcompass.worlds.small.world import SmallWorld

BLUR_REACH = 2  # pixels


@dataclass(frozen=True)
class Latents:
    """A dataset through the autoencoder, one row per episode."""

    latents_EMCHW: Tensor
    """float16."""
    actions: Actions
    """(E, M): what really happened."""


@torch.no_grad()
def encode_dataset(
    blueprint: Blueprint[Any], world: SmallWorld[Any], data: Path, split: str, cache_file: Path
) -> Latents:
    """Latents and actions of a split, kept in ``cache_file`` for this autoencoder and these shards."""
    kind = type(world.spec.actions.commanded(torch.zeros(1, dtype=torch.int64)))
    names = [field.name for field in fields(kind)]
    shards = load(data, split, blueprint.recordings)
    made_from = _made_from(world.autoencoder, shards)
    if not cache_file.exists() or _facts(cache_file).get("made_from") != made_from:
        latents, actions = [], []
        for shard in shards:
            for episode in shard:
                video = to_unit(episode.frames_Fhw3).to(world.device)
                encoded = world.autoencoder.encode_video(video[None])[0]
                latents.append(encoded.transpose(0, 1).half().cpu())
                actions.append(blueprint.actions_of(episode))
        happened = Actions.stack(actions)
        arrays = {name: getattr(happened, name).contiguous() for name in names}
        arrays["latents"] = torch.stack(latents).contiguous()
        write_tensors(cache_file, arrays, {"made_from": made_from})
    stored = load_file(cache_file)
    return Latents(stored["latents"], kind(*(stored[name] for name in names)))


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
    blurred: bool = False
    """Whether the past is; otherwise it is exact and gets noise instead."""


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
    total = chunk * teaching.chunks
    rows = []
    for _ in range(sequences or teaching.sequences):
        episode = int(rng.integers(episodes))
        actions = latents.actions.select(episode)
        if starts:
            begin = int(rng.integers(length - total + 1))
            index = np.arange(begin, begin + total)
        else:
            begin = int(rng.integers(chunk + 1, length - total + chunk + 1))
            recent = np.arange(begin, begin + total - chunk)
            memory = _memory(blueprint, world, actions, begin, int(recent[-1]), rng)
            index = np.concatenate([memory, recent])
        rows.append(_sequence(world, latents.latents_EMCHW[episode], actions, index, starts))
    clean, actions, entry, entry_actions, starting, start_actions = zip(*rows, strict=True)
    whole = torch.stack(clean)
    return Batch(
        whole,
        whole,
        Actions.stack(actions),
        torch.stack(entry),
        Actions.stack(entry_actions),
        torch.stack(starting),
        Actions.stack(start_actions),
        starts,
    )


def _memory(
    blueprint: Blueprint[Any],
    world: SmallWorld[Any],
    actions: Actions,
    before: int,
    target: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """A chunk of latents before ``before``: near the target, or at random."""
    chunk = world.spec.chunk_lengths[0]
    last_start = before - chunk
    if rng.random() < 0.5:
        begin = int(rng.integers(1, last_start + 1))
    else:
        past, goal = actions.latents(1, last_start + 1), actions.latents(target, target + 1)
        begin = 1 + int(_distance(blueprint, world, past, goal).argmin())
    return np.arange(begin, begin + chunk)


def _distance(blueprint: Blueprint[Any], world: SmallWorld[Any], past: Actions, goal: Actions) -> Tensor:
    """How far latents (M,) are from the goal (1,)."""
    if blueprint.memory_distance is not None:
        return blueprint.memory_distance(past, goal)
    return world.distance(Actions.stack([past]), Actions.stack([goal]))[0]


def _sequence(
    world: SmallWorld[Any], latents_MCHW: Tensor, actions: Actions, index: np.ndarray, starts: bool
) -> tuple[Tensor, Actions, Tensor, Actions, Tensor, Actions]:
    """Of one sequence its latents, those before its two stretches, and the episode's first; each with actions."""
    chunk, before = world.spec.chunk_lengths[0], np.maximum(index - 1, 0)
    if starts:
        before[0] = index[0]
    came_from = torch.from_numpy(before[[0, chunk]])
    own = actions.pick(torch.from_numpy(index))
    if starts:
        own = world.starting(own)
    clean, entry = latents_MCHW[index].float(), latents_MCHW[came_from].float()
    return clean, own, entry, actions.pick(came_from), latents_MCHW[0].float(), actions.latents(0, 1)


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
        past, entry = (_noised(x, level_B, rng) for x in (past, entry))
    if batch.starts:
        past[:, 0], entry[:, 0] = batch.past_BMCHW[:, 0], batch.entry_B2CHW[:, 0]
    return replace(batch, past_BMCHW=past, entry_B2CHW=entry, blurred=True)


def _noised(latents_BMCHW: Tensor, level_B: np.ndarray, rng: np.random.Generator) -> Tensor:
    noise = rng.standard_normal(latents_BMCHW.shape, np.float32) * level_B[:, None, None, None, None]
    return latents_BMCHW + torch.from_numpy(noise).float()


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
    return latents_BMCHW + change.cpu().unflatten(0, shape)
