"""``worldcompass doom collect``: episodes of random composite trajectories, commands and truth.

Shards are named ``MAP-NNNN``; a shard is a function of (seed, split, map, number) alone. The format is that of
``worlds.small.data``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

from worldcompass.geometry import NUM_ACTIONS, labels_from_poses
from worldcompass.runs.atomic import write_text
from worldcompass.worlds.doom.engine.engine import Engine, Steps, poses_from_cameras
from worldcompass.worlds.doom.engine.facts import (
    ACTIONS,
    DEPTH_UNIT,
    FRAME_HEIGHT,
    FRAME_WIDTH,
    FRAMES_PER_LATENT,
    MOTION,
    THRESHOLDS,
)
from worldcompass.worlds.doom.engine.feasible import next_segment, sight
from worldcompass.worlds.doom.engine.maps import DoomMap, find_map, level_maps
from worldcompass.worlds.doom.levels.splits import EDITION
from worldcompass.worlds.small import data

EPISODE_LATENTS = 65
EPISODE_FRAMES = FRAMES_PER_LATENT * (EPISODE_LATENTS - 1) + 1
EPISODES_PER_SHARD = 8
WARP_SHARE = 0.7  # share of episodes that start at a place visited before instead of the map's own start
IDLE_SHARE = 0.05  # share of segments that stand still, so that live play can
VIEW = 192.0  # map units of free sight ahead of most starts in a level
YAWS = 12  # directions tried for that
NEAR_SHARE = 0.1  # share of the starts in a level that face anywhere
STUCK_SHARE = 0.5  # a segment ends when less than this share of its motion happens

# Levels and share of the frames of each split. Critics and judge have episodes of their own.
SPLITS: dict[str, tuple[tuple[str, ...], float]] = {
    "train": (("house",), 0.62),
    "heldout": (("house",), 0.04),
    "critic": (("house", "critic"), 0.13),
    "judge": (("house", "judge"), 0.13),
    "unseen": (("unseen",), 0.05),
    "strange": (("strange",), 0.03),
}
FURTHER = ("train", "heldout", "critic", "judge")  # the splits of a map that is of no split


@dataclass(frozen=True)
class DoomEpisode(data.Episode):
    """Frames are (48, 64)."""

    cameras_F5: np.ndarray
    """float32: x, y, z in map units, yaw and pitch in degrees."""
    commands_M: np.ndarray
    """int16: commanded composite action, 0 for latent 0."""
    nearness_Mhw: np.ndarray
    """float16 (M, 48, 64): one nominal walk over the depth of each latent's last frame."""


FORMAT = data.Format(
    DoomEpisode, version=3, frames_per_latent=FRAMES_PER_LATENT, remedy="run 'worldcompass doom collect'"
)


@dataclass(frozen=True)
class ShardPlan:
    """One shard to collect."""

    split: str
    doom_map: DoomMap
    number: int
    seed: int

    def folder(self, root: Path) -> Path:
        """Where the shard lies."""
        return root / self.split / f"{self.doom_map.slug}-{self.number:04d}"


def plan(frames: int, seed: int, maps: Sequence[str] | None) -> list[ShardPlan]:
    """The shards that make about ``frames`` frames, at least one for every split.

    Args:
        frames: of all splits.
        seed: of the data set.
        maps: names of maps to record instead of the levels of the splits; each has at least one shard.

    Raises:
        UserError: for an unknown map.
    """
    wanted = list(dict.fromkeys(maps or ()))
    shards = []
    for split, (families, share) in SPLITS.items():
        chosen = _named(wanted, split) if wanted else level_maps(*families)
        total = frames * share / (EPISODE_FRAMES * EPISODES_PER_SHARD)
        if not wanted:  # neighbouring levels differ in style
            chosen = chosen[: max(1, round(total))]
        weight = sum(_weight(m, split) for m in chosen)
        for doom_map in chosen:
            for number in range(max(1, round(total * _weight(doom_map, split) / weight))):
                key = hashlib.sha256(f"{seed}/{split}/{doom_map.name}/{number}".encode()).digest()
                shards.append(ShardPlan(split, doom_map, number, int.from_bytes(key[:4], "little")))
    return shards


def _named(names: Sequence[str], split: str) -> tuple[DoomMap, ...]:
    """Those of the named maps that belong to a split."""
    found = []
    for doom_map in map(find_map, names):
        level = doom_map.level
        if split in FURTHER if level is None else level.family in SPLITS[split][0]:
            found.append(doom_map)
    return tuple(found)


def _weight(doom_map: DoomMap, split: str) -> float:
    return doom_map.weight if split == "train" else 1.0


def collect(
    out: Path, frames: int = 400_000, seed: int = 0, workers: int | None = None, maps: list[str] | None = None
) -> Path:
    """Collect what is missing of a dataset; safe to stop and start again.

    Raises:
        UserError: unknown map, too little disk, or a folder that holds another dataset.
    """
    shards = {shard.folder(out): shard for shard in plan(frames, seed, maps)}
    missing = sum(not folder.is_dir() for folder in shards)
    need = 1.1 * missing * EPISODES_PER_SHARD * EPISODE_FRAMES * FRAME_HEIGHT * FRAME_WIDTH * 3
    made_by = {"seed": seed, "frames": frames, "maps": maps or f"levels, edition {EDITION}"}
    data.claim(out, FORMAT, made_by, need, "lower --frames")
    data.collect(shards, partial(collect_shard, root=out), workers, "collecting")
    write_card(out)
    return out


