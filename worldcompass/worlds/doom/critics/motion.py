"""The interaction critic, which reads the camera's action from the optical flow of one latent.

A clip holds the frame before the latent and the latent's 4 frames. DIS optical flow of the four transitions and of
the whole clip, pooled to 12x16, is the input of a small network with heads for the translation, the rotation and
the continuous motion.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from worldcompass.geometry import NUM_ROTATIONS, NUM_TRANSLATIONS
from worldcompass.parallel.cpus import usable_cpus
from worldcompass.worlds.doom.engine.facts import FRAME_HEIGHT, FRAME_WIDTH, FRAMES_PER_LATENT

CLIP_FRAMES = FRAMES_PER_LATENT + 1
POOLED = (FRAME_HEIGHT // 4, FRAME_WIDTH // 4)
NUM_FLOWS = FRAMES_PER_LATENT + 1
HORIZONTAL = tuple(range(0, 2 * NUM_FLOWS, 2))  # channels that change sign in the mirror
NUM_CHANNELS = 2 * NUM_FLOWS + 5
TEXTURE_FLOOR = 4.0  # smallest standard deviation in levels, which limits the contrast of dark pictures
# Classes in the mirrored picture: right and left are swapped.
MIRRORED_TRANSLATION = (0, 1, 2, 4, 3, 6, 5, 8, 7)
MIRRORED_ROTATION = (0, 2, 1, 3, 4, 7, 8, 5, 6)

_local = threading.local()


def mirror_labels(labels: Tensor) -> Tensor:
    """Composite actions of the mirrored clips."""
    translation = torch.tensor(MIRRORED_TRANSLATION, device=labels.device)[labels // NUM_ROTATIONS]
    rotation = torch.tensor(MIRRORED_ROTATION, device=labels.device)[labels % NUM_ROTATIONS]
    return NUM_ROTATIONS * translation + rotation


def clips_of(frames_GT3hw: Tensor) -> Tensor:
    """Clips (G, K, 5, 3, h, w) of the K latents that follow the first of T = 1 + 4 K frames."""
    return frames_GT3hw.unfold(1, CLIP_FRAMES, FRAMES_PER_LATENT).movedim(-1, 2)


def _flow(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """DIS flow (h, w, 2) in pixels, with one estimator per thread, as it is not thread-safe."""
    if not hasattr(_local, "dis"):
        _local.dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        _local.dis.setFinestScale(0)
    # None, as any array, even of zeros, would be used as the initial flow and change the result.
    return _local.dis.calc(before, after, None)  # pyright: ignore[reportCallIssue, reportArgumentType]


def _stretched(clip_5hw3: np.ndarray) -> np.ndarray:
    """Grey uint8 (5, h, w) with normalised contrast; the frames of a clip share one scale."""
    rows = clip_5hw3.reshape(-1, clip_5hw3.shape[2], 3)
    grey = np.sqrt(cv2.cvtColor(rows, cv2.COLOR_RGB2GRAY).astype(np.float32) * 255)
    spread = max(float(grey.std()), TEXTURE_FLOOR)
    grey = (grey - grey.mean()) * (48 / spread) + 128
    return np.clip(grey, 0, 255).astype(np.uint8).reshape(clip_5hw3.shape[:3])


def _pool(image: np.ndarray) -> np.ndarray:
    pooled = cv2.resize(image, POOLED[::-1], interpolation=cv2.INTER_AREA)
    return pooled.reshape(*POOLED, -1)


def clip_features(clip_5hw3: np.ndarray) -> np.ndarray:
    """Features (C, 12, 16) float16 of one uint8 clip: flows in pixels, picture, edges, residuals of the flow."""
    grey = _stretched(clip_5hw3)
    flows = [_flow(a, b) for a, b in pairwise(grey)] + [_flow(grey[0], grey[-1])]
    flows[-1] = flows[-1] / FRAMES_PER_LATENT
    height, width = grey.shape[1:]
    ys, xs = np.mgrid[:height, :width].astype(np.float32)
    whole = flows[-1] * FRAMES_PER_LATENT
    back = cv2.remap(
        grey[-1], xs + whole[..., 0], ys + whole[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    edges = [np.abs(cv2.Sobel(grey[0], cv2.CV_32F, *axis, ksize=3)) / 256 for axis in ((1, 0), (0, 1))]
    rest = [cv2.absdiff(grey[0], image).astype(np.float32) / 32 for image in (back, grey[-1])]
    picture = grey[0].astype(np.float32) / 64 - 2
    parts = [_pool(part) for part in (*flows, picture, *edges, *rest)]
    return np.concatenate(parts, -1).transpose(2, 0, 1).astype(np.float16)


def features_of(clips_B53hw: Tensor) -> Tensor:
    """Features (B, C, 12, 16) float32 of uint8 clips of any size, in as many threads as torch uses."""
    clips = clips_B53hw.permute(0, 1, 3, 4, 2).cpu().numpy()
    if clips.shape[2:4] != (FRAME_HEIGHT, FRAME_WIDTH):
        size = (FRAME_WIDTH, FRAME_HEIGHT)
        clips = np.stack(
            [[cv2.resize(f, size, interpolation=cv2.INTER_AREA) for f in clip] for clip in clips]
        )
    clips = np.ascontiguousarray(clips)
    workers = min(torch.get_num_threads(), usable_cpus())
    if workers == 1:
        found = [clip_features(clip) for clip in clips]
    else:
        with ThreadPoolExecutor(workers) as pool:
            found = list(pool.map(clip_features, clips))
    return torch.from_numpy(np.stack(found)).float()


def mirror_features(features_BCyx: Tensor) -> Tensor:
    """The features of the mirrored clips."""
    sign = torch.ones(features_BCyx.shape[1], device=features_BCyx.device)
    sign[list(HORIZONTAL)] = -1
    return features_BCyx.flip(-1) * sign[:, None, None]


class MotionCritic(nn.Module):
    """A network from pooled flow to 9 + 9 logits and the motion (right, forward, yaw, pitch) in nominal units."""

    def __init__(self, width: int = 40, hidden: int = 192, dropout: float = 0.2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(NUM_CHANNELS, width, 3, 2, 1)
        self.inner = nn.Linear(width * (POOLED[0] // 2) * (POOLED[1] // 2), hidden)
        self.middle = nn.Linear(hidden, hidden)
        self.heads = nn.Linear(hidden, NUM_TRANSLATIONS + NUM_ROTATIONS + 4)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features_BCyx: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Translation logits (B, 9), rotation logits (B, 9) and motion (B, 4)."""
        limited = features_BCyx.clamp(-12, 12)
        hidden = nn.functional.gelu(self.conv(limited)).flatten(1)
        hidden = nn.functional.gelu(self.inner(self.dropout(hidden)))
        hidden = hidden + nn.functional.gelu(self.middle(self.dropout(hidden)))
        translation, rotation, motion = self.heads(hidden).split((NUM_TRANSLATIONS, NUM_ROTATIONS, 4), -1)
        return translation, rotation, motion

    @torch.no_grad()
    def probabilities(self, clips_B53hw: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities of translations and rotations, (B, 9) each, averaged with the mirrored clip's."""
        return mirrored_probabilities(
            self, features_of(clips_B53hw).to(self.heads.weight.device), mirror_features
        )


def mirrored_probabilities(
    net: nn.Module, features: Tensor, mirror: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Mean probabilities of the features and of the mirrored features, mirrored back; (B, 9) twice."""
    direct = [part.softmax(-1) for part in net(features)[:2]]
    turned = [part.softmax(-1) for part in net(mirror(features))[:2]]
    translation = (direct[0] + turned[0][:, list(MIRRORED_TRANSLATION)]) / 2
    rotation = (direct[1] + turned[1][:, list(MIRRORED_ROTATION)]) / 2
    return translation.float(), rotation.float()


def labels_of(probabilities: tuple[Tensor, Tensor]) -> Tensor:
    """The most probable composite actions, int64 (B,)."""
    translation, rotation = probabilities
    return NUM_ROTATIONS * translation.argmax(-1) + rotation.argmax(-1)


class _ReadsClips(Protocol):
    """Probabilities of translations and rotations, (B, 9) each, of uint8 clips (B, 5, 3, h, w)."""

    def probabilities(self, clips_B53hw: Tensor) -> tuple[Tensor, Tensor]: ...


class LabelReader:
    """Reads the actions of whole videos with a network for clips."""

    def __init__(self, net: _ReadsClips) -> None:
        self.net = net

    def labels(self, frames_PF3hw: Tensor) -> Tensor:
        """Actions of P videos of F = 4 M - 3 uint8 frames, one per latent, with 0 for latent 0; int64 (P, M).

        Raises:
            ValueError: when F is not 4 M - 3.
        """
        videos, count = frames_PF3hw.shape[:2]
        if count % FRAMES_PER_LATENT != 1:
            raise ValueError(f"expected 4 M - 3 frames for M latents, got {count}")
        start = torch.zeros(videos, 1, dtype=torch.long)
        if count == 1:
            return start
        clips = clips_of(frames_PF3hw)
        found = labels_of(self.net.probabilities(clips.flatten(0, 1))).cpu().unflatten(0, clips.shape[:2])
        return torch.cat([start, found], 1)
