"""The autoencoder of the rooms: 4 frames of 64x48 <-> one latent of 128x6x8, and the depth of a picture."""

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

CODE = CodeConfig((FRAME_HEIGHT, FRAME_WIDTH), FRAMES_PER_LATENT, channels=128)
FINE, MIDDLE, COARSE = 48, 96, 160  # channels on grids of 24x32, 12x16 and 6x8 cells
LIMITS = (-5.0, 1.0)  # of the logarithm of nearness


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
            fine = self.fine(self.stem(pictures_B3hw.float() - 0.5))
            middle = self.middle(self.to_middle(fine))
            coarse = self.coarse(self.to_coarse(middle))
            middle = self.middle_again(middle + self.from_coarse(coarse))
            fine = self.fine_again(fine + self.from_middle(middle))
            logarithm = functional.pixel_shuffle(self.nearness(fine), 2)[:, 0]
            pitch = self.pitch(coarse.mean(-1).flatten(1))[:, 0]
        return logarithm.clamp(*LIMITS).exp(), MAX_PITCH_DEG / MOTION.pitch_deg * torch.tanh(pitch)


class RoomsAutoencoder(LinearAutoencoder):
    """A linear code, and a network for depth; frames between two pictures follow from the depth."""

    def __init__(self) -> None:
        super().__init__(CODE)
        self.depth = PictureDepth(CODE)

    def look(self, latents_BCHW: Tensor) -> DoomLook:
        """Picture, nearness and pitch of each latent."""
        picture = self.pictures(latents_BCHW).clamp(0, 1)
        return DoomLook(picture, *self.depth(picture))

    def between(self, looks: Look) -> Tensor:
        """The frames (B, K - 1, 3, 3, h, w) between K looks in a row."""
        return between_looks(looks)[0]
