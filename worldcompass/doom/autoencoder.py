"""The small causal autoencoder of the Doom world: 4 frames of 64x48 <-> one latent of 24x6x8.

A latent is encoded from its own 4 frames; it is decoded beside the latent before it, so the decoder's whole
memory of the past is one latent, and a chunk decoded after its past equals the same chunk of the whole video.
The start image is encoded as four copies of itself and decoded as the last of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldcompass.doom.engine_facts import FRAME_HEIGHT, FRAME_WIDTH, FRAMES_PER_LATENT

PATCH = 4  # pixels per side folded into channels before the first convolution
LATENT_CHANNELS = 24
LATENT_SHAPE = (LATENT_CHANNELS, FRAME_HEIGHT // (2 * PATCH), FRAME_WIDTH // (2 * PATCH))
FINE, COARSE = 96, 192  # channels at 12x16 and at 6x8
_PIXELS = 3 * FRAMES_PER_LATENT * PATCH**2


class _Residual(nn.Module):
    """x + conv(silu(conv(silu(x)))), the last convolution born zero; no normalisation, which is slow on CPUs."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(functional.silu(self.first(functional.silu(x))))


class Autoencoder(nn.Module):
    """Frames in [0, 1] <-> latents with unit variance per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(_PIXELS, FINE, 3, padding=1),
            _Residual(FINE),
            nn.Conv2d(FINE, COARSE, 2, stride=2),
            _Residual(COARSE),
            _Residual(COARSE),
            nn.SiLU(),
            nn.Conv2d(COARSE, LATENT_CHANNELS, 1),
        )
        # Keeps latents at zero mean and unit variance by construction; at inference it is a fixed affine map.
        self.normalise = nn.BatchNorm2d(LATENT_CHANNELS, affine=False, momentum=0.01)
        self.decoder = nn.Sequential(
            nn.Conv2d(2 * LATENT_CHANNELS, COARSE, 3, padding=1),
            _Residual(COARSE),
            _Residual(COARSE),
            _Residual(COARSE),
            nn.Conv2d(COARSE, 4 * FINE, 1),
            nn.PixelShuffle(2),
            _Residual(FINE),
            _Residual(FINE),
            _Residual(FINE),
            nn.SiLU(),
            nn.Conv2d(FINE, _PIXELS, 3, padding=1),
        )

    def encode(self, frames_BF3hw: Tensor) -> Tensor:
        """Latents (B, C, H, W) of groups of 4 frames in [0, 1]."""
        folded = functional.pixel_unshuffle(frames_BF3hw.flatten(1, 2) - 0.5, PATCH)
        return self.normalise(self.encoder(folded))

    def decode(self, previous_BCHW: Tensor, latent_BCHW: Tensor) -> Tensor:
        """The 4 frames (B, 4, 3, h, w), about [0, 1], of a latent after the one before it."""
        pixels = self.decoder(torch.cat([previous_BCHW, latent_BCHW], 1))
        frames = functional.pixel_shuffle(pixels, PATCH) + 0.5
        return frames.unflatten(1, (FRAMES_PER_LATENT, 3))

    def encode_video(self, frames_BF3hw: Tensor) -> Tensor:
        """Latents (B, C, M, H, W) of a video of 4 M - 3 frames that begins with its start image."""
        first = frames_BF3hw[:, :1].expand(-1, FRAMES_PER_LATENT, -1, -1, -1)
        groups = torch.cat([first, frames_BF3hw[:, 1:]], 1).unflatten(1, (-1, FRAMES_PER_LATENT))
        latents = self.encode(groups.flatten(0, 1))
        return latents.unflatten(0, groups.shape[:2]).transpose(1, 2)

    def decode_chunk(self, latents_BCKHW: Tensor, previous_BCHW: Tensor | None) -> Tensor:
        """Frames (B, F, 3, h, w) of a chunk after ``previous``, the last latent of its past.

        ``previous`` None means that the chunk begins with the start image: its latent is its own
        predecessor and yields one frame.
        """
        first = latents_BCKHW[:, :, 0]
        before = torch.cat(
            [(first if previous_BCHW is None else previous_BCHW)[:, :, None], latents_BCKHW[:, :, :-1]], 2
        )
        rows = [x.transpose(1, 2).flatten(0, 1) for x in (before, latents_BCKHW)]
        frames = self.decode(*rows).unflatten(0, (len(first), -1)).flatten(1, 2)
        return frames if previous_BCHW is not None else frames[:, FRAMES_PER_LATENT - 1 :]
