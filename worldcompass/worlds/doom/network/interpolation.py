"""The frames between two pictures of the Doom world: how did the camera move, and how far away is what it sees?

A small network says how far away each place of a picture is and how far the camera looks up; it learned that from
the engine's depth. Depth makes the motion between two pictures a thing that can be measured
(``reproject.measured_motion``), and motion and depth say how both pictures look from everywhere between. The motion
is read from the pictures alone, never from the commands: a world that does not obey shows it between its pictures
too.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldcompass.worlds.doom.engine.facts import FRAMES_PER_LATENT, MAX_PITCH_DEG, MOTION
from worldcompass.worlds.doom.network.reprojection import measured_motion, opposite, part_of, views
from worldcompass.worlds.small.autoencoder import CodeConfig, Residual

HIDDEN = 64  # channels on the fine grid, 12x16
COARSE_HIDDEN = 128  # channels at the latent's resolution
NUM_BETWEEN = FRAMES_PER_LATENT - 1
USUAL_NEARNESS = 0.1  # one latent's walk over the distance of what is seen, before anything is learned
FAINT = 0.02  # weight in the blend of what neither picture saw


class Depth(nn.Module):
    """How near each place of a picture is, and how far its camera looks up."""

    def __init__(self, code: CodeConfig) -> None:
        super().__init__()
        latent_channels, latent_rows, _ = code.latent_shape
        self.coarse = nn.Sequential(
            nn.Conv2d(latent_channels, COARSE_HIDDEN, 3, padding=1),
            Residual(COARSE_HIDDEN),
            Residual(COARSE_HIDDEN),
            Residual(COARSE_HIDDEN),
        )
        self.widen = nn.Conv2d(COARSE_HIDDEN, 4 * HIDDEN, 1)
        self.features = nn.Conv2d(code.fine, HIDDEN, 1)
        self.fine = nn.Sequential(Residual(HIDDEN), Residual(HIDDEN), nn.SiLU())
        self.nearness = nn.Conv2d(HIDDEN, 4, 3, padding=1)
        self.pitch = nn.Sequential(
            nn.SiLU(), nn.Linear(COARSE_HIDDEN * latent_rows, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, 1)
        )
        nn.init.zeros_(self.nearness.weight)
        nn.init.constant_(self.nearness.bias, math.log(USUAL_NEARNESS))  # type: ignore[arg-type]

    def forward(self, latents_BCHW: Tensor, features_Bcyx: Tensor) -> tuple[Tensor, Tensor]:
        """Nearness (B, 24, 32) and pitch (B,) in nominal units, of latents and their features on the fine grid."""
        coarse = self.coarse(latents_BCHW)
        fine = self.fine(functional.pixel_shuffle(self.widen(coarse), 2) + self.features(features_Bcyx))
        logarithm = functional.pixel_shuffle(self.nearness(fine), 2)[:, 0]
        pitch = self.pitch(coarse.mean(-1).flatten(1))[:, 0]
        limit = MAX_PITCH_DEG / MOTION.pitch_deg
        return logarithm.clamp(-5, 1).exp(), limit * torch.tanh(pitch)


def frames_between(pictures_B23hw: Tensor, nearness_B2yx: Tensor, pitch_B2: Tensor) -> tuple[Tensor, Tensor]:
    """Frames between an earlier and a later picture, and the motion from one to the other.

    Returns:
        Frames (B, 3, 3, h, w), about [0, 1], and right, forward, yaw and pitch in nominal units (B, 4).
    """
    motion = measured_motion(pictures_B23hw, nearness_B2yx, pitch_B2)
    parts = [part_of(motion, (i + 1) / FRAMES_PER_LATENT) for i in range(NUM_BETWEEN)]
    there = torch.stack([first for first, _ in parts], 1)
    back = torch.stack([opposite(rest) for _, rest in parts], 1)
    shown, seen = zip(
        *(
            views(pictures_B23hw[:, i], nearness_B2yx[:, i], way, pitch_B2[:, i])
            for i, way in enumerate((there, back))
        ),
        strict=True,
    )
    steps = torch.arange(1, FRAMES_PER_LATENT, device=motion.device)
    share = (steps / FRAMES_PER_LATENT).view(-1, 1, 1, 1)
    weights = (1 - share) * (seen[0] + FAINT), share * (seen[1] + FAINT)
    return (weights[0] * shown[0] + weights[1] * shown[1]) / (weights[0] + weights[1]), motion
