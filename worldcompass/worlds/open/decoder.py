"""Video decoders as an adapter uses them."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from worldcompass.devices.autocast import without_autocast
from worldcompass.worlds.open.causal import Memory


class Decoder(Protocol):
    """A causal video decoder. It reads latents in the network's scale."""

    @property
    def pixels_per_cell(self) -> int:
        """Height and width in pixels of one cell of a latent."""
        ...

    def decode(self, latents_BCKHW: Tensor, memory: Any) -> Tensor:
        """Frames (B, F, 3, h, w) from 0 to 1 that continue one past, shared by all rows.

        Args:
            latents_BCKHW: float32.
            memory: of this past, from ``advance``; None when the first latent is the start image.
        """
        ...

    def advance(self, latents_1CKHW: Tensor, memory: Any) -> Any:
        """The memory after these latents; the old memory is not changed."""
        ...


class Autoencoder(Protocol):
    """A causal video autoencoder, a ``torch.nn.Module``; videos are (B, 3, F, h, w) from -1 to 1."""

    @property
    def pixels_per_cell(self) -> int:
        """Height and width in pixels of one cell of a latent."""
        ...

    def encode(self, video: Tensor) -> Tensor:
        """Latents (B, C, K, H, W) of 4K - 3 frames, in the transformer's scale."""
        ...

    def decode(self, latents: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """Frames that continue ``memory``, and the memory after them."""
        ...


class VideoDecoder:
    """Implements ``Decoder``. It undoes the scale and normalisation of latents.

    It decodes candidates one by one, as a single one fills a GPU and all together would not fit. They share the
    memory of their past without copies. The dtype of the weights is also that of the arithmetic, even when the
    transformer runs under autocast. A memory holds the last 2 input frames of the convolutions at every resolution.
    """

    def __init__(self, net: Any) -> None:
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
            video, after = self.net.decode(latents, memory)
        return (video.float() / 2 + 0.5).clamp(0, 1).transpose(1, 2), after


def _like(net: nn.Module) -> Tensor:
    """A tensor whose dtype and device are the network's."""
    return next(net.parameters())