def collect_shard(shard: ShardPlan, root: Path) -> None:
    """Play the episodes of one shard and move the finished folder into place."""
    rng = np.random.default_rng(shard.seed)
    episodes: list[DoomEpisode] = []
    visited: list[np.ndarray] = []
    with Engine(shard.doom_map, depth=True) as engine:
        while len(episodes) < EPISODES_PER_SHARD:
            place = start_place(engine, rng, visited)
            episode = play_episode(engine, rng, place, EPISODE_LATENTS)
            if episode is not None:
                episodes.append(episode)
                visited.extend(episode.cameras_F5[::FRAMES_PER_LATENT])
    data.write_shard(shard.folder(root), episodes)


def start_place(
    engine: Engine, rng: np.random.Generator, visited: Sequence[np.ndarray]
) -> tuple[float, float, float] | None:
    """Where an episode begins: x, z and yaw in degrees; None for the map's own start.

    In a level that is any free place, mostly with a view of ``VIEW`` units; on another map it is one that was
    visited before, cameras (5).
    """
    free = engine.map.places()
    if not free:
        if not visited or rng.random() >= WARP_SHARE:
            return None
        spot = visited[int(rng.integers(len(visited)))]
        return float(spot[0]), float(spot[2]), float(rng.uniform(-180, 180))
    if engine.walls_L4 is None:
        engine.reset(0)
    x, z = free[int(rng.integers(len(free)))]
    yaws = rng.uniform(-180, 180, YAWS).tolist()
    if engine.walls_L4 is None or rng.random() < NEAR_SHARE:
        return x, z, yaws[0]
    sights = [sight(x, z, yaw, engine.walls_L4) for yaw in yaws]
    return (
        x,
        z,
        next((y for y, far in zip(yaws, sights, strict=True) if far >= VIEW), yaws[int(np.argmax(sights))]),
    )


def play_episode(
    engine: Engine, rng: np.random.Generator, place: tuple[float, float, float] | None, latents: int
) -> DoomEpisode | None:
    """One episode; None when the map's script ended it early."""
    steps = engine.reset(int(rng.integers(2**31)), place)
    if engine.finished() or engine.walls_L4 is None:
        return None
    frames, cameras, commands, near = [steps.frames_Fhw3], [steps.cameras_F5], [0], [nearness(steps)]
    action, hold = 0, 0
    while len(commands) < latents:
        if hold == 0:
            action, hold = next_segment(rng, cameras[-1][-1], engine.walls_L4)
            if rng.random() < IDLE_SHARE:
                action, hold = 0, int(rng.integers(1, 5))
        steps = engine.act(action)
        if steps is None:
            return None
        moved = np.hypot(*(steps.cameras_F5[-1] - cameras[-1][-1])[[0, 2]])
        frames.append(steps.frames_Fhw3)
        cameras.append(steps.cameras_F5)
        commands.append(action)
        near.append(nearness(steps))
        stuck = action >= 9 and moved < STUCK_SHARE * MOTION.move
        hold = 0 if stuck else hold - 1
    return DoomEpisode(
        np.concatenate(frames), np.concatenate(cameras), np.array(commands, np.int16), np.stack(near)
    )


def nearness(steps: Steps) -> np.ndarray:
    """One latent's nominal walk over the depth of what its last frame sees, float16 (48, 64).

    Of each pixel's middle alone: a mean over an edge would be a place that is not there.
    """
    assert steps.depth_Fhw is not None
    size = (FRAME_WIDTH, FRAME_HEIGHT)
    depth = cv2.resize(steps.depth_Fhw[-1], size, interpolation=cv2.INTER_NEAREST_EXACT)
    return (MOTION.move / (DEPTH_UNIT * depth.astype(np.float32).clip(1))).astype(np.float16)


def map_of(shard: data.Shard[DoomEpisode]) -> str:
    """The map that a shard was recorded on."""
    return shard.folder.name.rpartition("-")[0]


def latent_poses(cameras_F5: np.ndarray) -> torch.Tensor:
    """``world_from_camera`` at each latent's last frame, float32 (M, 4, 4)."""
    return poses_from_cameras(cameras_F5[::FRAMES_PER_LATENT])


def true_labels(cameras_F5: np.ndarray) -> torch.Tensor:
    """What really happened, one label per latent, from the engine's own motion; int64 (M,)."""
    return labels_from_poses(latent_poses(cameras_F5), THRESHOLDS)


def write_card(root: Path) -> Path:
    """A data card: fingerprint, frames per map and split, counts per action, share of commands carried out."""
    lines = ["# Data card", "", f"Settings: `{(root / data.CARD).read_text(encoding='utf-8')}`", ""]
    lines += [f"SHA-256 of the shards: `{data.fingerprint(root)}`", ""]
    for split in SPLITS:
        if not any((root / split).glob("[!.]*")):
            continue
        counts, obeyed, total = np.zeros(NUM_ACTIONS, int), 0, 0
        frames: dict[str, int] = {}
        for shard in data.load(root, split, FORMAT):
            for episode in shard:
                frames[map_of(shard)] = frames.get(map_of(shard), 0) + len(episode.cameras_F5)
                truth = true_labels(episode.cameras_F5)[1:].numpy()
                counts += np.bincount(truth, minlength=NUM_ACTIONS)
                obeyed += int((truth == episode.commands_M[1:]).sum())
                total += len(truth)
        lines += [
            f"## {split}",
            "",
            f"Commands carried out exactly: {100 * obeyed / total:.1f}% of {total} latents.",
            "",
        ]
        lines += ["| map | frames |", "|---|---|", *(f"| {k} | {v} |" for k, v in frames.items()), ""]
        lines += ["| action (what happened) | latents |", "|---|---|"]
        lines += [f"| {ACTIONS.name(i)} | {counts[i]} |" for i in np.argsort(-counts) if counts[i]] + [""]
    return write_text(root / "card.md", "\n".join(lines))
