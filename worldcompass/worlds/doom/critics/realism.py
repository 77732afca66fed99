"""The realism critic, a network trained on engine frames and degraded ones.

It regresses the strength of a degradation, so that it ranks little blur above much blur. The score is minus the
predicted strength, about 0 for engine frames and -1 for the strongest degradation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from worldcompass.worlds.doom.engine.facts import FRAME_HEIGHT, FRAME_WIDTH

BLUR_SIGMA = 2.2  # pixels, at strength 1
SMALLEST_SCALE = 0.2  # of the frame's size, at strength 1
NOISE_LEVELS = 30.0  # standard deviation of 255, at strength 1
COLOUR_LEVELS = 45.0  # largest shift of a channel, at strength 1
BLEND_SHARE = 0.5  # of the other frame, at strength 1
WARP_PIXELS = 5.0  # largest displacement, at strength 1
MAX_KINDS = 3  # most kinds of degradation on one frame

Degradation = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
"""(frames uint8 (F, h, w, 3), strength 0 to 1, random numbers) -> frames of the same shape."""


def _each(frames: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return np.stack([change(frame) for frame in frames])


def blur(frames_Fhw3: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian blur, similar to an autoencoder's loss of detail."""
    return _each(frames_Fhw3, lambda f: cv2.GaussianBlur(f, (0, 0), 0.2 + BLUR_SIGMA * strength))


def rescale(frames_Fhw3: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Scale down and up again."""
    height, width = frames_Fhw3.shape[1:3]
    scale = 1 - (1 - SMALLEST_SCALE) * strength
    small = (max(4, round(width * scale)), max(4, round(height * scale)))
    up = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_NEAREST)[rng.integers(3)]

    def change(frame: np.ndarray) -> np.ndarray:
        return cv2.resize(
            cv2.resize(frame, small, interpolation=cv2.INTER_AREA), (width, height), interpolation=up
        )

    return _each(frames_Fhw3, change)


def noise(frames_Fhw3: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Grain of one or two pixels."""
    count, height, width, _ = frames_Fhw3.shape
    step = int(rng.integers(1, 3))
    grain = rng.standard_normal((count, -(-height // step), -(-width // step), 3), dtype=np.float32)
    grain = grain.repeat(step, 1).repeat(step, 2)[:, :height, :width]
    return _levels(frames_Fhw3 + NOISE_LEVELS * strength * grain)


def colour(frames_Fhw3: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A change of brightness, contrast and tint."""
    shift = COLOUR_LEVELS * strength * rng.uniform(-1, 1, 3).astype(np.float32)
    contrast = np.float32(np.exp(0.8 * strength * rng.uniform(-1, 1)))
    return _levels(frames_Fhw3 * contrast + shift)


def blocks(frames_Fhw3: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Block artefacts of a coarse transform (JPEG)."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, max(2, round(60 * (1 - strength)))]

    def change(frame: np.ndarray) -> np.ndarray:
        code = np.asarray(cv2.imencode(".jpg", frame, quality)[1])
        return np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))

    return _each(frames_Fhw3, change)


def blend(frames_Fhw3: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A blend of every frame with the clip's first one."""
    share = np.float32(BLEND_SHARE * strength)
    return _levels((1 - share) * frames_Fhw3 + share * frames_Fhw3[:1])


def warp(frames_Fhw3: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A smooth distortion, similar to inconsistent latents."""
    height, width = frames_Fhw3.shape[1:3]
    ys, xs = np.mgrid[:height, :width].astype(np.float32)
    result = []
    for frame in frames_Fhw3:
        knots = rng.uniform(-1, 1, (5, 6, 2)).astype(np.float32)
        offset = WARP_PIXELS * strength * cv2.resize(knots, (width, height), interpolation=cv2.INTER_CUBIC)
        moved = (xs + offset[..., 0], ys + offset[..., 1])
        result.append(cv2.remap(frame, *moved, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT))
    return np.stack(result)


ALL_KINDS: tuple[Degradation, ...] = (blur, rescale, noise, colour, blocks, blend, warp)
STILL_KINDS: tuple[Degradation, ...] = (blur, rescale, noise, colour, blocks)
"""Degradations that do not change the motion of a clip."""


def degrade(
    frames_Fhw3: np.ndarray,
    strength: float,
    rng: np.random.Generator,
    kinds: Sequence[Degradation] = ALL_KINDS,
) -> np.ndarray:
    """Apply one to three kinds, the strongest with ``strength``; uint8 (F, h, w, 3)."""
    chosen = rng.choice(len(kinds), rng.integers(1, MAX_KINDS + 1), replace=False)
    shares = [1.0, *rng.uniform(0, 1, len(chosen) - 1)]
    for index, share in zip(chosen, shares, strict=True):
        frames_Fhw3 = kinds[index](frames_Fhw3, float(strength * share), rng)
    return frames_Fhw3


def _levels(frames: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8)


def frames_to_fit(frames_F3hw: Tensor) -> Tensor:
    """uint8 frames (F, 3, h, w) as float32 (F, 3, 48, 64) in [-1, 1]."""
    frames = frames_F3hw.float() / 127.5 - 1
    if frames.shape[-2:] != (FRAME_HEIGHT, FRAME_WIDTH):
        size = (FRAME_HEIGHT, FRAME_WIDTH)
        frames = nn.functional.interpolate(frames, size, mode="bilinear", antialias=True)
    return frames


def with_detail(frames_F3hw: Tensor) -> Tensor:
    """uint8 frames as (F, 6, 48, 64): the picture, and its difference from a 3x3 mean times four."""
    frames = frames_to_fit(frames_F3hw)
    smooth = nn.functional.avg_pool2d(nn.functional.pad(frames, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return torch.cat([frames, 4 * (frames - smooth)], 1)


class Realism(nn.Module):
    """A network from frames to the strength of their degradation: convolutions with stride 2, then a mean."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        widths = (6, width, 2 * width, 3 * width, 4 * width)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.GELU()]
        self.body = nn.Sequential(*layers, nn.Conv2d(widths[-1], widths[-1], 1), nn.GELU())
        self.head = nn.Linear(widths[-1], 1)

    def forward(self, frames_F3hw: Tensor) -> Tensor:
        """Strength (F,) of uint8 frames, about 0 to 1."""
        return self.head(self.body(with_detail(frames_F3hw)).mean((-2, -1)))[:, 0]

    @torch.no_grad()
    def score(self, frames_F3hw: Tensor) -> Tensor:
        """Minus the predicted strength of uint8 frames; (F,), higher is better."""
        device = self.head.weight.device
        return torch.cat([-self(part.to(device)) for part in frames_F3hw.split(256)]).float()
