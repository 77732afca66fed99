"""Pretraining of the autoencoder (first part of ``worldcompass doom pretrain``), in three stages.

First the code: encoder and pictures, by their errors. Then the pictures alone, on the finished code, with the
engine's local contrast, since errors alone teach a decoder to blur what it does not know. Last depth and pitch,
from the engine's. The frames between pictures follow from these by geometry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from worldcompass.geometry import label_from_motion
from worldcompass.seeding import generator_for
from worldcompass.training.optim import muon
from worldcompass.worlds.doom.engine import collect
from worldcompass.worlds.doom.engine.facts import FRAMES_PER_LATENT, MOTION, NOMINAL, THRESHOLDS
from worldcompass.worlds.doom.network.autoencoder import Autoencoder
from worldcompass.worlds.doom.pretraining.stage import MEASURED_VIDEOS, Stage, StageRun

PICTURES_PER_STEP = 24
LATENT_NOISE = 0.1  # noise on latents while decoding, in their standard deviation: the world model errs too
CONTRAST = 0.1  # weight of the decoder's error of local contrast
CONTRAST_CELL, CONTRAST_FLOOR = (
    8,
    0.02,
)  # over cells of so many pixels; differences below the floor hardly count
PITCH = 0.2  # weight of the error of pitch, in nominal units
DEPTH_NOISE = 0.25  # largest noise on the latents that depth is learned from
DECODER_SHARE, DEPTH_SHARE = 0.3, 0.2  # of the minutes
EDGES = 1.0  # weight of the error of differences between neighbouring pixels: squared error alone blurs
LINEAR_FRAMES = 4096  # frames whose principal components the autoencoder starts from
LEARNING_RATE = 1e-3  # of Muon


@dataclass(frozen=True)
class Pictures:
    """Random frames at the end of a latent, with the engine's truth."""

    frames_B3hw: Tensor
    """[0, 1]"""
    nearness_Byx: Tensor
    pitch_B: Tensor
    """In nominal units."""

    def to(self, device: str) -> Pictures:
        """The same on another device."""
        return Pictures(self.frames_B3hw.to(device), self.nearness_Byx.to(device), self.pitch_B.to(device))


def draw_pictures(shards: list[collect.Shard], rng: np.random.Generator) -> Pictures:
    """``PICTURES_PER_STEP`` random pictures."""
    frames, near, pitch = [], [], []
    for _ in range(PICTURES_PER_STEP):
        shard = shards[rng.integers(len(shards))]
        episode = rng.integers(len(shard.frames_EFhw3))
        latent = rng.integers(shard.nearness_EMyx.shape[1])
        frame = latent * FRAMES_PER_LATENT
        frames.append(np.asarray(shard.frames_EFhw3[episode, frame]))
        near.append(np.asarray(shard.nearness_EMyx[episode, latent], np.float32))
        pitch.append(float(shard.cameras_EF5[episode, frame, 4]) / MOTION.pitch_deg)
    return Pictures(to_unit(np.stack(frames)), torch.from_numpy(np.stack(near)), torch.tensor(pitch))


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


def decoder_loss(net: Autoencoder, frames_B3hw: Tensor, generator: torch.Generator) -> Tensor:
    """Error of single frames and of their local contrast; the code stays as it is."""
    with torch.no_grad():
        latents = _noised(net.encode(frames_B3hw), generator)
    pictures, _ = net.picture(latents)
    contrast = local_contrast(pictures) - local_contrast(frames_B3hw)
    return error_of(pictures, frames_B3hw) + CONTRAST * contrast.abs().mean()


