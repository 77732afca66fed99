"""Pretraining of the world model by flow matching with teacher forcing (second stage of ``doom pretrain``).

A sequence is [clean chunks | noisy copies of the chunks to predict, ``COPIES`` of each]. Clean chunks attend to
earlier clean ones; a noisy chunk attends to the clean chunks before it and to itself: one pass trains every chunk
with its true past. Half of the sequences begin at a start image; in the other half the first chunk is an older
one of the episode, near the last pose: the memory that ``attend`` will choose.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from worldcompass.doom import collect
from worldcompass.doom.autoencoder import Autoencoder
from worldcompass.doom.engine_facts import FRAMES_PER_LATENT
from worldcompass.doom.pretrain_autoencoder import to_unit
from worldcompass.doom.stage import Stage, StageRun
from worldcompass.doom.transformer import TOKENS, DoomTransformer
from worldcompass.geometry import commanded
from worldcompass.optim import muon
from worldcompass.rollout import generator_for, imagine_chunk
from worldcompass.types import Actions, Scenario
from worldcompass.worlds.doom import SPEC, DoomWorld, camera_motion, intrinsics

CHUNK = 4
CHUNKS = 4  # of a sequence, the first being memory or the start
COPIES = 2  # noisy copies of a chunk that share one clean past
SEQUENCES_PER_STEP = 4
SINGLE_SHARE = 0.25  # share of steps with chunks of one latent, for live play
START_SHARE = 0.5  # share of sequences that begin at a start image
PAST_NOISE = (
    0.25  # largest noise on clean chunks; half of the sequences get some, so that errors do not pile up
)
LEARNING_RATE = 2e-3  # of Muon, whose update is scaled to AdamW's size


@dataclass(frozen=True)
class Latents:
    """A dataset through the autoencoder, one row per episode."""

    still_EMCHW: Tensor
    """float16: the frame at each latent's end, encoded as a start image."""
    moving_EMCHW: Tensor
    """float16: each latent's own 4 frames; latent 0 repeats the start image's."""
    labels_EM: Tensor
    """int64: what really happened."""
    poses_EM44: Tensor


@torch.no_grad()
def encode_dataset(
    data: Path, split: str, autoencoder: Autoencoder, cache_file: Path, device: str
) -> Latents:
    """Latents, labels and poses of a split, kept in ``cache_file``."""
    names = ("still", "moving", "labels", "poses")
    if not cache_file.exists():
        rows: dict[str, list[Tensor]] = {name: [] for name in names}
        for shard in collect.load(data, split):
            for frames, cameras in zip(shard.frames_EFhw3, shard.cameras_EF5, strict=True):
                video = to_unit(frames).to(device)
                ends = video[::FRAMES_PER_LATENT, None].expand(-1, FRAMES_PER_LATENT, -1, -1, -1)
                rows["still"].append(autoencoder.encode(ends).half().cpu())
                rows["moving"].append(autoencoder.encode_video(video[None])[0].transpose(0, 1).half().cpu())
                rows["labels"].append(collect.true_labels(cameras))
                rows["poses"].append(collect.latent_poses(cameras))
        save_file({name: torch.stack(parts).contiguous() for name, parts in rows.items()}, cache_file)
    return Latents(*(load_file(cache_file)[name] for name in names))


@dataclass(frozen=True)
class Batch:
    """Sequences of ``CHUNK * CHUNKS`` latents."""

    clean_BMCHW: Tensor
    labels_BM: Tensor
    motion_BM5: Tensor
    entry_B2CHW: Tensor
    """The latents right before the first and the second chunk in the episode; the start image is its own."""
    starts: bool
    """Whether the first latent is a start image and the first chunk is to be predicted too."""


def draw_batch(latents: Latents, rng: np.random.Generator, sequences: int = SEQUENCES_PER_STEP) -> Batch:
    """Random sequences; all of a batch begin alike so that shapes agree."""
    starts = bool(rng.random() < START_SHARE)
    episodes, length = latents.labels_EM.shape
    total = CHUNK * CHUNKS
    rows = []
    for _ in range(sequences):
        episode = int(rng.integers(episodes))
        if starts:
            begin = int(rng.integers(length - total + 1))
            index = np.arange(begin, begin + total)
        else:
            begin = int(rng.integers(CHUNK + 1, length - total + CHUNK + 1))
            recent = np.arange(begin, begin + total - CHUNK)
            index = np.concatenate([_memory(latents.poses_EM44[episode], begin, recent[-1], rng), recent])
        rows.append(_sequence(latents, episode, index, starts))
    return Batch(*(torch.stack(parts) for parts in zip(*rows, strict=True)), starts=starts)


