"""Pretraining of the autoencoder (first stage of ``worldcompass doom pretrain``)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from worldcompass.doom import collect
from worldcompass.doom.autoencoder import Autoencoder
from worldcompass.doom.engine_facts import FRAMES_PER_LATENT
from worldcompass.doom.stage import Stage, StageRun
from worldcompass.optim import muon
from worldcompass.rollout import generator_for

WINDOW = 4  # latents encoded together; all but the first are decoded beside their predecessor
WINDOWS_PER_STEP = 5
STILL_SHARE = 0.1  # share of latents trained as a start image: four copies of one frame
LATENT_NOISE = 0.1  # noise on latents while decoding, in their standard deviation: the world model errs too


def _windows(shards: list[collect.Shard], rng: np.random.Generator) -> Tensor:
    """Random windows of frames, float (B, WINDOW, 4, 3, h, w) in [0, 1]."""
    clips = []
    for _ in range(WINDOWS_PER_STEP):
        shard = shards[rng.integers(len(shards))]
        episode = shard.frames_EFhw3[rng.integers(len(shard.frames_EFhw3))]
        start = rng.integers(len(episode) - WINDOW * FRAMES_PER_LATENT)
        clips.append(np.asarray(episode[start : start + WINDOW * FRAMES_PER_LATENT]))
    return to_unit(np.stack(clips)).unflatten(1, (WINDOW, FRAMES_PER_LATENT))


def to_unit(frames_hw3: np.ndarray) -> Tensor:
    """uint8 (..., h, w, 3) to float (..., 3, h, w) in [0, 1]."""
    return torch.from_numpy(np.array(frames_hw3)).movedim(-1, -3).float() / 255


def autoencoder_loss(net: Autoencoder, frames_BWF3hw: Tensor, generator: torch.Generator) -> Tensor:
    """Absolute plus squared error of frames decoded from noised latents beside their predecessors."""
    still = torch.rand(frames_BWF3hw.shape[:2], generator=generator) < STILL_SHARE
    frames = torch.where(
        still[..., None, None, None, None].to(frames_BWF3hw.device), frames_BWF3hw[:, :, -1:], frames_BWF3hw
    )
    shape = frames.shape[:2]
    latents = net.encode(frames.flatten(0, 1)).unflatten(0, shape)
    latents = latents + LATENT_NOISE * torch.randn(latents.shape, generator=generator).to(latents.device)
    # A still latent is its own predecessor, as the start image is at inference.
    before = torch.where(still[:, 1:, None, None, None].to(latents.device), latents[:, 1:], latents[:, :-1])
    out = net.decode(before.flatten(0, 1), latents[:, 1:].flatten(0, 1))
    error = out - frames[:, 1:].flatten(0, 1)
    return error.abs().mean() + 4 * error.square().mean()


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
    """Train or resume the autoencoder stage; the EMA weights go to ``out/autoencoder.safetensors``."""
    train, heldout = collect.load(data, "train"), collect.load(data, "heldout")
    torch.manual_seed(seed)
    run = StageRun(Stage("autoencoder", minutes, 1.5e-3, 100), Autoencoder(), out, device, muon)
    run.resume()

    def loss_of(step: int) -> Tensor:
        frames = _windows(train, np.random.default_rng((seed, 1, step))).to(device)
        return autoencoder_loss(run.net.train(), frames, generator_for(seed, "autoencoder", step))  # type: ignore[arg-type]

    net = run.run(loss_of, lambda ema: {"psnr": autoencoder_psnr(ema, heldout)})
    save_file({k: v.contiguous().cpu() for k, v in net.state_dict().items()}, out / "autoencoder.safetensors")
    assert isinstance(net, Autoencoder)
    return net
