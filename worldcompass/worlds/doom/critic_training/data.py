"""Clips of the dataset for critics and judge, and their features in a cache on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from worldcompass.geometry import level_motion
from worldcompass.runs.atomic import writing
from worldcompass.worlds.doom.critics.motion import CLIP_FRAMES
from worldcompass.worlds.doom.critics.realism import STILL_KINDS, degrade
from worldcompass.worlds.doom.engine import collect
from worldcompass.worlds.doom.engine.facts import FRAMES_PER_LATENT, MOTION
from worldcompass.worlds.small.data import Shard, load

STRONGEST_AUGMENTATION = 0.7  # strength of realism.degrade for clips of the readers of motion


@dataclass(frozen=True)
class Clips:
    """The moving latents of a split: N clips with the engine's labels and motion."""

    shards: list[Shard[collect.DoomEpisode]]
    labels_N: Tensor
    motion_N4: Tensor
    """Right, forward, yaw and pitch in units of the nominal motion."""

    def __len__(self) -> int:
        return len(self.labels_N)

    def episodes(self) -> list[np.ndarray]:
        """Frames (F, h, w, 3) of every episode, in the order of the labels."""
        return [episode.frames_Fhw3 for shard in self.shards for episode in shard]


def load_clips(data: Path, split: str) -> Clips:
    """All latents of a split except the first of every episode."""
    shards = load(data, split, collect.FORMAT)
    labels, motions = [], []
    scale = torch.tensor([MOTION.move, MOTION.move, MOTION.yaw_deg, MOTION.pitch_deg])
    for shard in shards:
        for episode in shard:
            labels.append(collect.true_labels(episode.cameras_F5)[1:])
            poses = collect.latent_poses(episode.cameras_F5)
            motions.append(level_motion(poses[:-1], poses[1:]) / scale)
    return Clips(shards, torch.cat(labels), torch.cat(motions).float())


def read_clips(episode_Fhw3: np.ndarray) -> np.ndarray:
    """Clips (K, 5, h, w, 3) of an episode of 4 K + 1 frames."""
    starts = range(0, len(episode_Fhw3) - FRAMES_PER_LATENT, FRAMES_PER_LATENT)
    return np.stack([episode_Fhw3[s : s + CLIP_FRAMES] for s in starts])


def cached_features(
    cache: Path, clips: Clips, name: str, measure: Callable[[Tensor], Tensor], rng: np.random.Generator | None
) -> Tensor:
    """The features of every clip by ``measure``, from the cache if there; of degraded clips with ``rng``."""
    path = cache / f"{name}.npy"
    if path.is_file():
        found = np.load(path)
        if len(found) == len(clips):
            return torch.from_numpy(found)
    parts = []
    for episode in track(clips.episodes(), f"features: {name}"):
        frames = read_clips(episode)
        if rng is not None:
            strengths = rng.uniform(0, STRONGEST_AUGMENTATION, len(frames))
            frames = np.stack(
                [degrade(f, s, rng, STILL_KINDS) for f, s in zip(frames, strengths, strict=True)]
            )
        measured = measure(torch.from_numpy(frames).permute(0, 1, 4, 2, 3))
        parts.append(measured.half() if measured.is_floating_point() else measured)
    found = torch.cat(parts)
    with writing(path, shared=True) as unfinished:
        np.save(unfinished, found.numpy())
    return found


def track(items: list[Any], words: str) -> Iterator[Any]:
    """Iterate over items with a progress line and the remaining time."""
    columns = (TextColumn(words), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        yield from progress.track(items, description=words)
