"""Pretraining of the world model by flow matching with teacher forcing (second stage of ``doom pretrain``).

A sequence is a few chunks. Each appears clean, as a past, and in ``COPIES`` noisy copies to be predicted; clean and
noisy rows see the clean chunks before theirs and themselves, so one pass trains every chunk with its true past.
Half of the sequences begin at a start image; in the other half the first chunk is an older
one of the episode, near the last pose: the memory that ``attend`` will choose.

Exact pasts are not what the model will imagine from: its own are blurred a little more with every chunk. So half of
the batches see a blurred past and are to give the sharp chunk all the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from worldcompass.rollout import computes_bf16, imagine_chunk
from worldcompass.seeding import generator_for
from worldcompass.training.optim import muon
from worldcompass.types import Actions, CameraMoves, Scenario
from worldcompass.worlds.doom.engine import collect
from worldcompass.worlds.doom.engine.facts import FRAMES_PER_LATENT, INTRINSICS
from worldcompass.worlds.doom.network.autoencoder import Autoencoder, Look
from worldcompass.worlds.doom.network.transformer import TOKENS, Attend, DoomTransformer, Rotary, rotary_table
from worldcompass.worlds.doom.pretraining.autoencoder import to_unit
from worldcompass.worlds.doom.pretraining.stage import MEASURED_VIDEOS, Stage, StageRun
from worldcompass.worlds.doom.world import (
    CONTEXT_SIGMA,
    SCHEDULE,
    SPEC,
    DoomWorld,
    camera_motion,
    carried_along,
)

CHUNK = 4
CHUNKS = 3  # of a sequence, the first being memory or the start
COPIES = 2  # noisy copies of a chunk that share one clean past
SEQUENCES_PER_STEP = 4
SINGLE_SHARE = 0.15  # share of steps with chunks of one latent, for live play
START_SHARE = 0.5  # share of sequences that begin at a start image
# Largest noise on exact pasts; half of the sequences get some, so that errors do not pile up.
PAST_NOISE = 0.25
BLURRED_SHARE = 0.5  # share of batches with blurred pasts
# Standard deviation in pixels: six imagined chunks lose as many edges as by the largest.
BLUR, BLUR_REACH = (0.25, 0.9), 2
# Of the noise levels: edges are made there, and the usual levels hardly ever lie there.
FINE_SHARE, FINE_LEVELS = 0.3, (0.02, 0.5)
LEARNING_RATE = 2e-3  # of Muon, whose update is scaled to AdamW's size


@dataclass(frozen=True)
class Latents:
    """A dataset through the autoencoder, one row per episode."""

    latents_EMCHW: Tensor
    """float16."""
    labels_EM: Tensor
    """int64: what really happened."""
    poses_EM44: Tensor


@torch.no_grad()
def encode_dataset(
    data: Path, split: str, autoencoder: Autoencoder, cache_file: Path, device: str
) -> Latents:
    """Latents, labels and poses of a split, kept in ``cache_file``."""
    names = ("latents", "labels", "poses")
    if not cache_file.exists():
        rows: dict[str, list[Tensor]] = {name: [] for name in names}
        for shard in collect.load(data, split):
            for frames, cameras in zip(shard.frames_EFhw3, shard.cameras_EF5, strict=True):
                video = to_unit(frames).to(device)
                rows["latents"].append(autoencoder.encode_video(video[None])[0].transpose(0, 1).half().cpu())
                rows["labels"].append(collect.true_labels(cameras))
                rows["poses"].append(collect.latent_poses(cameras))
        save_file({name: torch.stack(parts).contiguous() for name, parts in rows.items()}, cache_file)
    return Latents(*(load_file(cache_file)[name] for name in names))


@dataclass(frozen=True)
class Batch:
    """Sequences of ``CHUNK * CHUNKS`` latents."""

    clean_BMCHW: Tensor
    past_BMCHW: Tensor
    """The same as the chunks after them see them."""
    labels_BM: Tensor
    motion_BM5: Tensor
    poses_BM44: Tensor
    entry_B2CHW: Tensor
    """The latents right before the first and the second chunk in the episode; the start image is its own."""
    entry_poses_B244: Tensor
    starts: bool
    """Whether the first latent is a start image and the first chunk is to be predicted too."""
    blurred: bool = False
    """Whether the past is; otherwise it is exact and gets noise instead."""


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


def _sequence(latents: Latents, episode: int, index: np.ndarray, starts: bool) -> tuple[Tensor, ...]:
    """Latents, labels, motion, poses and the latents before the two stretches of one sequence."""
    poses, episode_latents = latents.poses_EM44[episode], latents.latents_EMCHW[episode]
    before = np.maximum(index - 1, 0)
    clean, labels = episode_latents[index].float(), latents.labels_EM[episode, index].clone()
    motion = camera_motion(poses[before], poses[index][:, None])[:, 0]
    came_from = before[[0, CHUNK]]
    if starts:
        came_from[0] = index[0]
        labels[0] = 0
        motion[0, :4] = 0
    entry = episode_latents[came_from].float()
    return clean, clean, labels, motion, poses[index], entry, poses[came_from]


@torch.no_grad()
def blur_past(batch: Batch, autoencoder: Autoencoder, rng: np.random.Generator) -> Batch:
    """The same with a blurred past, each sequence by its own width; a start image stays as it is."""
    width_B = torch.from_numpy(rng.uniform(*BLUR, len(batch.past_BMCHW))).float()
    past, entry = (_blurred(x, width_B, autoencoder) for x in (batch.past_BMCHW, batch.entry_B2CHW))
    if batch.starts:
        past[:, 0], entry[:, 0] = batch.past_BMCHW[:, 0], batch.entry_B2CHW[:, 0]
    return replace(batch, past_BMCHW=past, entry_B2CHW=entry, blurred=True)


def _blurred(latents_BMCHW: Tensor, width_B: Tensor, autoencoder: Autoencoder) -> Tensor:
    """Latents of their pictures under a Gaussian of each row's standard deviation in pixels."""
    device, shape = next(autoencoder.parameters()).device, latents_BMCHW.shape[:2]
    pictures, _ = autoencoder.picture(latents_BMCHW.flatten(0, 1).to(device))
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


