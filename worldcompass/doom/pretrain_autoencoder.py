"""Pretraining of the autoencoder (first part of ``worldcompass doom pretrain``), in two stages.

First the code: encoder and pictures, by their errors. Then the decoder alone, on the finished code: the frames
between the pictures, and pictures whose local contrast is that of the engine, since errors alone teach a decoder
to blur what it does not know.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from worldcompass.doom import collect
from worldcompass.doom.autoencoder import Autoencoder
from worldcompass.doom.engine_facts import FRAMES_PER_LATENT, MOTION
from worldcompass.doom.stage import Stage, StageRun
from worldcompass.geometry import level_motion
from worldcompass.optim import muon
from worldcompass.rollout import generator_for

WINDOW = 3  # latents encoded together: three pictures and the frames between them
WINDOWS_PER_STEP = 8
LATENT_NOISE = 0.1  # noise on latents while decoding, in their standard deviation: the world model errs too
CONTRAST = 0.1  # weight of the decoder's error of local contrast
CONTRAST_CELL, CONTRAST_FLOOR = (
    8,
    0.02,
)  # over cells of so many pixels; differences below the floor hardly count
MOTION_WEIGHT = 0.2  # weight of the squared error of the motion between two pictures, in nominal units
DECODER_SHARE = 0.35  # of the minutes
EDGES = 1.0  # weight of the error of differences between neighbouring pixels: squared error alone blurs
LINEAR_FRAMES = 4096  # frames whose principal components the autoencoder starts from
NOMINAL = (MOTION.move, MOTION.move, MOTION.yaw_deg, MOTION.pitch_deg)
LEARNING_RATE = 1e-3  # of Muon


def _windows(shards: list[collect.Shard], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Random windows: frames (B, 4 WINDOW - 3, 3, h, w) in [0, 1], motions (B, WINDOW - 1, 4) in nominal units."""
    clips, motions, length = [], [], FRAMES_PER_LATENT * (WINDOW - 1) + 1
    for _ in range(WINDOWS_PER_STEP):
        shard = shards[rng.integers(len(shards))]
        episode = rng.integers(len(shard.frames_EFhw3))
        start = rng.integers(shard.frames_EFhw3.shape[1] - length)
        clips.append(np.asarray(shard.frames_EFhw3[episode, start : start + length]))
        poses = collect.latent_poses(np.array(shard.cameras_EF5[episode, start : start + length]))
        motions.append(level_motion(poses[:-1], poses[1:]) / torch.tensor(NOMINAL))
    return to_unit(np.stack(clips)), torch.stack(motions).float()


def _single_frames(shards: list[collect.Shard], rng: np.random.Generator) -> Tensor:
    """``LINEAR_FRAMES`` random frames, float (B, 3, h, w) in [0, 1]."""
    frames = []
    for _ in range(LINEAR_FRAMES):
        shard = shards[rng.integers(len(shards))]
        episode = shard.frames_EFhw3[rng.integers(len(shard.frames_EFhw3))]
        frames.append(np.asarray(episode[rng.integers(len(episode))]))
    return to_unit(np.stack(frames))


def to_unit(frames_hw3: np.ndarray) -> Tensor:
    """uint8 (..., h, w, 3) to float (..., 3, h, w) in [0, 1]."""
    return torch.from_numpy(np.array(frames_hw3)).movedim(-1, -3).float() / 255


def picture_loss(net: Autoencoder, frames_B3hw: Tensor, generator: torch.Generator) -> Tensor:
    """Error of single frames decoded from noised latents."""
    pictures, _ = net.picture(_noised(net.encode(frames_B3hw), generator))
    return error_of(pictures, frames_B3hw)


def decoder_loss(
    net: Autoencoder, frames_BF3hw: Tensor, motion_BN4: Tensor, generator: torch.Generator
) -> Tensor:
    """Error of all frames of videos, of the pictures' local contrast and of the motion that is read from them.

    The code stays as it is. ``motion_BN4`` is the engine's, from each latent to the next, in nominal units.
    """
    with torch.no_grad():
        latents = _noised(net.encode_video(frames_BF3hw).transpose(1, 2), generator)
    shape = latents.shape[:2]
    pictures, features = (x.unflatten(0, shape) for x in net.picture(latents.flatten(0, 1)))
    true = frames_BF3hw[:, ::FRAMES_PER_LATENT]
    # Pictures do not learn from the frames between them, which would rather have them blurred.
    between, motion = net.between_pictures(pictures.detach(), features.detach())
    true_between = frames_BF3hw[:, 1:].unflatten(1, (-1, FRAMES_PER_LATENT))[:, :, :-1]
    contrast = local_contrast(pictures.flatten(0, 1)) - local_contrast(true.flatten(0, 1))
    loss = error_of(pictures, true) + CONTRAST * contrast.abs().mean() + error_of(between, true_between)
    return loss + MOTION_WEIGHT * (motion - motion_BN4).square().mean()


