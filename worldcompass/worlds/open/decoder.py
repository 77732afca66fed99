"""Video decoders as an adapter uses them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from worldcompass.devices.autocast import without_autocast
from worldcompass.errors import UnfitInputs
from worldcompass.worlds.open.causal import Memory
from worldcompass.worlds.open.pasts import rows_per_past


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


def decode_candidates(
    decoder: Decoder, clean_BCKHW: Tensor, memories: Sequence[Any], as_bytes: Callable[[Tensor], Tensor]
) -> Tensor:
    """Frames (B, F, 3, h, w) of a chunk; candidates of one past share the decoder's memory of it.

    They are decoded one after another, so that only one candidate's frames exist in float32.

    Args:
        decoder: of the world.
        clean_BCKHW: candidates of P pasts.
        memories: of the P pasts.
        as_bytes: turns frames from 0 to 1 into uint8, as the official code of the world does.
    """
    rows = rows_per_past(len(clean_BCKHW), len(memories))
    frames = [
        as_bytes(decoder.decode(clean[None], memories[row // rows]))
        for row, clean in enumerate(clean_BCKHW.float())
    ]
    return torch.cat(frames)


def encode_videos(decoder: Decoder, frames_PF3hw: Tensor, world: str, device: torch.device) -> Tensor:
    """Latents of uint8 videos, encoded one after another; see ``Encoder``.

    Raises:
        UnfitInputs: when the decoder of the world has no ``encode``.
    """
    encode = getattr(decoder, "encode", None)
    if encode is None:
        raise UnfitInputs(f"the video decoder of {world} has no method encode, which recordings need: add it")
    videos = frames_PF3hw.to(device).split(1)
    return torch.cat([encode(video.float() / 255) for video in videos])


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