@dataclass(frozen=True)
class Layout:
    """Which rows one pass holds: for every chunk in turn its clean version, then its noisy copies."""

    rows: tuple[tuple[int, int], ...]
    """(chunk, version) of each row; version 0 is clean, the others are copies."""

    @staticmethod
    def of(chunks: int, first_predicted: int) -> Layout:
        """Nothing sees the last chunk's clean version; chunks before ``first_predicted`` are only a past."""
        rows = []
        for chunk in range(chunks):
            versions = range(0 if chunk < chunks - 1 else 1, COPIES + 1 if chunk >= first_predicted else 1)
            rows += [(chunk, version) for version in versions]
        return Layout(tuple(rows))

    def gather(self, versions: list[Tensor], axis: int, length: int) -> Tensor:
        """The rows, below one another: of each version's tensor the part of its chunk along ``axis``."""
        parts = [versions[v].narrow(axis, c * length, length) for c, v in self.rows]
        return torch.cat(parts)

    def attend(self, sequences: int) -> Attend:
        """Every row sees the clean chunks before its own, and itself."""

        def attend(index: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            clean: list[tuple[Tensor, Tensor]] = []  # of the chunks so far, in order
            out = []
            rows = zip(self.rows, q.split(sequences), k.split(sequences), v.split(sequences), strict=True)
            for (chunk, version), own_q, own_k, own_v in rows:
                past = clean[:chunk]
                keys = torch.cat([*(k for k, _ in past), own_k], 2)
                values = torch.cat([*(v for _, v in past), own_v], 2)
                out.append(scaled_dot_product_attention(own_q, keys, values))
                if version == 0:
                    clean.append((own_k, own_v))
            return torch.cat(out)

        return attend


def world_loss(
    net: nn.Module,
    autoencoder: Autoencoder,
    batch: Batch,
    chunk: int,
    generator: torch.Generator,
    device: str,
) -> Tensor:
    """Mean squared velocity error over all predicted latents."""
    clean, past, entry = (
        x.transpose(1, 2).to(device) for x in (batch.clean_BMCHW, batch.past_BMCHW, batch.entry_B2CHW)
    )
    sequences, _, length = clean.shape[:3]
    if batch.blurred:
        past_sigma = _declared(sequences, length, batch.starts).to(device)
    else:
        past, past_sigma, entry = _noisy_past(past, entry, batch.starts, generator)
    latents, sigmas, targets = [past], [past_sigma], [past]
    for _ in range(COPIES):
        sigma = _noise_levels(sequences, length, chunk, generator).to(device)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        if batch.starts:
            sigma[:, 0] = 0
        expanded = sigma[:, None, :, None, None]
        latents.append((1 - expanded) * clean + expanded * noise)
        targets.append(noise - clean)
        sigmas.append(sigma)
    layout = Layout.of(length // chunk, 0 if batch.starts else CHUNK // chunk)
    versions = COPIES + 1
    sigma_RK = layout.gather(sigmas, 1, chunk)
    before = _before(past, entry, chunk)
    seen = _seen(autoencoder, before, past, batch, device)
    velocity, _ = net(
        layout.gather(latents, 2, chunk), sigma_RK,
        layout.gather([batch.labels_BM.to(device)] * versions, 1, chunk),
        layout.gather([batch.motion_BM5.to(device)] * versions, 1, chunk),
        layout.gather([before] * versions, 2, 1)[:, :, 0], layout.gather([seen] * versions, 2, chunk),
        rotary=_rotary(batch.poses_BM44.to(device), layout, chunk), attend=layout.attend(sequences),
    )  # fmt: skip
    error = (velocity.float() - layout.gather(targets, 2, chunk)).square().mean(dim=(1, 3, 4))
    noisy = torch.tensor([v > 0 for _, v in layout.rows], device=device).repeat_interleave(sequences)
    return error[noisy[:, None] & (sigma_RK > 0)].mean()


def _declared(sequences: int, length: int, starts: bool) -> Tensor:
    """The noise levels that ``DoomWorld`` gives its own finished latents, (B, M)."""
    sigma_BM = torch.full((sequences, length), CONTEXT_SIGMA)
    if starts:
        sigma_BM[:, 0] = 0
    return sigma_BM


def _noisy_past(
    clean_BCMHW: Tensor, entry_BC2HW: Tensor, starts: bool, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """The past that chunks are predicted from, with its noise level per latent, and its entries, noised alike."""
    sequences, _, length = clean_BCMHW.shape[:3]
    sigma = PAST_NOISE * torch.rand(sequences, generator=generator)
    sigma = (sigma * (torch.rand(sequences, generator=generator) < 0.5)).to(clean_BCMHW.device)
    level = sigma.view(-1, 1, 1, 1, 1)
    past, entry = (
        (1 - level) * x + level * torch.randn(x.shape, generator=generator).to(x.device)
        for x in (clean_BCMHW, entry_BC2HW)
    )
    sigma_BM = sigma[:, None].repeat(1, length)
    if starts:  # the start image is given exactly
        past[:, :, 0] = entry[:, :, 0] = clean_BCMHW[:, :, 0]
        sigma_BM[:, 0] = 0
        entry[:, :, 1] = past[:, :, CHUNK - 1]
    return past, sigma_BM, entry


def _rotary(poses_BM44: Tensor, layout: Layout, chunk: int) -> Rotary:
    """The rotary embedding of all rows; time counts the sequence's latents."""
    sequences, length = poses_BM44.shape[:2]
    positions = torch.arange(length, device=poses_BM44.device).float().expand(sequences, -1)
    cos, sin = (
        layout.gather([x] * (COPIES + 1), 2, chunk * TOKENS) for x in rotary_table(positions, poses_BM44)
    )
    return cos, sin


def _noise_levels(sequences: int, length: int, chunk: int, generator: torch.Generator) -> Tensor:
    """One level per chunk, (B, M): logit-normal with the world's shift, and a share of fine ones."""
    shape = (sequences, length // chunk)
    u = torch.sigmoid(torch.randn(shape, generator=generator))
    usual = SCHEDULE.shift * u / (1 + (SCHEDULE.shift - 1) * u)
    low, high = FINE_LEVELS
    fine = low + (high - low) * torch.rand(shape, generator=generator)
    chosen = torch.rand(shape, generator=generator) < FINE_SHARE
    return torch.where(chosen, fine, usual).repeat_interleave(chunk, 1)


def _before(past_BCMHW: Tensor, entry_BC2HW: Tensor, chunk: int) -> Tensor:
    """The last finished latent before each chunk, as the episode had it; (B, C, chunks, H, W)."""
    previous = torch.cat([entry_BC2HW[:, :, :1], past_BCMHW[:, :, :-1]], 2)
    previous[:, :, CHUNK] = entry_BC2HW[:, :, 1]  # a memory stretch is not what came right before
    return previous[:, :, ::chunk]


def _seen(
    autoencoder: Autoencoder, before_BCNHW: Tensor, past_BCMHW: Tensor, batch: Batch, device: str
) -> Tensor:
    """What the cameras of each chunk see of the latent before it and of an older one; (B, C + 1, M, H, W)."""
    poses = batch.poses_BM44.to(device)
    sequences, length = poses.shape[:2]
    chunk = length // before_BCNHW.shape[2]
    previous = torch.cat([batch.entry_poses_B244[:, :1].to(device), poses[:, :-1]], 1)
    previous[:, CHUNK] = batch.entry_poses_B244[:, 1].to(device)
    looks = autoencoder.look(before_BCNHW.transpose(1, 2).flatten(0, 1)).unflatten((sequences, -1))
    seen = []
    for index, begin in enumerate(range(0, length, chunk)):
        # The latent right before is the last one of the past, except after a memory stretch.
        end = begin if begin == CHUNK and not batch.starts else begin - 1
        older = (past_BCMHW[:, :, :end], poses[:, :end]) if end > 0 else None
        look = Look(*(x[:, index] for x in looks))
        part = poses[:, begin : begin + chunk]
        seen.append(carried_along(autoencoder, look, previous[:, begin], older, part))
    return torch.cat(seen, 2)


@torch.no_grad()
def one_chunk_psnr(world: DoomWorld, data: Path) -> dict[str, float]:
    """PSNR in dB of one chunk from a true past under true actions, against repeating the last frame.

    Held-out episodes; only chunks in which something moves.
    """
    frames, actions = _heldout_videos(data, MEASURED_VIDEOS)
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
    clean = imagine_chunk(world, attended, part, lambda step: noise, world.spec.sigmas())
    out = world.decode(clean, attended).float()
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
        lens = torch.tensor(INTRINSICS).expand(len(labels), 4)
        actions.append(CameraMoves(labels, collect.latent_poses(cameras), lens))
    return frames, actions


def train_world(
    data: Path, out: Path, autoencoder: Autoencoder, minutes: float, device: str, seed: int
) -> DoomTransformer:
    """Train or resume the world stage and return the EMA weights."""
    latents = encode_dataset(data, "train", autoencoder, out / "latents.safetensors", device)
    torch.manual_seed(seed)
    kind = torch.device(device)
    run = StageRun(Stage("world", minutes, LEARNING_RATE, 100), DoomTransformer(), out, device, muon)
    run.resume()

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng((seed, 2, step))
        chunk = 1 if rng.random() < SINGLE_SHARE else CHUNK
        batch = draw_batch(latents, rng)
        if rng.random() < BLURRED_SHARE:
            batch = blur_past(batch, autoencoder, rng)
        with torch.autocast(kind.type, torch.bfloat16, enabled=computes_bf16(kind)):
            return world_loss(run.net, autoencoder, batch, chunk, generator_for(seed, "world", step), device)

    def evaluate(ema: nn.Module) -> dict[str, float]:
        assert isinstance(ema, DoomTransformer)
        return one_chunk_psnr(DoomWorld(autoencoder, ema), data)

    net = run.run(loss_of, evaluate)
    assert isinstance(net, DoomTransformer)
    return net
