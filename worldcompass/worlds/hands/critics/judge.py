"""The held-out judge of actions and looks, for evaluation only.

It shares no recording and no network with the critics, and reads otherwise: colours of fingers, palm and arm, and
the shade on the table, leave profiles along columns and rows, and a network without convolutions finds the gripper
from these. A second network tells engine frames from damaged ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pad, softplus

from worldcompass.worlds.hands.critics.following import labels_by
from worldcompass.worlds.hands.critics.reader import LEAST_SPREAD, MIDDLE
from worldcompass.worlds.hands.facts import FRAME_SIZE, NOMINAL

BATCH = 256  # frames of one pass
PARTS = ((1.0, 0.56, 0.10), (0.20, 0.26, 0.40), (0.62, 0.66, 0.74))
"""Colours of fingers, palm and arm."""
SHADES = (0.8, 1.0, 1.2)
ALIKE = 0.11  # deviation of a colour of a part, in 0..1
POOLED = 8  # pixels per side of the cells of the pooled planes
PLANES = len(PARTS) + 1  # of which there are profiles: the parts, and the shade
PLANES_POOLED = (0, 1, 3)  # fingers, palm and shade
NUM_FEATURES = PLANES * sum(FRAME_SIZE) + len(PLANES_POOLED) * (FRAME_SIZE[0] // POOLED) * (
    FRAME_SIZE[1] // POOLED
)


def features_of(frames_N3hw: Tensor) -> Tensor:
    """Profiles of the gripper's parts and of shade along columns and rows, pooled planes, (N, ``NUM_FEATURES``).

    Args:
        frames_N3hw: in [0, 1].
    """
    planes = torch.stack([*(_mask(frames_N3hw, colour) for colour in PARTS), _shade(frames_N3hw)], 1)
    profiles = torch.cat([planes.sum(-2), planes.sum(-1)], -1).flatten(1) / 8
    return torch.cat([profiles, avg_pool2d(planes[:, PLANES_POOLED], POOLED).flatten(1) * 4], 1)


def _shade(frames_N3hw: Tensor) -> Tensor:
    """How much darker each pixel is than the middle one of its row, (N, h, w) in 0..1: shadows, and dark things."""
    grey = frames_N3hw.mean(1)
    return (1 - grey / grey.median(-1, keepdim=True).values.clamp_min(0.05)).clamp(0, 1)


def _mask(frames_N3hw: Tensor, colour: tuple[float, float, float]) -> Tensor:
    """How much each pixel has a colour in one of its shades, (N, h, w) in 0..1."""
    away = [(frames_N3hw - torch.tensor(colour)[:, None, None] * shade).square().sum(1) for shade in SHADES]
    return (-torch.stack(away).amin(0) / (2 * ALIKE**2)).exp()


class GripperFinder(nn.Module):
    """The gripper's place from ``features_of`` a frame."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(NUM_FEATURES, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 8)
        )

    def forward(self, features_NP: Tensor) -> tuple[Tensor, Tensor]:
        """x, y, z and opening in steps from the middle of the range, and the deviation of each; (N, 4) twice."""
        found = self.layers(features_NP)
        return found[:, :4], softplus(found[:, 4:]) + LEAST_SPREAD


class Texture(nn.Module):
    """Tells frames of the engine from damaged ones."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(6, width, 3, 2, 1), nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, 2, 1), nn.SiLU(),
            nn.Conv2d(2 * width, 3 * width, 3, 2, 1), nn.SiLU(),
            nn.Conv2d(3 * width, 3 * width, 1), nn.SiLU(),
        )  # fmt: skip
        self.head = nn.Linear(3 * width, 1)

    def forward(self, frames_N3hw: Tensor) -> Tensor:
        """Log-odds (N,) that frames in [0, 1] come from the engine."""
        smooth = avg_pool2d(pad(frames_N3hw, (1,) * 4, mode="replicate"), 3, 1)
        seen = torch.cat([2 * frames_N3hw - 1, 8 * (frames_N3hw - smooth)], 1)
        return self.head(self.body(seen).mean((-2, -1)))[:, 0]


class HandsJudge(nn.Module):
    """Both networks of the judge. About 300,000 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.finder = GripperFinder()
        self.texture = Texture()

    @torch.no_grad()
    def grip(self, frames_N3hw: Tensor) -> Tensor:
        """x, y, z and opening of the gripper in uint8 frames, metres; (N, 4)."""
        found = [self.finder(features_of(_unit(part)))[0] for part in frames_N3hw.split(BATCH)]
        return torch.cat(found) * torch.tensor(NOMINAL).float() + torch.tensor(MIDDLE).float()

    def labels(self, frames_PF3hw: Tensor) -> Tensor:
        """Composites of P videos of F = 4 M - 3 uint8 frames, one per latent, with 0 for latent 0; int64 (P, M).

        Raises:
            ValueError: when F is not 4 M - 3.
        """
        return labels_by(self.grip, frames_PF3hw)

    @torch.no_grad()
    def realism(self, frames_F3hw: Tensor) -> Tensor:
        """Log-odds that uint8 frames come from the engine; float32 (F,), higher is better."""
        return torch.cat([self.texture(_unit(part)) for part in frames_F3hw.split(BATCH)])


def _unit(frames_N3hw: Tensor) -> Tensor:
    return frames_N3hw.float() / 255