def depth_loss(net: Autoencoder, pictures: Pictures, generator: torch.Generator) -> Tensor:
    """Errors of log nearness and its edges, and of pitch.

    Latents have any noise up to ``DEPTH_NOISE``: what is read from them must serve imagined ones too.
    """
    with torch.no_grad():
        code = net.encode(pictures.frames_B3hw)
        level = DEPTH_NOISE * torch.rand(len(code), 1, 1, 1, generator=generator).to(code.device)
        noise = torch.randn(code.shape, generator=generator).to(code.device)
        latents = (1 - level) * code + level * noise
        _, features = net.picture(latents)
    nearness, pitch = net.depth(latents, features)
    error = nearness.log() - pictures.nearness_Byx.log()
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + EDGES * edges + PITCH * (pitch - pictures.pitch_B).abs().mean()


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
def autoencoder_psnr(net: nn.Module, shards: list[collect.Shard], latents: int = 8) -> float:
    """Mean PSNR in dB over whole videos of held-out episodes, start image included."""
    assert isinstance(net, Autoencoder)
    net.eval()
    device = next(net.parameters()).device
    scores = []
    for index in range(MEASURED_VIDEOS):
        shard = shards[index % len(shards)]
        episode = shard.frames_EFhw3[index % len(shard.frames_EFhw3)]
        frames = to_unit(episode[None, : FRAMES_PER_LATENT * (latents - 1) + 1]).to(device)
        out = net.decode_chunk(net.encode_video(frames), None).clamp(0, 1)
        scores.append(
            -10 * torch.log10((out - frames).square().mean(dim=(2, 3, 4)).clamp_min(1e-8)).mean().item()
        )
    return float(np.mean(scores))


@torch.no_grad()
def motions_read(net: Autoencoder, shards: list[collect.Shard]) -> float:
    """Share of latents of held-out episodes whose composite action the decoder reads from the pictures."""
    device, right = next(net.parameters()).device, []
    for index in range(MEASURED_VIDEOS):
        shard = shards[index % len(shards)]
        row = index % len(shard.frames_EFhw3)
        latents = net.encode(to_unit(shard.frames_EFhw3[row, ::FRAMES_PER_LATENT][:16]).to(device))
        _, motion = net.between_pictures(net.look(latents).unflatten((1, -1)))
        labels = label_from_motion(motion[0].cpu() * torch.tensor(NOMINAL), THRESHOLDS)
        right.append(
            (labels == collect.true_labels(shard.cameras_EF5[row])[1 : 1 + len(labels)]).float().mean()
        )
    return float(torch.stack(right).mean())


_Loss = Callable[[Autoencoder, Pictures, torch.Generator], Tensor]


def train_autoencoder(data: Path, out: Path, minutes: float, device: str, seed: int) -> Autoencoder:
    """Train or resume all stages; the EMA weights go to ``out/autoencoder.safetensors``."""
    train, heldout = collect.load(data, "train"), collect.load(data, "heldout")
    torch.manual_seed(seed)
    net = Autoencoder()
    net.start_linear(_single_frames(train, np.random.default_rng((seed, 0))))

    def stage(name: str, share: float, start: Autoencoder, loss_of: _Loss) -> Autoencoder:
        run = StageRun(
            Stage(name, minutes * share, LEARNING_RATE, 200), start.requires_grad_(True), out, device, muon
        )
        run.resume()

        def loss(step: int) -> Tensor:
            pictures = draw_pictures(train, np.random.default_rng((seed, name == "depth", step))).to(device)
            return loss_of(run.net, pictures, generator_for(seed, name, step))  # type: ignore[arg-type]

        def evaluate(ema: nn.Module) -> dict[str, float]:
            assert isinstance(ema, Autoencoder)
            return {"psnr": autoencoder_psnr(ema, heldout), "motions_read": motions_read(ema, heldout)}

        trained = run.run(loss, evaluate)
        assert isinstance(trained, Autoencoder)
        return trained

    net = stage(
        "autoencoder", 1 - DECODER_SHARE - DEPTH_SHARE, net,
        lambda net, pictures, generator: picture_loss(net.train(), pictures.frames_B3hw, generator),
    )  # fmt: skip
    net = stage(
        "decoder", DECODER_SHARE, net,
        lambda net, pictures, generator: decoder_loss(net.eval(), pictures.frames_B3hw, generator),
    )  # fmt: skip
    net = stage(
        "depth", DEPTH_SHARE, net,
        lambda net, pictures, generator: depth_loss(net.eval(), pictures, generator),
    )  # fmt: skip
    save_file({k: v.contiguous().cpu() for k, v in net.state_dict().items()}, out / "autoencoder.safetensors")
    return net
