"""``worldcompass doom critics``: train critics and judge on engine data, test them on maps that neither saw.

Three files: ``motion_critic.safetensors`` and ``realism.safetensors`` (split ``critic``) become rewards,
``judge.safetensors`` (split ``judge``) only scores evaluations. Files are weights in float16 with the facts of
their training as metadata. A file that is there with the same seed and data is kept, so that a training that was
stopped goes on with the next part; delete a file to train it again.
"""

from __future__ import annotations

import importlib.resources
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, smooth_l1_loss

from worldcompass.doom import collect
from worldcompass.doom.engine_facts import FRAMES_PER_LATENT, MOTION
from worldcompass.doom.judge import Judge, match_volumes, mirror_volumes
from worldcompass.doom.motion_critic import (
    CLIP_FRAMES,
    MotionCritic,
    features_of,
    labels_of,
    mirror_features,
    mirror_labels,
    mirrored_probabilities,
)
from worldcompass.doom.realism import STILL_KINDS, Realism, degrade
from worldcompass.errors import UserError
from worldcompass.geometry import NUM_ROTATIONS, ROTATIONS, TRANSLATIONS, kind_of_action, level_motion, split_label

VERSION = 1
FILES = {"motion_critic": MotionCritic, "realism": Realism, "judge": Judge}
COMMAND = "worldcompass doom critics --data data/doom --out worldcompass/weights"
STRONGEST_AUGMENTATION = 0.7  # of realism.degrade, for clips whose motion is read
LEVEL_SHARE = 0.3  # of the frames of a batch that stay as the engine drew them
MOTION_WEIGHT = 0.5  # of the regression beside the two classifications
ROTATE = {"critic": 0, "judge": 1}  # the two splits draw other random numbers


@dataclass(frozen=True)
class Part:
    """How one network is trained."""

    steps: int
    batch: int
    learning_rate: float
    weight_decay: float = 0.05


PARTS = {
    "motion_critic": Part(3000, 256, 2e-3),
    "realism": Part(1500, 96, 2e-3),
    "reader": Part(1800, 192, 2e-3),
    "texture": Part(1200, 96, 2e-3),
}


@dataclass(frozen=True)
class Clips:
    """The moving latents of a split: N clips with what really happened."""

    shards: list[collect.Shard]
    labels_N: Tensor
    motion_N4: Tensor
    """Right, forward, yaw and pitch in units of the nominal motion."""

    def __len__(self) -> int:
        return len(self.labels_N)

    def episodes(self) -> list[np.ndarray]:
        """Frames (F, h, w, 3) of every episode, in the order of the labels."""
        return [episode for shard in self.shards for episode in shard.frames_EFhw3]


def load_clips(data: Path, split: str) -> Clips:
    """All latents but the first of every episode of a split."""
    shards = collect.load(data, split)
    labels, motions = [], []
    scale = torch.tensor([MOTION.move, MOTION.move, MOTION.yaw_deg, MOTION.pitch_deg])
    for shard in shards:
        for cameras in shard.cameras_EF5:
            labels.append(collect.true_labels(cameras)[1:])
            poses = collect.latent_poses(cameras)
            motions.append(level_motion(poses[:-1], poses[1:]) / scale)
    return Clips(shards, torch.cat(labels), torch.cat(motions).float())


def read_clips(episode_Fhw3: np.ndarray) -> np.ndarray:
    """Clips (K, 5, h, w, 3) of an episode of 4 K + 1 frames."""
    starts = range(0, len(episode_Fhw3) - FRAMES_PER_LATENT, FRAMES_PER_LATENT)
    return np.stack([episode_Fhw3[s : s + CLIP_FRAMES] for s in starts])


def cached_features(
    cache: Path, clips: Clips, name: str, measure: Callable[[Tensor], Tensor], rng: np.random.Generator | None
) -> Tensor:
    """What ``measure`` finds in every clip, from ``cache`` when it is there; degraded clips when given ``rng``."""
    path = cache / f"{name}.npy"
    if path.is_file():
        found = np.load(path)
        if len(found) == len(clips):
            return torch.from_numpy(found)
    parts = []
    for episode in track(clips.episodes(), f"looking: {name}"):
        frames = read_clips(episode)
        if rng is not None:
            strengths = rng.uniform(0, STRONGEST_AUGMENTATION, len(frames))
            frames = np.stack([degrade(f, s, rng, STILL_KINDS) for f, s in zip(frames, strengths, strict=True)])
        measured = measure(torch.from_numpy(frames).permute(0, 1, 4, 2, 3))
        parts.append(measured.half() if measured.is_floating_point() else measured)
    found = torch.cat(parts)
    cache.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.npy")
    np.save(partial, found.numpy())
    os.replace(partial, path)
    return found


def track(items: list[Any], words: str):
    """The items, with a line of progress and the time that remains."""
    columns = (TextColumn(words), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        yield from progress.track(items, description=words)


def fit(net: nn.Module, part: Part, words: str, seed: int, loss_of: Callable[[torch.Generator], Tensor]) -> None:
    """AdamW with warm-up and cosine over a fixed number of steps, in place."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(net.parameters(), part.learning_rate, weight_decay=part.weight_decay)
    net.train()
    smooth, begun = 0.0, time.monotonic()
    for step in track(list(range(part.steps)), f"training: {words}"):
        rate = part.learning_rate * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / part.steps))
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss = loss_of(generator)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        smooth = loss.item() if step == 0 else 0.98 * smooth + 0.02 * loss.item()
        if step % 300 == 299:
            print(f"{words}: step {step + 1}, loss {smooth:.3f}, {time.monotonic() - begun:.0f} s", flush=True)
    net.eval()
