"""The maps that the engine plays: levels made from a seed, maps of ViZDoom, and WAD files of a user.

The data set is recorded on levels (``levels.splits``). The maps of ViZDoom are those of the shipped weights:
``TRAINING`` trained the world model, ``CRITIC`` only critics and judge, and no network saw ``UNSEEN``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldcompass.errors import UserError
from worldcompass.worlds.doom.levels import splits
from worldcompass.worlds.doom.levels.splits import Level
from worldcompass.worlds.doom.levels.wad import LUMP


@dataclass(frozen=True)
class DoomMap:
    """A map in a WAD file."""

    name: str
    wad: str
    """Path of the file, in the vizdoom package or absolute."""
    lump: str
    outdoor: bool
    weight: float = 1.0
    """Share of the training data relative to the other maps."""
    level: Level | None = None
    """What the file is made of, for a level."""

    def path(self, folder: Path) -> Path:
        """The WAD file; that of a level is written to ``folder``, which no other process writes to."""
        import vizdoom

        if self.level is None:
            return Path(vizdoom.__file__).parent / self.wad
        path = folder / self.wad
        path.write_bytes(self.level.wad())
        return path

    def places(self) -> list[tuple[float, float]]:
        """Where an episode may begin, x and z in map units; none are known of a map that is no level."""
        return [] if self.level is None else self.level.places()

    def obstacles_L4(self) -> np.ndarray:
        """Edges (x1, y1, x2, y2) of the boxes of things that are known to stand about, float32 (L, 4)."""
        boxes = [] if self.level is None else self.level.obstacles()
        edges = [
            edge
            for x0, y0, x1, y1 in boxes
            for edge in ((x0, y0, x0, y1), (x0, y1, x1, y1), (x1, y1, x1, y0), (x1, y0, x0, y0))
        ]
        return np.array(edges, np.float32).reshape(-1, 4)

    @property
    def slug(self) -> str:
        """The name, fit for a folder."""
        return re.sub(r"[^\w.-]", "_", self.name)


TRAINING = (
    DoomMap("my_way_home", "scenarios/my_way_home.wad", "map01", outdoor=False, weight=4),
    DoomMap("predict_position", "scenarios/predict_position.wad", "map01", outdoor=False, weight=1.5),
    DoomMap("health_gathering", "scenarios/health_gathering.wad", "map01", outdoor=False, weight=1),
    DoomMap("freedoom1_e3m1", "freedoom1.wad", "e3m1", outdoor=True, weight=1.5),
)
CRITIC = (
    DoomMap("deathmatch", "scenarios/deathmatch.wad", "map01", outdoor=False),
    DoomMap("take_cover", "scenarios/take_cover.wad", "map01", outdoor=False),
    DoomMap("simpler_basic", "scenarios/simpler_basic.wad", "map01", outdoor=False),
    DoomMap("freedoom1_e1m1", "freedoom1.wad", "e1m1", outdoor=False),
    DoomMap("freedoom1_e1m2", "freedoom1.wad", "e1m2", outdoor=True),
    DoomMap("freedoom2_map01", "freedoom2.wad", "map01", outdoor=False),
    DoomMap("freedoom2_map05", "freedoom2.wad", "map05", outdoor=False),
    DoomMap("freedoom2_map11", "freedoom2.wad", "map11", outdoor=True),
    DoomMap("freedoom2_map15", "freedoom2.wad", "map15", outdoor=True),
    DoomMap("freedoom2_map20", "freedoom2.wad", "map20", outdoor=True),
)
UNSEEN = (
    DoomMap("health_gathering_supreme", "scenarios/health_gathering_supreme.wad", "map01", outdoor=False),
    DoomMap("multi_deathmatch", "scenarios/multi_deathmatch.wad", "map01", outdoor=False),
    DoomMap("freedoom2_map10", "freedoom2.wad", "map10", outdoor=True),
    DoomMap("freedoom2_map12", "freedoom2.wad", "map12", outdoor=False),
)
ALL = {m.name: m for m in TRAINING + CRITIC + UNSEEN}


def level_map(level: Level) -> DoomMap:
    """The map of a level."""
    return DoomMap(level.name, f"{level.name}.wad", LUMP, outdoor=True, level=level)


def level_maps(*families: str) -> tuple[DoomMap, ...]:
    """The maps of the levels of some families, which take turns."""
    every = [level for family in families for level in splits.levels(family)]
    return tuple(level_map(level) for level in sorted(every, key=lambda level: level.number))


def find_map(name: str) -> DoomMap:
    """The map of a name: a level such as ``house_003``, a map of ViZDoom, or ``PATH.wad:MAP``.

    Raises:
        UserError: for an unknown name, with the known ones, or for a file that does not exist.
    """
    if name in ALL:
        return ALL[name]
    if (level := splits.find_level(name)) is not None:
        return level_map(level)
    path, _, lump = name.rpartition(":")
    if path.lower().endswith(".wad") and lump:
        if not Path(path).is_file():
            raise UserError(f"there is no WAD file {path}: expected PATH.wad:MAP, such as maps.wad:MAP01")
        return DoomMap(name, str(Path(path).resolve()), lump, outdoor=True)
    families = ", ".join(f"{family}_000" for family in splits.FAMILIES)
    raise UserError(
        f"unknown map {name!r}: expected a level ({families}, ...), PATH.wad:MAP, or one of {', '.join(ALL)}"
    )
