"""The video autoencoders as the ``Decoder`` of a WorldPlay world, and loaders of their official files."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from worldcompass.worlds.worldplay.causal import Memory
from worldcompass.worlds.worldplay.config import VaeConfig5B, VaeConfig8B
from worldcompass.worlds.worldplay.poses import without_autocast
from worldcompass.worlds.worldplay.vae_5b import Autoencoder5B
from worldcompass.worlds.worldplay.vae_8b import Autoencoder8B
from worldcompass.worlds.worldplay.weights import load_weights

Autoencoder = Autoencoder8B | Autoencoder5B
_Net = TypeVar("_Net", bound=nn.Module)


class VideoDecoder:
    """Implements ``Decoder``. It undoes the scale and normalisation of latents.

    It decodes candidates one by one, as a single one fills a GPU and all together would not fit. They share the
    memory of their past without copies. The dtype of the weights is also that of the arithmetic, even when the
    transformer runs under autocast. A memory holds the last 2 input frames of the convolutions at every resolution.
    """

    def __init__(self, net: Autoencoder) -> None:
        self.net = net.requires_grad_(False).eval()

    @property
    def pixels_per_cell(self) -> int:
        """Height and width in pixels of one cell of a latent."""
        return self.net.pixels_per_cell

    @torch.no_grad()
    def decode(self, latents_BCKHW: Tensor, memory: Memory | None) -> Tensor:
        """Frames (B, F, 3, h, w) from 0 to 1 that continue one past, shared by all rows."""
        return torch.cat([self._run(row, memory)[0] for row in latents_BCKHW.split(1)])

    @torch.no_grad()
    def advance(self, latents_1CKHW: Tensor, memory: Memory | None) -> Memory:
        """The memory after these latents; the old memory is not changed."""
        return self._run(latents_1CKHW, memory)[1]

    @torch.no_grad()
    def encode(self, frames_BF3hw: Tensor) -> Tensor:
        """Latents (B, C, K, H, W) of 4K - 3 frames from 0 to 1, in the transformer's scale; float32."""
        video = (2 * frames_BF3hw.transpose(1, 2) - 1).to(_like(self.net))
        with without_autocast(video):
            return self.net.encode(video).float()

    def _run(self, latents_1CKHW: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        latents = latents_1CKHW.to(_like(self.net))
        with without_autocast(latents):
            video, memory = self.net.decode(latents, memory)
        return (video.float() / 2 + 0.5).clamp(0, 1).transpose(1, 2), memory


def load_decoder_8b(
    folder: Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> VideoDecoder:
    """HunyuanVideo-1.5's autoencoder from its official ``vae`` folder.

    Args:
        folder: with ``config.json`` and ``diffusion_pytorch_model.safetensors``.
        device: of the weights.
        dtype: of weights and arithmetic; WorldCompass's training uses float32.

    Raises:
        UserError: when a file is missing, damaged, or of another network.
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
