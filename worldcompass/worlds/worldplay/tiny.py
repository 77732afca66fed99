"""Tiny random stand-ins for networks, decoder and conditioning.

With them the whole training loop runs on a CPU in seconds. They show nothing about quality.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool3d, interpolate

from worldcompass.worlds.worldplay.config import Config5B, Config8B

TINY_8B = Config8B(
    latent_channels=3,
    width=24,
    num_heads=2,
    num_blocks=2,
    mlp_ratio=2.0,
    rope_dims=(4, 4, 4),
    text_width=10,
    vision_width=6,
    byt5_widths=(5, 7, 9),
)
TINY_5B = Config5B(
    latent_channels=3, num_heads=2, head=12, num_blocks=2, mlp_width=40, text_width=10, sinusoid=16
)


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


def conditioning_8b(
    config: Config8B, generator: torch.Generator, num_tokens: int = 5, num_quoted: int = 2
) -> dict[str, Tensor]:
    """Random states in the form of ``worldcompass prepare``, without the start image's latent."""
    return {
        "text_states": torch.randn(8, config.text_width, generator=generator),
        "text_mask": (torch.arange(8) < num_tokens).long(),
        "byt5_states": torch.randn(4, config.byt5_widths[0], generator=generator),
        "byt5_mask": (torch.arange(4) < num_quoted).long(),
        "vision_states": torch.randn(3, config.vision_width, generator=generator),
    }


def conditioning_5b(config: Config5B, generator: torch.Generator) -> dict[str, Tensor]:
    """The same as ``conditioning_8b`` for the 5B model."""
    return {"text_states": torch.randn(6, config.text_width, generator=generator)}


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
