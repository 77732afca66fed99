"""What an autoencoder learns from pictures: losses, and the stages that use them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from worldcompass.worlds.small.autoencoder import Autoencoder

LATENT_NOISE = 0.1  # noise on latents while decoding, in their standard deviation: the world model errs too
CONTRAST = 0.1  # weight of the decoder's error of local contrast
CONTRAST_CELL = 8  # pixels per side of the cells of contrast
CONTRAST_FLOOR = 0.02  # differences below it hardly count
MEASURED_VIDEOS = 24  # held-out videos of every measure
EDGES = 1.0  # weight of the error of differences between neighbouring pixels: squared error alone blurs


@dataclass(frozen=True)
class Pictures:
    """Random frames at the end of a latent, with what else the world's stages learn from."""

    frames_B3hw: Tensor
    """[0, 1]"""
    truth: tuple[Tensor, ...] = ()
    """(B, ...) each, see ``Blueprint.truth_of``."""

    def to(self, device: str) -> Pictures:
        """The same on another device."""
        return Pictures(self.frames_B3hw.to(device), tuple(x.to(device) for x in self.truth))


@dataclass(frozen=True)
class PictureStage:
    """One stage of an autoencoder's training."""

    name: str
    share: float
    """Of the minutes."""
    loss: Callable[[Any, Pictures, torch.Generator], Tensor]
    learns_code: bool = False
    """Whether the code and its normalisation change."""
    draw: int = 0
    """Stages of one number see the same pictures in the same order."""


def to_unit(frames_hw3: np.ndarray) -> Tensor:
    """uint8 (..., h, w, 3) to float (..., 3, h, w) in [0, 1]."""
    return torch.from_numpy(np.array(frames_hw3)).movedim(-1, -3).float() / 255


def picture_loss(net: Autoencoder, pictures: Pictures, generator: torch.Generator) -> Tensor:
    """Error of single frames decoded from noised latents."""
    found, _ = net.picture(_noised(net.encode(pictures.frames_B3hw), generator))
    return error_of(found, pictures.frames_B3hw)


def decoder_loss(net: Autoencoder, pictures: Pictures, generator: torch.Generator) -> Tensor:
    """Error of single frames and of their local contrast; the code stays as it is."""
    with torch.no_grad():
        latents = _noised(net.encode(pictures.frames_B3hw), generator)
    found, _ = net.picture(latents)
    contrast = local_contrast(found) - local_contrast(pictures.frames_B3hw)
    return error_of(found, pictures.frames_B3hw) + CONTRAST * contrast.abs().mean()


CODE = PictureStage("autoencoder", 0.6, picture_loss, learns_code=True)
DECODER = PictureStage("decoder", 0.4, decoder_loss)


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