def _memory(poses_M44: Tensor, before: int, target: int, rng: np.random.Generator) -> np.ndarray:
    """Four latents before ``before``: near the target pose, or at random."""
    last_start = before - CHUNK
    if rng.random() < 0.5:
        begin = int(rng.integers(1, last_start + 1))
    else:
        offset = (poses_M44[1 : last_start + 1, :3, 3] - poses_M44[target, :3, 3]).norm(dim=-1)
        begin = 1 + int(offset.argmin())
    return np.arange(begin, begin + CHUNK)


def _sequence(
    latents: Latents, episode: int, index: np.ndarray, starts: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Latents, labels, motion and the latents before the two stretches of one sequence."""
    moving, poses = latents.moving_EMCHW[episode], latents.poses_EM44[episode]
    before = np.maximum(index - 1, 0)
    clean, labels = moving[index].float(), latents.labels_EM[episode, index].clone()
    motion = camera_motion(poses[before], poses[index][:, None])[:, 0]
    entry = moving[before[[0, CHUNK]]].float()
    if starts:
        clean[0] = entry[0] = latents.still_EMCHW[episode, index[0]].float()
        labels[0] = 0
        motion[0, :4] = 0
    return clean, labels, motion, entry


@cache
def attention_mask(chunk: int, num_latents: int, predicted_from: int) -> Tensor:
    """Which token may attend to which, in [clean | COPIES x noisy from latent ``predicted_from`` on]; bool."""
    clean = torch.arange(num_latents) // chunk
    noisy = clean[predicted_from:]
    group = torch.cat([clean, *[noisy] * COPIES])
    copy = torch.cat([torch.zeros_like(clean), *[torch.full_like(noisy, i + 1) for i in range(COPIES)]])
    earlier_clean = (copy[None] == 0) & (group[None] < group[:, None])
    same = (copy[None] == copy[:, None]) & (group[None] == group[:, None])
    return (earlier_clean | same).repeat_interleave(TOKENS, 0).repeat_interleave(TOKENS, 1)


def world_loss(net: nn.Module, batch: Batch, chunk: int, generator: torch.Generator, device: str) -> Tensor:
    """Mean squared velocity error over all predicted latents."""
    clean = batch.clean_BMCHW.transpose(1, 2).to(device)
    sequences, _, length = clean.shape[:3]
    first = 0 if batch.starts else CHUNK  # the first predicted latent; a memory chunk is only a past
    past_sigma = PAST_NOISE * torch.rand(sequences, generator=generator)
    past_sigma = (past_sigma * (torch.rand(sequences, generator=generator) < 0.5)).to(device)
    noise = torch.randn(clean.shape, generator=generator).to(device)
    level = past_sigma.view(-1, 1, 1, 1, 1)
    past = (1 - level) * clean + level * noise
    past_sigma_BM = past_sigma[:, None].repeat(1, length)
    entry = batch.entry_B2CHW.transpose(1, 2).to(device)
    entry = (1 - level) * entry + level * torch.randn(entry.shape, generator=generator).to(device)
    if batch.starts:  # the start image is given exactly
        past[:, :, 0] = entry[:, :, 0] = clean[:, :, 0]
        past_sigma_BM[:, 0] = 0
        entry[:, :, 1] = past[:, :, CHUNK - 1]
    targets, inputs, sigmas = [], [past], [past_sigma_BM]
    for _ in range(COPIES):
        sigma = _noise_levels(sequences, length, chunk, generator).to(device)[:, first:]
        noise = torch.randn(clean[:, :, first:].shape, generator=generator).to(device)
        if batch.starts:
            sigma[:, 0] = 0
        expanded = sigma[:, None, :, None, None]
        inputs.append((1 - expanded) * clean[:, :, first:] + expanded * noise)
        targets.append(noise - clean[:, :, first:])
        sigmas.append(sigma)
    before = _before(past, entry, chunk)
    index = torch.cat([torch.arange(length), *[torch.arange(first, length)] * COPIES]).to(device)
    velocity, _ = net(
        torch.cat(inputs, 2), torch.cat(sigmas, 1), batch.labels_BM.to(device)[:, index],
        batch.motion_BM5.to(device)[:, index], before[:, :, index],
        positions_K=index.float(), mask=attention_mask(chunk, length, first).to(device),
    )  # fmt: skip
    error = (velocity[:, :, length:] - torch.cat(targets, 2)).square().mean(dim=(1, 3, 4))
    predicted = torch.cat(sigmas[1:], 1) > 0
    return error[predicted].mean()


def _noise_levels(sequences: int, length: int, chunk: int, generator: torch.Generator) -> Tensor:
    """Logit-normal levels with the world's shift, one per chunk; (B, M)."""
    u = torch.sigmoid(torch.randn(sequences, length // chunk, generator=generator))
    return (SPEC.shift * u / (1 + (SPEC.shift - 1) * u)).repeat_interleave(chunk, 1)


def _before(past_BCMHW: Tensor, entry_BC2HW: Tensor, chunk: int) -> Tensor:
    """The last finished latent before each latent's chunk, as the episode had it; (B, C, M, H, W)."""
    previous = torch.cat([entry_BC2HW[:, :, :1], past_BCMHW[:, :, :-1]], 2)
    previous[:, :, CHUNK] = entry_BC2HW[:, :, 1]  # a memory stretch is not what came right before
    return previous[:, :, ::chunk].repeat_interleave(chunk, 2)


@torch.no_grad()
def one_chunk_psnr(world: DoomWorld, data: Path, num_videos: int = 24) -> dict[str, float]:
    """PSNR in dB of one chunk from a true past under true actions, against repeating the last frame.

    Held-out episodes; only chunks in which something moves.
    """
    frames, actions = _heldout_videos(data, num_videos)
    scenarios = [
        Scenario(str(i), a, image_3hw=f[0]) for i, (f, a) in enumerate(zip(frames, actions, strict=True))
    ]
    context = world.begin(scenarios)
    latents = world.autoencoder.encode_video(torch.stack(frames).float() / 255)
    stacked = Actions.stack(actions)
    for chunk in range(2):
        part = stacked.latents(chunk * CHUNK, (chunk + 1) * CHUNK)
        context = world.remember(
            world.attend(context, part), latents[:, :, chunk * CHUNK : (chunk + 1) * CHUNK], part
        )
    part = stacked.latents(2 * CHUNK, 3 * CHUNK)
    attended = world.attend(context, part)
    noise = torch.randn(latents[:, :, :CHUNK].shape, generator=generator_for("one_chunk_psnr"))
    out = world.decode(imagine_chunk(world, attended, part, noise, world.spec.sigmas()), attended).float()
    true = torch.stack(
        [f[SPEC.num_frames(0, 2 * CHUNK) : SPEC.num_frames(0, 3 * CHUNK)] for f in frames]
    ).float()
    last = torch.stack([f[SPEC.num_frames(0, 2 * CHUNK) - 1] for f in frames])[:, None].float()
    rebuilt = world.decode(latents[:, :, 2 * CHUNK : 3 * CHUNK], attended).float()
    return {
        "psnr": _psnr(out, true),
        "psnr_of_last_frame": _psnr(last.expand_as(true), true),
        "psnr_of_autoencoder": _psnr(rebuilt, true),
    }


def _psnr(a: Tensor, b: Tensor) -> float:
    error = ((a - b) / 255).square().mean(dim=(-3, -2, -1)).clamp_min(1e-6)
    return float((-10 * torch.log10(error)).mean())


def _heldout_videos(data: Path, count: int) -> tuple[list[Tensor], list[Actions]]:
    """Videos of 3 chunks whose last chunk moves, with what really happened as their actions."""
    shards = collect.load(data, "heldout")
    frames, actions, tried = [], [], 0
    while len(frames) < count:
        shard = shards[tried % len(shards)]
        row = (tried // len(shards)) % len(shard.frames_EFhw3)
        begin = FRAMES_PER_LATENT * (1 + 7 * (tried % 6))
        tried += 1
        stop = begin + SPEC.num_frames(0, 3 * CHUNK)
        cameras = np.array(shard.cameras_EF5[row, begin:stop])
        labels = collect.true_labels(cameras)
        if (labels[2 * CHUNK :] == 0).any():
            continue
        frames.append(torch.from_numpy(np.array(shard.frames_EFhw3[row, begin:stop])).movedim(-1, -3))
        nominal = commanded(labels, SPEC.motion, intrinsics())
        actions.append(Actions(labels, collect.latent_poses(cameras), nominal.intrinsics_K4))
    return frames, actions


def train_world(
    data: Path, out: Path, autoencoder: Autoencoder, minutes: float, device: str, seed: int
) -> DoomTransformer:
    """Train or resume the world stage and return the EMA weights."""
    latents = encode_dataset(data, "train", autoencoder, out / "latents.safetensors", device)
    torch.manual_seed(seed)
    run = StageRun(Stage("world", minutes, LEARNING_RATE, 100), DoomTransformer(), out, device, muon)
    run.resume()

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng((seed, 2, step))
        chunk = 1 if rng.random() < SINGLE_SHARE else CHUNK
        batch = draw_batch(latents, rng)
        return world_loss(run.net, batch, chunk, generator_for(seed, "world", step), device)

    def evaluate(ema: nn.Module) -> dict[str, float]:
        assert isinstance(ema, DoomTransformer)
        return one_chunk_psnr(DoomWorld(autoencoder, ema), data)

    net = run.run(loss_of, evaluate)
    assert isinstance(net, DoomTransformer)
    return net
