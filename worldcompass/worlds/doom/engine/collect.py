"""``worldcompass doom collect``: episodes of random composite trajectories, commands and truth.

Format, version 2. ``ROOT/dataset.json`` names seed, sizes and maps. Each shard is a folder
``ROOT/SPLIT/MAP-NNNN`` with four NumPy files (E episodes, M latents, F = 4 M - 3 frames):

=================  ======================  ===================================================
frames.npy         uint8 (E, F, 48, 64, 3)  sRGB
cameras.npy        float32 (E, F, 5)        x, y, z in map units, yaw and pitch in degrees
commands.npy       int16 (E, M)             commanded composite action per latent, 0 for latent 0
nearness.npy       float16 (E, M, 24, 32)   one nominal walk over the depth of each latent's last frame
=================  ======================  ===================================================

A shard is a function of (seed, split, map, number) alone and appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from worldcompass.errors import UserError
from worldcompass.geometry import NUM_ACTIONS, labels_from_poses
from worldcompass.runs.atomic import write_text, writing
from worldcompass.runs.folder import claim
from worldcompass.worlds.doom.engine.engine import Engine, Steps, poses_from_cameras
from worldcompass.worlds.doom.engine.facts import (
    ACTIONS,
    DEPTH_UNIT,
    FRAME_HEIGHT,
    FRAME_WIDTH,
    FRAMES_PER_LATENT,
    MOTION,
    NEARNESS_SHAPE,
    THRESHOLDS,
)
from worldcompass.worlds.doom.engine.feasible import next_segment
from worldcompass.worlds.doom.engine.maps import CRITIC, TRAINING, UNSEEN, DoomMap, find_map

VERSION = 2
EPISODE_LATENTS = 65
EPISODE_FRAMES = FRAMES_PER_LATENT * (EPISODE_LATENTS - 1) + 1
EPISODES_PER_SHARD = 8
WARP_SHARE = 0.7  # share of episodes that start at a place visited before instead of the map's own start
IDLE_SHARE = 0.05  # share of segments that stand still, so that live play can
_ARRAYS = ("frames", "cameras", "commands", "nearness")
STUCK_SHARE = 0.5  # a segment ends when less than this share of its motion happens

# Maps and share of the frames of each split. Critics and judge have episodes of their own.
SPLITS: dict[str, tuple[tuple[DoomMap, ...], float]] = {
    "train": (TRAINING, 0.62),
    "heldout": (TRAINING, 0.04),
    "critic": (TRAINING + CRITIC, 0.15),
    "judge": (TRAINING + CRITIC, 0.15),
    "unseen": (UNSEEN, 0.04),
}


@dataclass(frozen=True)
class ShardPlan:
    """One shard to collect."""

    split: str
    map_name: str
    number: int
    seed: int

    def folder(self, root: Path) -> Path:
        """Where the shard lies."""
        return root / self.split / f"{self.map_name}-{self.number:04d}"


def plan(frames: int, seed: int, maps: Sequence[str] | None) -> list[ShardPlan]:
    """The shards that make about ``frames`` frames, every split and map at least one.

    Raises:
        UserError: for an unknown map.
    """
    wanted = {find_map(name).name for name in maps} if maps else None
    shards = []
    for split, (split_maps, share) in SPLITS.items():
        chosen = [m for m in split_maps if wanted is None or m.name in wanted]
        weights = np.array([m.weight if split == "train" else 1.0 for m in chosen])
        per_map = frames * share * weights / max(weights.sum(), 1e-9) / (EPISODE_FRAMES * EPISODES_PER_SHARD)
        for doom_map, count in zip(chosen, per_map, strict=True):
            for number in range(max(1, round(count))):
                key = hashlib.sha256(f"{seed}/{split}/{doom_map.name}/{number}".encode()).digest()
                shards.append(ShardPlan(split, doom_map.name, number, int.from_bytes(key[:4], "little")))
    return shards


def collect(
    out: Path, frames: int = 400_000, seed: int = 0, workers: int | None = None, maps: list[str] | None = None
) -> Path:
    """Collect what is missing of a dataset; safe to stop and start again.

    Raises:
        UserError: unknown map, too little disk, or a folder that holds another dataset.
    """
    shards = plan(frames, seed, maps)
    _claim(out, {"version": VERSION, "seed": seed, "frames": frames, "maps": maps}, len(shards))
    missing = [s for s in shards if not s.folder(out).is_dir()]
    columns = (TextColumn("collecting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    pool = ProcessPoolExecutor(workers or os.cpu_count() or 1, mp_context=get_context("spawn"))
    with Progress(*columns) as progress, pool:
        task = progress.add_task("collecting", total=len(shards), completed=len(shards) - len(missing))
        futures = [pool.submit(collect_shard, shard, out) for shard in missing]
        try:
            for future in as_completed(futures):
                future.result()
                progress.advance(task)
        finally:  # after Ctrl-C too: shards that have not begun are not waited for
            pool.shutdown(cancel_futures=True)
    write_card(out)
    return out


def _claim(out: Path, settings: dict[str, object], num_shards: int) -> None:
    """Write the settings, or make sure that a dataset begun before had the same."""
    need = 1.1 * num_shards * EPISODES_PER_SHARD * EPISODE_FRAMES * FRAME_HEIGHT * FRAME_WIDTH * 3
    found = claim(out, out / "dataset.json", settings, "a dataset", need, "lower --frames")
    if found is not None and found != settings:
        raise UserError(f"{out} holds a dataset made with {found}, not {settings}: choose another --out")


def collect_shard(shard: ShardPlan, root: Path) -> None:
    """Play the episodes of one shard and move the finished folder into place."""
    rng = np.random.default_rng(shard.seed)
    arrays: dict[str, list[np.ndarray]] = {name: [] for name in _ARRAYS}
    visited: list[np.ndarray] = []
    with Engine(find_map(shard.map_name), depth=True) as engine:
        while len(arrays["frames"]) < EPISODES_PER_SHARD:
            place = None
            if visited and rng.random() < WARP_SHARE:
                spot = visited[rng.integers(len(visited))]
                place = (float(spot[0]), float(spot[2]), float(rng.uniform(-180, 180)))
            episode = play_episode(engine, rng, place, EPISODE_LATENTS)
            if episode is None:
                continue
            for name, array in zip(_ARRAYS, episode, strict=True):
                arrays[name].append(array)
            visited.extend(episode[1][::FRAMES_PER_LATENT])
    with writing(shard.folder(root), shared=True) as folder:
        folder.mkdir()
        for name, episodes in arrays.items():
            np.save(folder / f"{name}.npy", np.stack(episodes))


def play_episode(
    engine: Engine, rng: np.random.Generator, place: tuple[float, float, float] | None, latents: int
) -> tuple[np.ndarray, ...] | None:
    """The arrays of one episode, as a shard holds them; None when the map's script ended it early."""
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
    return np.concatenate(frames), np.concatenate(cameras), np.array(commands, np.int16), np.stack(near)