def _noised(latents: Tensor, generator: torch.Generator) -> Tensor:
    return latents + LATENT_NOISE * torch.randn(latents.shape, generator=generator).to(latents.device)


def error_of(frames: Tensor, true: Tensor) -> Tensor:
    """Absolute and squared error of pixels, and absolute error of edges."""
    error = frames - true
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + 4 * error.square().mean() + EDGES * edges


def local_contrast(frames_B3hw: Tensor) -> Tensor:
    """Logarithm of the mean difference between neighbouring pixels, over cells; (B, 2, y, x)."""
    across = frames_B3hw.diff(dim=-1).abs().mean(1)[:, :-1]
    down = frames_B3hw.diff(dim=-2).abs().mean(1)[:, :, :-1]
    mean = avg_pool2d(torch.stack([across, down], 1), CONTRAST_CELL, CONTRAST_CELL // 2)
    return (mean + CONTRAST_FLOOR).log()


@torch.no_grad()
def autoencoder_psnr(
    net: nn.Module, shards: list[collect.Shard], videos: int = 24, latents: int = 8
) -> float:
    """Mean PSNR in dB over whole videos of held-out episodes, start image included."""
    assert isinstance(net, Autoencoder)
    net.eval()
    device = next(net.parameters()).device
    scores = []
    for index in range(videos):
        shard = shards[index % len(shards)]
        episode = shard.frames_EFhw3[index % len(shard.frames_EFhw3)]
        frames = to_unit(episode[None, : FRAMES_PER_LATENT * (latents - 1) + 1]).to(device)
        out = net.decode_chunk(net.encode_video(frames), None).clamp(0, 1)
        scores.append(
            -10 * torch.log10((out - frames).square().mean(dim=(2, 3, 4)).clamp_min(1e-8)).mean().item()
        )
    return float(np.mean(scores))


def train_autoencoder(data: Path, out: Path, minutes: float, device: str, seed: int) -> Autoencoder:
    """Train or resume both stages; the EMA weights go to ``out/autoencoder.safetensors``."""
    train, heldout = collect.load(data, "train"), collect.load(data, "heldout")
    torch.manual_seed(seed)
    start = Autoencoder()
    start.start_linear(_single_frames(train, np.random.default_rng((seed, 0))))
    stage = Stage("autoencoder", minutes * (1 - DECODER_SHARE), LEARNING_RATE, 200)
    run = StageRun(stage, start, out, device, muon)
    run.resume()

    def loss_of_code(step: int) -> Tensor:
        frames, _ = _windows(train, np.random.default_rng((seed, 1, step)))
        frames = frames[:, ::FRAMES_PER_LATENT].flatten(0, 1).to(device)
        return picture_loss(run.net.train(), frames, generator_for(seed, "autoencoder", step))  # type: ignore[arg-type]

    coded = run.run(loss_of_code, lambda ema: {"psnr": autoencoder_psnr(ema, heldout)})
    stage = Stage("decoder", minutes * DECODER_SHARE, LEARNING_RATE, 200)
    finish = StageRun(stage, coded.requires_grad_(True), out, device, muon)
    finish.resume()

    def loss_of_decoder(step: int) -> Tensor:
        frames, motion = (x.to(device) for x in _windows(train, np.random.default_rng((seed, 3, step))))
        return decoder_loss(finish.net.eval(), frames, motion, generator_for(seed, "decoder", step))  # type: ignore[arg-type]

    net = finish.run(loss_of_decoder, lambda ema: {"psnr": autoencoder_psnr(ema, heldout)})
    save_file({k: v.contiguous().cpu() for k, v in net.state_dict().items()}, out / "autoencoder.safetensors")
    assert isinstance(net, Autoencoder)
    return net
