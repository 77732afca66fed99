"""How far a world holds: measures of long videos by depth, and the frame at which each breaks down.

The rule was fixed before the first video was looked at. A measure *breaks down* in the first window of frames in
which its mean over the scenarios lies below half-way between two levels of the same window: the engine's, and
*chance*, which is what the engine's video of another scenario scores against this one's commands and truth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldcompass.errors import UserError
from worldcompass.evaluate import FOLLOWED, Measured
from worldcompass.runs.atomic import write_json
from worldcompass.runs.metrics import read_object
from worldcompass.runs.results import Curve
from worldcompass.statistics import Crossing, resamples

SCHEMA = 1  # of the file
ENGINE, CHANCE, BASE, TRAINED = "engine", "chance", "base", "trained"
MODELS = (BASE, TRAINED)
HALF_WAY = 0.5  # between chance and the engine
DIGITS = 4  # of a stored number
PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True)
class Breakdown:
    """When a measure broke down, with its 95% interval over scenarios, in frames after the start image."""

    frame: int | None
    """The first frame of the window; None when it holds to the end."""
    low: int | None
    high: int | None

    def text(self, frames: int) -> str:
        """Such as ``300 [200, 500]``; ``>1500`` where it holds to the end of so many frames."""
        frame, low, high = (
            f">{frames}" if end is None else str(end) for end in (self.frame, self.low, self.high)
        )
        return f"{frame} [{low}, {high}]"


def breakdown(
    model_VD: np.ndarray, engine_VD: np.ndarray, chance_VD: np.ndarray, rows_BV: np.ndarray, window: int
) -> Breakdown:
    """When a model's measure breaks down, by the rule of this module.

    Args:
        model_VD: the measure of V videos in D windows, paired by video with the others.
        engine_VD: the engine's.
        chance_VD: that of the engine's videos of other scenarios.
        rows_BV: resamples of videos.
        window: frames of a window.
    """
    windows = model_VD.shape[1]
    index_B = [_first(*(v[rows].mean(0) for v in (model_VD, engine_VD, chance_VD))) for rows in rows_BV]
    low, high = np.percentile(index_B, PERCENTILES, method="nearest")
    ends = (_first(model_VD.mean(0), engine_VD.mean(0), chance_VD.mean(0)), int(low), int(high))
    return Breakdown(*(None if end == windows else end * window for end in ends))


def _first(model_D: np.ndarray, engine_D: np.ndarray, chance_D: np.ndarray) -> int:
    """The first window below half-way, D without one; a window in which chance is as good says nothing."""
    border_D = chance_D + HALF_WAY * (engine_D - chance_D)
    below = np.flatnonzero((model_D < border_D) & (engine_D > chance_D))
    return int(below[0]) if len(below) else len(model_D)


@dataclass(frozen=True)
class Horizon:
    """What long videos of one world showed."""

    world: str
    frames: int
    """Imagined, after the start image."""
    window: int
    """Frames of a window, the D of the measures."""
    seed: int
    """Of the noise."""
    scenarios_hash: str
    """See ``evaluate.scenarios_hash``, over all blocks of scenarios."""
    weights: Mapping[str, str]
    """By model: fingerprint of the network's file."""
    ruled: tuple[str, ...]
    """Measures that the rule is applied to."""
    sides: Mapping[str, Measured]
    """``engine``, ``chance``, ``base`` and, if there are trained weights, ``trained``; video by video the same."""
    version: str = ""
    """Of this package."""
    command: str = ""

    @property
    def models(self) -> list[str]:
        """The models that were measured."""
        return [side for side in MODELS if side in self.sides]

    @property
    def scenarios(self) -> int:
        """V."""
        return len(self.sides[ENGINE].scenarios)

    def curve(self, side: str, measure: str) -> Curve:
        """Means of a side by window, with 95% intervals over scenarios."""
        return self._curve(self.sides[side].values_VD[measure])

    def change(self, measure: str) -> Curve:
        """Trained minus base by window, paired by scenario."""
        base, trained = (self.sides[side].values_VD[measure] for side in MODELS)
        return self._curve(trained - base)

    def _curve(self, values_VD: np.ndarray) -> Curve:
        found = Crossing.of(self.sides[ENGINE].scenarios).means(values_VD)
        return Curve(*(tuple(getattr(one, end) for one in found) for end in ("mean", "low", "high")))

    def breakdown(self, side: str, measure: str) -> Breakdown:
        """When a measure of a model breaks down."""
        model, engine, chance = (self.sides[name].values_VD[measure] for name in (side, ENGINE, CHANCE))
        return breakdown(model, engine, chance, resamples(self.sides[ENGINE].scenarios), self.window)

    def broke_down(self, side: str) -> int | None:
        """When the first of the ruled measures of a model breaks down; None when all hold to the end."""
        frames = [self.breakdown(side, measure).frame for measure in self.ruled]
        return min((frame for frame in frames if frame is not None), default=None)

    def to_json(self) -> dict[str, Any]:
        """The content of the file: what was measured, and for readers the breakdowns that follow from it."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        sides = {side: rounded(measured).to_json() for side, measured in self.sides.items()}
        found = {side: {m: vars(self.breakdown(side, m)) for m in self.ruled} for side in self.models}
        parts = {"weights": dict(self.weights), "ruled": list(self.ruled)}
        return {"schema": SCHEMA, **plain, **parts, "breakdowns": found, "sides": sides}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Horizon:
        """The inverse of ``to_json``; the breakdowns are computed again.

        Raises:
            ValueError: names the missing or malformed part.
        """
        if data.get("schema") != SCHEMA:
            raise ValueError(f"it has schema {data.get('schema')}, expected {SCHEMA}")
        kinds = {"frames": int, "window": int, "seed": int, "ruled": list, "weights": dict, "sides": dict}
        for name in (*_PLAIN, "weights", "ruled", "sides"):
            if not isinstance(data.get(name), kinds.get(name, str)):
                raise ValueError(f"{name} is missing or malformed")
        sides = {side: Measured.from_json(part) for side, part in data["sides"].items()}
        found = Horizon(
            **{name: data[name] for name in _PLAIN},
            weights=data["weights"],
            ruled=tuple(data["ruled"]),
            sides=sides,
        )
        if missing := {ENGINE, CHANCE, BASE} - sides.keys():
            raise ValueError(f"sides lacks {', '.join(sorted(missing))}")
        for side, measured in sides.items():
            if measured.scenarios != sides[ENGINE].scenarios:
                raise ValueError(f"sides.{side} has other scenarios than the engine")
            if missing := {FOLLOWED, *found.ruled} - measured.values_VD.keys():
                raise ValueError(f"sides.{side} lacks {', '.join(sorted(missing))}")
        return found


_PLAIN = ("world", "frames", "window", "seed", "scenarios_hash", "version", "command")


def rounded(measured: Measured) -> Measured:
    """Measures with as many digits as are stored, without single actions."""
    values = {name: values_VD.round(DIGITS) for name, values_VD in measured.values_VD.items()}
    nothing = np.zeros((len(measured.scenarios), 0), int)
    return Measured(measured.scenarios, measured.kinds, values, nothing, nothing)


def write_horizon(path: Path, found: Horizon) -> None:
    """Store a horizon as JSON."""
    write_json(path, found.to_json())


def read_horizon(path: Path) -> Horizon:
    """Read what ``write_horizon`` stored.

    Raises:
        UserError: when the file is missing, malformed or of another schema.
    """
    data = read_object(path, "long videos")
    if not data:
        raise UserError(
            f"there are no measures of long videos at {path}: make them with worldcompass horizon"
        )
    try:
        return Horizon.from_json(data)
    except ValueError as why:
        raise UserError(f"{path} holds no measures of long videos: {why}") from None