def nearness(steps: Steps) -> np.ndarray:
    """One latent's nominal walk over the depth of what its last frame sees, float16 (24, 32)."""
    assert steps.depth_Fhw is not None
    depth = cv2.resize(
        steps.depth_Fhw[-1].astype(np.float32), NEARNESS_SHAPE[::-1], interpolation=cv2.INTER_AREA
    )
    return (MOTION.move / (DEPTH_UNIT * depth.clip(1))).astype(np.float16)


@dataclass(frozen=True)
class Shard:
    """One shard on disk, memory-mapped."""

    map_name: str
    frames_EFhw3: np.ndarray
    cameras_EF5: np.ndarray
    commands_EM: np.ndarray
    nearness_EMyx: np.ndarray


def load(root: Path, split: str, maps: Sequence[str] | None = None) -> list[Shard]:
    """The shards of a split in a fixed order, memory-mapped.

    Raises:
        UserError: when ``root`` is no dataset of this version or lacks the split.
    """
    settings = root / "dataset.json"
    if not settings.is_file():
        raise UserError(
            f"{root} is not a dataset: expected dataset.json; make one with 'worldcompass doom collect'"
        )
    version = json.loads(settings.read_text()).get("version")
    if version != VERSION:
        raise UserError(f"{root} holds a dataset of version {version}, expected {VERSION}: collect it again")
    shards = []
    for folder in sorted((root / split).glob("[!.]*")):
        map_name = folder.name.rpartition("-")[0]
        if maps is None or map_name in maps:
            arrays = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS)
            shards.append(Shard(map_name, *arrays))
    if not shards:
        raise UserError(
            f"{root} has no shard of split {split!r}: run 'worldcompass doom collect --out {root}' again"
        )
    return shards


def latent_poses(cameras_F5: np.ndarray) -> torch.Tensor:
    """``world_from_camera`` at each latent's last frame, float32 (M, 4, 4)."""
    return poses_from_cameras(cameras_F5[::FRAMES_PER_LATENT])


def true_labels(cameras_F5: np.ndarray) -> torch.Tensor:
    """What really happened, one label per latent, from the engine's own motion; int64 (M,)."""
    return labels_from_poses(latent_poses(cameras_F5), THRESHOLDS)


def fingerprint(root: Path) -> str:
    """SHA-256 over the names and contents of all shards' files; the same seed and engine give the same one."""
    digest = hashlib.sha256()
    for path in sorted(root.glob("[!.]*/[!.]*/*.npy")):
        digest.update(path.relative_to(root).as_posix().encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def write_card(root: Path) -> Path:
    """A data card: fingerprint, frames per map and split, counts per action, share of commands carried out."""
    lines = ["# Data card", "", f"Settings: `{(root / 'dataset.json').read_text()}`", ""]
    lines += [f"SHA-256 of the shards: `{fingerprint(root)}`", ""]
    for split in SPLITS:
        if not any((root / split).glob("[!.]*")):
            continue
        shards = load(root, split)
        counts, obeyed, total = np.zeros(NUM_ACTIONS, int), 0, 0
        frames: dict[str, int] = {}
        for shard in shards:
            frames[shard.map_name] = frames.get(shard.map_name, 0) + int(np.prod(shard.cameras_EF5.shape[:2]))
            for cameras, commands in zip(shard.cameras_EF5, shard.commands_EM, strict=True):
                truth = true_labels(cameras)[1:].numpy()
                counts += np.bincount(truth, minlength=NUM_ACTIONS)
                obeyed += int((truth == commands[1:]).sum())
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
