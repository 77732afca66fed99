"""An autoencoder without networks: the principal components of cells of pixels.

Where most of a picture stands still, its cells are sharp in a linear code of many channels, and what is encoded
again does not change: a picture that is repeated chunk after chunk stays as it is.

A code may hold planes beside colour, such as depth, each with channels and axes of its own: so an error of the one
is none of the other.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldcompass.worlds.small.autoencoder import Codec, CodeConfig, principal_components

LEAST_DEVIATION = 1e-4  # of a channel: along an axis on which no frame differs, nothing would divide it


class LinearCode(nn.Module):
    """Orthonormal axes of cells of pixels. It has no parameters, and nothing of it is trained."""

    def __init__(self, config: CodeConfig) -> None:
        super().__init__()
        self.cell, self.extra, size = config.cell, config.extra, config.planes * config.cell**2
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("axes", torch.eye(config.channels, size))
        self.register_buffer("scale", torch.ones(config.channels))
        self.mean: Tensor
        self.axes: Tensor
        self.scale: Tensor

    @torch.no_grad()
    def fit(self, frames_Bphw: Tensor) -> None:
        """Take the axes of frames in [0, 1], with the extra planes behind the three of colour.

        Channels are divided by the square root of their deviation: so the first ones, which say most of a picture,
        stay larger than the last ones, and noise hides details first. Their mean square is 1.
        """
        parts = frames_Bphw.split((3, *(1 for _ in self.extra)), 1)
        counts = (len(self.axes) - sum(self.extra), *self.extra)
        found = [principal_components(part, self.cell, n) for part, n in zip(parts, counts, strict=True)]
        mean, axes, std = zip(*found, strict=True)
        std = torch.cat(std).clamp_min(LEAST_DEVIATION)
        scale = std.sqrt()
        self.mean.copy_(torch.cat(mean))
        self.axes.copy_(torch.block_diag(*axes))
        self.scale.copy_(scale * (std / scale).square().mean().sqrt())

    def encode(self, frames_Bphw: Tensor) -> Tensor:
        """Latents (B, C, H, W) of frames in [0, 1] and extra planes; in float32 under autocast too."""
        with torch.autocast(frames_Bphw.device.type, enabled=False):
            cells = functional.pixel_unshuffle(frames_Bphw.float(), self.cell) - self.mean[:, None, None]
            return torch.einsum("cd,bdyx->bcyx", self.axes / self.scale[:, None], cells)

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """Frames of latents, about [0, 1], and extra planes, (B, p, h, w); in float32 under autocast too."""
        with torch.autocast(latents_BCHW.device.type, enabled=False):
            cells = torch.einsum("cd,bcyx->bdyx", self.axes * self.scale[:, None], latents_BCHW.float())
            return functional.pixel_shuffle(cells + self.mean[:, None, None], self.cell)


class LinearAutoencoder(Codec):
    """A ``LinearCode``; the sizes of networks in its configuration are not used."""

    def __init__(self, config: CodeConfig) -> None:
        super().__init__()
        self.config = config
        self.code = LinearCode(config)

    @property
    def channel_weights(self) -> Tensor:
        """See ``Codec``: errors count as they do in pixels, for axes are orthonormal."""
        return self.code.scale.square() / self.code.scale.square().mean()

    def start_linear(self, frames_B3hw: Tensor) -> None:
        """See ``Codec``."""
        self.code.fit(frames_B3hw)

    def encode(self, frames_B3hw: Tensor) -> Tensor:
        """See ``Codec``."""
        return self.code.encode(frames_B3hw)

    def pictures(self, latents_BCHW: Tensor) -> Tensor:
        """See ``Codec``."""
        return self.code.decode(latents_BCHW)[:, :3]
