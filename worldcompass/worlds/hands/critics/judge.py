"""The held-out judge of actions and looks, for evaluation only.

It shares no recording and no network with the critics, and sees otherwise: where a frame has the colours of
fingers, palm and arm, and where it is darker than its row. From these outlines and their profiles along columns and
rows a network finds the gripper. A second network tells engine frames from damaged ones.
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
UNLIKE = 20.0  # exponent of a colour that is another one: numbers close to 0 are slow
PLANES = len(PARTS) + 1  # the parts, and shade


def planes_of(frames_N3hw: Tensor) -> Tensor:
    """How much each pixel has the colour of each part of the gripper, and lies in shade, (N, ``PLANES``, h, w).

    Args:
        frames_N3hw: in [0, 1].
    """
    return torch.stack([*(_mask(frames_N3hw, colour) for colour in PARTS), _shade(frames_N3hw)], 1)


def _shade(frames_N3hw: Tensor) -> Tensor:
    """How much darker each pixel is than the middle one of its row, (N, h, w) in 0..1: shadows, and dark things."""
    grey = frames_N3hw.mean(1)
    return (1 - grey / grey.median(-1, keepdim=True).values.clamp_min(0.05)).clamp(0, 1)


def _mask(frames_N3hw: Tensor, colour: tuple[float, float, float]) -> Tensor:
    """How much each pixel has a colour in one of its shades, (N, h, w) in 0..1."""
    away = [(frames_N3hw - torch.tensor(colour)[:, None, None] * shade).square().sum(1) for shade in SHADES]
    return (-(torch.stack(away).amin(0) / (2 * ALIKE**2)).clamp_max(UNLIKE)).exp()


class GripperFinder(nn.Module):
    """The gripper's place from ``planes_of`` a frame."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.outlines = nn.Sequential(
            nn.Conv2d(PLANES, width, 5, 2, 2), nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, 2, 1), nn.SiLU(),
            nn.Conv2d(2 * width, 2 * width, 3, 2, 1), nn.SiLU(),
        )  # fmt: skip
        cells = (FRAME_SIZE[0] // 8) * (FRAME_SIZE[1] // 8)
        self.place = nn.Sequential(
            nn.Linear(2 * width * cells + PLANES * sum(FRAME_SIZE), 128), nn.SiLU(), nn.Linear(128, 8)
        )

    def forward(self, planes_Nphw: Tensor) -> tuple[Tensor, Tensor]:
        """x, y, z and opening in steps from the middle of the range, and the deviation of each; (N, 4) twice."""
        profiles = torch.cat([planes_Nphw.sum(-2), planes_Nphw.sum(-1)], -1).flatten(1) / 8
        found = self.place(torch.cat([self.outlines(planes_Nphw).flatten(1), profiles], 1)).float()
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
    """Both networks of the judge. About 500,000 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.finder = GripperFinder()
        self.texture = Texture()

    @torch.no_grad()
    def grip(self, frames_N3hw: Tensor) -> Tensor:
        """x, y, z and opening of the gripper in uint8 frames, metres; (N, 4)."""
        found = [self.finder(planes_of(_unit(part)))[0] for part in frames_N3hw.split(BATCH)]
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
