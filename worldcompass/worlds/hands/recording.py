"""Recordings of the Hands engine on disk; nothing here knows the engine.

Format, version 1. ``ROOT/dataset.json`` says the version and what made the recordings. Each shard is a folder
``ROOT/SPLIT/NNNNN`` of NumPy files (E episodes, M latents, F = 4 M - 3 frames, T = 4 things):

============  =======================  ==================================================================
frames.npy    uint8 (E, F, 64, 64, 3)   sRGB
actions.npy   int16 (E, M)              composite action per latent, 0 for latent 0; the nearest one where
                                        the controls were continuous
controls.npy  float32 (E, M, 4)         x, y, z, opening in [-1, 1], what was really commanded
grip.npy      float32 (E, F, 4)         x, y, z of the point between the finger tips, opening; metres
things.npy    float32 (E, F, T, 7)      position and quaternion (w, x, y, z) of cup, ball, block, bottle
touch.npy     bool (E, F, T, 5)         whether each touches table, left and right finger, palm, another
held.npy      bool (E, F, T)            between both fingers and off the table
present.npy   bool (E, T)               whether the scene has the thing
kind.npy      uint8 (E,)                what the gripper did, an index into the ``kinds`` of dataset.json
number.npy    int64 (E,)                the scene's number in its split: ``splits.scene`` gives its colours
============  =======================  ==================================================================

A shard appears whole or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from worldcompass.errors import UserError

VERSION = 1
CARD = "dataset.json"


@dataclass(frozen=True)
class Episode:
    """One recorded episode: the arrays of a shard without their first axis."""

    frames: np.ndarray
    actions: np.ndarray
    controls: np.ndarray
    grip: np.ndarray
    things: np.ndarray
    touch: np.ndarray
    held: np.ndarray
    present: np.ndarray
    kind: np.ndarray
    number: np.ndarray


ARRAYS = tuple(field.name for field in fields(Episode))


@dataclass(frozen=True)
class Shard:
    """One shard on disk, memory-mapped; the arrays have a leading axis of episodes."""

    folder: Path
    arrays: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.arrays["number"])

    def episode(self, index: int) -> Episode:
        """One episode, still memory-mapped."""
        return Episode(**{name: self.arrays[name][index] for name in ARRAYS})


def shard_folder(root: Path, split: str, index: int) -> Path:
    """Where a shard lies."""
    return root / split / f"{index:05d}"


def claim(root: Path, made_by: dict[str, object], bytes_needed: int) -> None:
    """Write the dataset's card, or make sure that one begun before was made alike.

    Raises:
        UserError: when the folder holds something else, or the disk lacks space.
    """
    path, card = root / CARD, {"version": VERSION, **made_by}
    if path.exists():
        found = _read_card(path)
        if found != card:
            raise UserError(f"{root} holds a dataset made with {found}, not {card}: choose another folder")
    root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(root).free
    if free < 1.05 * bytes_needed:
        raise UserError(
            f"{root} has {free / 1e9:.1f} GB free, the recordings need {bytes_needed / 1e9:.1f} GB:"
            " free space or record fewer episodes"
        )
    path.write_text(json.dumps(card))


def write_shard(folder: Path, episodes: Sequence[Episode]) -> None:
    """Write a shard and move the finished folder into place."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name in ARRAYS:
        np.save(partial / f"{name}.npy", np.stack([getattr(episode, name) for episode in episodes]))
    os.replace(partial, folder)


def load(root: Path, split: str) -> list[Shard]:
    """The shards of a split in their order, memory-mapped.

    Raises:
        UserError: when ``root`` holds no recordings of this version, or none of the split.
    """
    card = root / CARD
    if not card.is_file():
        raise UserError(f"{root} holds no Hands recordings: expected {CARD} there; record some first")
    version = _read_card(card).get("version")
    if version != VERSION:
        raise UserError(
            f"{root} holds recordings of version {version}, expected {VERSION}: record them again"
        )
    folders = sorted((root / split).glob("[!.]*"))
    if not folders:
        raise UserError(f"{root} has no recordings of split {split!r}: record some, or choose another split")
    return [
        Shard(folder, {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS})
        for folder in folders
    ]


def _read_card(path: Path) -> dict[str, object]:
    try:
        card = json.loads(path.read_text())
    except ValueError as why:
        raise UserError(f"{path} is damaged ({why}): delete it and record again") from why
    if not isinstance(card, dict):
        raise UserError(f"{path} is no card of a dataset: expected an object with 'version'")
    return card
