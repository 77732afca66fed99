"""The maps of the embedded world, by split.

``TRAINING`` maps train the world model, and ``CRITIC`` maps only critics and judge. No network trains on ``UNSEEN``
maps. Held-out episodes of the training maps have separate seeds (collect.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from worldcompass.errors import UserError


@dataclass(frozen=True)
class DoomMap:
    """A map from the files of ViZDoom."""

    name: str
    wad: str
    """Path of the file in the vizdoom package."""
    lump: str
    outdoor: bool
    weight: float = 1.0
    """Share of the training data relative to the other maps."""

    def path(self) -> Path:
        """The WAD file in the installed vizdoom package."""
        import vizdoom

        return Path(vizdoom.__file__).parent / self.wad


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


def find_map(name: str) -> DoomMap:
    """The map of a name.

    Raises:
        UserError: for an unknown name, with the known ones.
    """
    if name not in ALL:
        raise UserError(f"unknown map {name!r}: expected one of {', '.join(ALL)}")
    return ALL[name]
