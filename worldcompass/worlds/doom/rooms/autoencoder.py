"""The autoencoder of the rooms: 4 frames of 64x48 with depth <-> one latent of 160x6x8.

A latent holds its picture and how near each pixel is. Depth is carried along with the picture and not guessed
again: so an error of it bends the room once and for all, where fresh errors would blur it in each chunk. A network
guesses the depth of the pictures that have none, from which videos start.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldcompass.worlds.doom.engine.facts import (
    FRAME_HEIGHT,
    FRAME_WIDTH,
    FRAMES_PER_LATENT,
    MAX_PITCH_DEG,
    MOTION,
)
from worldcompass.worlds.doom.network.autoencoder import DoomLook, between_looks
from worldcompass.worlds.doom.network.interpolation import USUAL_NEARNESS
from worldcompass.worlds.small.autoencoder import CodeConfig, Look, Residual
from worldcompass.worlds.small.linear import LinearAutoencoder

CODE = CodeConfig((FRAME_HEIGHT, FRAME_WIDTH), FRAMES_PER_LATENT, channels=160, extra=(32,))
FINE, MIDDLE, COARSE = 48, 96, 160  # channels on grids of 24x32, 12x16 and 6x8 cells
LIMITS = (-5.0, 1.0)  # of the logarithm of nearness
LOG_MIDDLE, LOG_RANGE = (
    -2.0,
    2.0,
)  # of the logarithm of nearness, that is 0.5 in a latent's plane, and a unit there


def depth_plane(nearness: Tensor) -> Tensor:
    """Nearness as a latent holds it: its logarithm, about [0, 1]."""
    return (nearness.log().clamp(*LIMITS) - LOG_MIDDLE) / LOG_RANGE + 0.5


def nearness_of(plane: Tensor) -> Tensor:
    """The inverse of ``depth_plane``."""
    return ((plane - 0.5) * LOG_RANGE + LOG_MIDDLE).clamp(*LIMITS).exp()


def with_depth(pictures_B3hw: Tensor, nearness_Bhw: Tensor) -> Tensor:
    """The planes (B, 4, h, w) of a latent."""
    return torch.cat([pictures_B3hw, depth_plane(nearness_Bhw)[:, None]], 1)


class PictureDepth(nn.Module):
    """How near each pixel of a picture is, and how far its camera looks up: a small U-Net."""

    def __init__(self, code: CodeConfig) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, FINE, 4, stride=2, padding=1)
        self.fine = nn.Sequential(Residual(FINE), Residual(FINE))
        self.to_middle = nn.Conv2d(FINE, MIDDLE, 2, stride=2)
        self.middle = nn.Sequential(Residual(MIDDLE), Residual(MIDDLE))
        self.to_coarse = nn.Conv2d(MIDDLE, COARSE, 2, stride=2)
        self.coarse = nn.Sequential(Residual(COARSE), Residual(COARSE), Residual(COARSE))
        self.from_coarse = nn.ConvTranspose2d(COARSE, MIDDLE, 2, stride=2)
        self.middle_again = nn.Sequential(Residual(MIDDLE), Residual(MIDDLE))
        self.from_middle = nn.ConvTranspose2d(MIDDLE, FINE, 2, stride=2)
        self.fine_again = nn.Sequential(Residual(FINE), Residual(FINE), nn.SiLU())
        self.nearness = nn.Conv2d(FINE, 4, 3, padding=1)
        rows = code.latent_shape[1]
        self.pitch = nn.Sequential(nn.SiLU(), nn.Linear(COARSE * rows, FINE), nn.SiLU(), nn.Linear(FINE, 1))
        nn.init.zeros_(self.nearness.weight)
        nn.init.constant_(self.nearness.bias, math.log(USUAL_NEARNESS))  # type: ignore[arg-type]

    def forward(self, pictures_B3hw: Tensor) -> tuple[Tensor, Tensor]:
        """Nearness (B, h, w) and pitch (B,) in nominal units; in float32 under autocast too."""
        with torch.autocast(pictures_B3hw.device.type, enabled=False):
            fine, middle, coarse = self._down(pictures_B3hw)
            pitch = self._pitch(coarse)
            middle = self.middle_again(middle + self.from_coarse(coarse))
            fine = self.fine_again(fine + self.from_middle(middle))
            logarithm = functional.pixel_shuffle(self.nearness(fine), 2)[:, 0]
        return logarithm.clamp(*LIMITS).exp(), pitch

    def pitch_of(self, pictures_B3hw: Tensor) -> Tensor:
        """The second result of ``forward``, in half of the time."""
        with torch.autocast(pictures_B3hw.device.type, enabled=False):
            return self._pitch(self._down(pictures_B3hw)[2])

    def _down(self, pictures_B3hw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features on the fine, the middle and the coarse grid."""
        fine = self.fine(self.stem(pictures_B3hw.float() - 0.5))
        middle = self.middle(self.to_middle(fine))
        return fine, middle, self.coarse(self.to_coarse(middle))

    def _pitch(self, coarse_Bcyx: Tensor) -> Tensor:
        pitch = self.pitch(coarse_Bcyx.mean(-1).flatten(1))[:, 0]
        return MAX_PITCH_DEG / MOTION.pitch_deg * torch.tanh(pitch)


class RoomsAutoencoder(LinearAutoencoder):
    """A linear code of pictures with depth; frames between two pictures follow from the depth."""

    def __init__(self) -> None:
        super().__init__(CODE)
        self.depth = PictureDepth(CODE)

    def encode(self, frames_B3hw: Tensor) -> Tensor:
        """See ``Codec``: with the depth that the network guesses."""
        return self.encode_planes(with_depth(frames_B3hw, self.depth(frames_B3hw)[0]))

    def encode_planes(self, planes_B4hw: Tensor) -> Tensor:
        """See ``Codec``: pictures whose depth is known, see ``with_depth``."""
        return self.code.encode(planes_B4hw)

    def look(self, latents_BCHW: Tensor) -> DoomLook:
        """Picture and nearness that each latent holds, and the pitch that its picture shows."""
        planes = self.code.decode(latents_BCHW)
        picture = planes[:, :3].clamp(0, 1)
        return DoomLook(picture, nearness_of(planes[:, 3]), self.depth.pitch_of(picture))

    def between(self, looks: Look) -> Tensor:
        """The frames (B, K - 1, 3, 3, h, w) between K looks in a row."""
        return between_looks(looks)[0]
