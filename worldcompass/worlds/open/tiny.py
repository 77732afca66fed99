"""Random stand-ins for weights and decoder, with which the training loop runs on a CPU in seconds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool3d, interpolate


@torch.no_grad()
def randomise(net: nn.Module, generator: torch.Generator) -> None:
    """Set random weights that keep activations near 1; none is zero, so that every path has an effect."""
    norms = (m for m in net.modules() if isinstance(m, nn.RMSNorm | nn.LayerNorm))
    scales = {id(norm.weight) for norm in norms}
    for parameter in net.parameters():
        noise = torch.randn(parameter.shape, generator=generator).to(parameter)
        if parameter.ndim > 1:
            parameter.copy_(noise * parameter[0].numel() ** -0.5)
        else:
            parameter.copy_(0.1 * noise + (id(parameter) in scales))


@dataclass(frozen=True)
class Blend:
    """A stand-in for the video decoder that shows latents of 3 channels as colours, each fading into the next.

    Like a causal decoder it depends on all earlier latents: its memory is their exponentially weighted sum.
    """

    pixels_per_cell: int = 2

    def decode(self, latents_BCKHW: Tensor, memory: Tensor | None) -> Tensor:
        """Frames between the memory and each latent, 4 per latent; a start image is one frame."""
        frames, share = [], torch.arange(1, 5, device=latents_BCKHW.device).view(4, 1, 1, 1, 1) / 4
        for latent in latents_BCKHW.unbind(2):
            own = latent[None] if memory is None else memory.lerp(latent, share)
            frames.append(own)
            memory = _faded(latent, memory)
        video_BF3hw = torch.cat(frames).transpose(0, 1) / 6 + 0.5
        return interpolate(video_BF3hw, scale_factor=(1, self.pixels_per_cell, self.pixels_per_cell))

    def advance(self, latents_1CKHW: Tensor, memory: Tensor | None) -> Tensor | None:
        """The memory after these latents."""
        for latent in latents_1CKHW.unbind(2):
            memory = _faded(latent, memory)
        return memory

    def encode(self, frames_BF3hw: Tensor) -> Tensor:
        """Latents whose last frames are those of the video: the inverse of ``decode``."""
        ends = 6 * (frames_BF3hw[:, ::4].transpose(1, 2) - 0.5)
        return avg_pool3d(ends, (1, self.pixels_per_cell, self.pixels_per_cell))


def _faded(latent: Tensor, memory: Tensor | None) -> Tensor:
    return latent if memory is None else (latent + memory) / 2
