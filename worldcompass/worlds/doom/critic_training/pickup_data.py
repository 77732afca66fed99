"""Scenes of pick-ups on disk, to train the pick-up critic; drawn once, and resumable by map.

``ROOT/SPLIT/MAP/scenes.json`` and ``frames.npy``: uint8 (S, 3, 45, 48, 64, 3), sRGB. A folder is written atomically
and is a function of (seed, split, map, number of scenes).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldcompass.errors import UserError
from worldcompass.runs.atomic import writing
from worldcompass.worlds.doom.engine.maps import UNSEEN, DoomMap, find_map
from worldcompass.worlds.doom.engine.pickup_scenes import Scene, draw_scenes, load_scenes, save_scenes

SEEN = tuple(
    find_map(name)
    for name in (
        "predict_position", "health_gathering", "deathmatch", "take_cover", "simpler_basic", "freedoom1_e1m1",
        "freedoom1_e1m2", "freedoom2_map11",
    )
)  # fmt: skip
"""Maps that load quickly and have room for items next to a walk, unlike my_way_home."""
SPLITS: dict[str, tuple[DoomMap, ...]] = {"train": SEEN, "heldout": SEEN, "unseen": UNSEEN}
"""``heldout``: other scenes of the maps of ``train``. No network is trained on the maps of ``unseen``."""


@dataclass(frozen=True)
class SceneFrames:
    """The scenes of one map, with memory-mapped frames."""

    scenes: list[Scene]
    frames_SGFhw3: np.ndarray


def prefix_of(split: str) -> str:
    """Prefix of the scene ids of a split; ``worldcompass doom pickups`` scores on ``unseen``."""
    return f"pickups/{split}"


def collect_scenes(
    root: Path, split: str, per_map: int, seed: int, on_scene: Callable[[], None] = lambda: None
) -> list[SceneFrames]:
    """Draw the missing scenes of a split and open all of them.

    Raises:
        UserError: when a folder holds another number of scenes, or a file that is not readable.
    """
    found = []
    for doom_map in SPLITS[split]:
        folder = root / split / doom_map.name
        if not folder.is_dir():
            played = draw_scenes([doom_map], per_map, seed, prefix_of(split), on_scene=on_scene)
            frames = np.stack([p.frames_GF3hw.movedim(2, -1).numpy() for p in played])
            with writing(folder, shared=True) as unfinished:
                unfinished.mkdir()
                save_scenes(unfinished / "scenes.json", [p.scene for p in played])
                np.save(unfinished / "frames.npy", frames)
        else:
            for _ in range(per_map):
                on_scene()
        scenes, frames = load_scenes(folder / "scenes.json"), np.load(folder / "frames.npy", mmap_mode="r")
        if len(scenes) != per_map or len(frames) != per_map:
            raise UserError(
                f"{folder} holds {len(scenes)} scenes, expected {per_map}: delete it or choose another --data"
            )
        found.append(SceneFrames(scenes, frames))
    return found
