"""The video autoencoders behind what a WorldPlay world asks of its decoder, and their official files."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from worldcompass.worlds.worldplay.causal import Memory
from worldcompass.worlds.worldplay.config import VaeConfig5B, VaeConfig8B
from worldcompass.worlds.worldplay.poses import exactly
from worldcompass.worlds.worldplay.vae_5b import Autoencoder5B
from worldcompass.worlds.worldplay.vae_8b import Autoencoder8B
from worldcompass.worlds.worldplay.weights import load_weights

Autoencoder = Autoencoder8B | Autoencoder5B
_Net = TypeVar("_Net", bound=nn.Module)


class VideoDecoder:
    """Implements ``Decoder``: scale and normalisation of latents are undone here and nowhere else.

    Candidates are decoded one by one, as a single one fills a GPU and all together would not fit; they read the
    memory of their past where it lies. Arithmetic is in the dtype of the weights, also where the transformer runs
    under autocast. A memory is what the convolutions saw last, 2 frames at every resolution.
    """

    def __init__(self, net: Autoencoder) -> None:
        self.net = net.requires_grad_(False).eval()

    @property
    def pixels_per_cell(self) -> int:
        """Height and width in pixels of one cell of a latent."""
        return self.net.pixels_per_cell

    @torch.no_grad()
    def decode(self, latents_BCKHW: Tensor, memory: Memory | None) -> Tensor:
        """Frames (B, F, 3, h, w) from 0 to 1 that go on from one past, which all rows share."""
        return torch.cat([self._run(row, memory)[0] for row in latents_BCKHW.split(1)])

    @torch.no_grad()
    def advance(self, latents_1CKHW: Tensor, memory: Memory | None) -> Memory:
        """The memory after these latents; the older one stays as it was."""
        return self._run(latents_1CKHW, memory)[1]

    @torch.no_grad()
    def encode(self, frames_BF3hw: Tensor) -> Tensor:
        """Latents (B, C, K, H, W) of 4K - 3 frames from 0 to 1, as the transformer sees them; float32."""
        video = 2 * frames_BF3hw.transpose(1, 2) - 1
        return self.net.encode(video.to(_like(self.net))).float()

    def _run(self, latents_1CKHW: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        latents = latents_1CKHW.to(_like(self.net))
        with exactly(latents):
            video, memory = self.net.decode(latents, memory)
        return (video.float() / 2 + 0.5).clamp(0, 1).transpose(1, 2), memory


def load_decoder_8b(
    folder: Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> VideoDecoder:
    """HunyuanVideo-1.5's autoencoder from its official ``vae`` folder.

    Args:
        folder: holds ``config.json`` and ``diffusion_pytorch_model.safetensors``.
        device: where its weights go.
        dtype: of weights and arithmetic; float32 as in WorldCompass's training.

    Raises:
        UserError: when a file is missing, damaged, or another network's.
    """
    config = VaeConfig8B.from_json(folder / "config.json")
    with torch.device("meta"):
        net = Autoencoder8B(config)
    return VideoDecoder(_filled(net, folder, dtype, device))


def load_decoder_5b(
    folder: Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> VideoDecoder:
    """Wan2.2-TI2V-5B's autoencoder from the ``vae`` folder of its ``diffusers`` form, see ``load_decoder_8b``."""
    config = VaeConfig5B.from_json(folder / "config.json")
    with torch.device("meta"):
        net = Autoencoder5B(config)
    return VideoDecoder(_filled(net, folder, dtype, device))


def _filled(net: _Net, folder: Path, dtype: torch.dtype, device: str | torch.device) -> _Net:
    load_weights(net, folder, dtype, device)
    return net


def _like(net: nn.Module) -> Tensor:
    """A tensor whose dtype and device are the network's."""
    return next(net.parameters())
