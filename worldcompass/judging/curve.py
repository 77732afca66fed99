"""The curve between obedience and looks: what weights gain and lose as they go from the base towards the trained.

Every model imagines the same scenarios with the same noise as the base. Obedience is read by the held-out judge.
Looks are the Frechet distance to reachable truth, trained to base, at the start and at the end of the videos. Each
seed of post-training has a distance of its own, and logarithms are averaged: sets that pool seeds would hide what
drifts one way in one seed and another way in the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.evaluate import FOLLOWED, KINDS, Measured, evaluation_of, gap_share, pool
from worldcompass.judging.frechet import ENGINE, REACHABLE, Axes, axes_of, frechet, moments_of, on_axes
from worldcompass.judging.sources import Windows
from worldcompass.judging.spaces import Space, embedded
from worldcompass.runs.atomic import finite, write_json
from worldcompass.runs.metrics import read_object
from worldcompass.statistics import Crossing, Estimate, crossed_over, resamples

SCHEMA = 1  # of curve.json
FIRST, LAST = "first quarter", "last third"
STRETCHES = {FIRST: (0.0, 0.25), LAST: (2 / 3, 1.0)}
"""Shares of a video between which its looks are compared."""
RESAMPLES = 300
COLOUR = "colour"  # measure of ``evaluate``: minus the distance of the mean colour to the engine's
LEVELS = 255.0
NEAR_ZERO = 1e-6  # equal videos have a finite logarithm


@dataclass(frozen=True)
class Point:
    """One recipe at one share of the way; every estimate is trained minus base."""

    recipe: str
    way: float
    """1 goes all of the way that training went."""
    seeds: tuple[int, ...]
    averaged: bool
    """Whether the seeds' weights were averaged into one model."""
    command: str
    followed: Mapping[str, Estimate]
    """Kind of actions -> commands followed, share."""
    unseen: Mapping[str, Estimate]
    """The same on places that no training saw."""
    closed: Mapping[str, Estimate]
    """Kind of actions -> share of the gap between base and engine; unknown when the gap is not resolved."""
    looks: Mapping[str, Estimate]
    """Stretch -> logarithm of the ratio of Frechet distances; below 0, nearer to reachable truth than the base."""
    colour: Estimate
    """Distance of the mean colour to the engine's in the last third, levels of 255; above 0 is farther."""

    @property
    def key(self) -> tuple[str, float, bool]:
        """A curve holds one point of each."""
        return self.recipe, self.way, self.averaged

    @property
    def verdict(self) -> str:
        """What the intervals show, in words."""
        gained, end = self.followed[KINDS[0]], self.looks[LAST]
        obeys = "obeys more" if gained.rises else "obeys less" if gained.falls else "obedience: not shown"
        looks = "looks farther" if end.rises else "looks nearer" if end.falls else "looks: not shown"
        return f"{obeys}; {looks}"

    def to_json(self) -> dict[str, Any]:
        """One entry of curve.json."""
        return finite(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Point:
        """The inverse of ``to_json``.

        Raises:
            KeyError, TypeError, ValueError: when a part is missing or malformed.
        """

        def estimates(name: str) -> dict[str, Estimate]:
            return {key: Estimate.from_json(value) for key, value in data[name].items()}

        return Point(
            str(data["recipe"]),
            float(data["way"]),
            tuple(int(seed) for seed in data["seeds"]),
            bool(data["averaged"]),
            str(data["command"]),
            estimates("followed"),
            estimates("unseen"),
            estimates("closed"),
            estimates("looks"),
            Estimate.from_json(data[COLOUR]),
        )


# --------------------------------------------------------------------------- looks


@dataclass(frozen=True)
class Ruler:
    """Measures the looks of videos of fixed scenarios against their reachable truth."""

    windows: Windows
    spaces: tuple[Space, ...]
    axes: tuple[tuple[Axes, ...], ...]
    """For every set of every space."""
    truth: tuple[tuple[Tensor, ...], ...]
    """Features of reachable truth on the axes, (V, W, P, D)."""
    rows_BV: np.ndarray
    """Resamples of scenarios; the first row is all of them."""

    def features(self, videos_VF3hw: Tensor) -> tuple[tuple[Tensor, ...], ...]:
        """Features of a model's videos on the ruler's axes, for every set of every space."""
        return tuple(
            tuple(
                on_axes(x, a) for x, a in zip(embedded(space, videos_VF3hw, self.windows), axes, strict=True)
            )
            for space, axes in zip(self.spaces, self.axes, strict=True)
        )

    def logarithms(self, features: Sequence[Sequence[Tensor]]) -> dict[str, np.ndarray]:
        """Stretch -> mean over the spaces of the logarithm of the distance in every resample, (B,)."""
        found = {}
        for stretch in STRETCHES:
            inside = self._inside(stretch)
            logs = []
            for sets, truth in zip(features, self.truth, strict=True):
                parts = [
                    frechet(_moments(x, inside), _moments(y, inside), self.rows_BV)
                    for x, y in zip(sets, truth, strict=True)
                ]
                logs.append(np.log(np.maximum(np.sum(parts, 0), NEAR_ZERO)))
            found[stretch] = np.mean(logs, 0)
        return found

    def _inside(self, stretch: str) -> list[int]:
        first, stop = (share * len(self.windows.starts) for share in STRETCHES[stretch])
        return [i for i in range(len(self.windows.starts)) if first - 1e-9 <= i < stop - 1e-9]


def ruler_of(
    engine_VF3hw: Tensor,
    reachable_VF3hw: Tensor,
    scenarios: Sequence[str],
    windows: Windows,
    spaces: Sequence[Space],
    seed: int,
) -> Ruler:
    """A ruler of the scenarios whose real videos these are; ``seed`` draws the resamples."""
    axes, truth = [], []
    for space in spaces:
        engine, reachable = (embedded(space, v, windows) for v in (engine_VF3hw, reachable_VF3hw))
        own = tuple(
            axes_of({ENGINE: e, REACHABLE: r}, space.most_dims)
            for e, r in zip(engine, reachable, strict=True)
        )
        axes.append(own)
        truth.append(tuple(on_axes(r, a) for r, a in zip(reachable, own, strict=True)))
    rows = np.concatenate([np.arange(len(scenarios))[None], resamples(scenarios, seed, RESAMPLES)])
    return Ruler(windows, tuple(spaces), tuple(axes), tuple(truth), rows)


def _moments(features_VWPD: Tensor, inside: Sequence[int]) -> Any:
    return moments_of(features_VWPD[:, list(inside)].flatten(1, 2).double())


# --------------------------------------------------------------------------- a point


@dataclass(frozen=True)
class Model:
    """What is known of one model's videos."""

    measured: Measured
    logarithms: Mapping[str, np.ndarray]
    """Of ``Ruler.logarithms``."""


def point_of(
    recipe: str,
    way: float,
    seeds: Sequence[int],
    averaged: bool,
    command: str,
    engine: Measured,
    base: Model,
    trained: Sequence[Model],
) -> Point:
    """The point of a recipe: its seeds, or one model that averages them."""
    found = evaluation_of(engine, pool([base.measured] * len(trained)), pool([m.measured for m in trained]))
    unseen = found.unseen
    looks = {}
    for stretch in STRETCHES:
        change_KB = np.stack([m.logarithms[stretch] - base.logarithms[stretch] for m in trained])
        looks[stretch] = crossed_over(change_KB, len(base.measured.scenarios))
    return Point(
        recipe,
        way,
        tuple(seeds),
        averaged,
        command,
        {kind: found.score("difference", kind, FOLLOWED) for kind in KINDS},
        {kind: unseen.score("difference", kind, FOLLOWED) for kind in KINDS} if unseen else {},
        {kind: gap_share(found, kind) for kind in KINDS},
        looks,
        _colour(base.measured, [m.measured for m in trained]),
    )


def _colour(base: Measured, trained: Sequence[Measured]) -> Estimate:
    """How much farther the mean colour of the last third is from the engine's."""
    last = -(-base.values_VD[COLOUR].shape[1] // 3)
    own, theirs = pool([base] * len(trained)), pool(trained)
    change_V = LEVELS * (own.values_VD[COLOUR] - theirs.values_VD[COLOUR])[:, -last:].mean(1)
    return Crossing.of(theirs.scenarios).mean(change_V)


# --------------------------------------------------------------------------- the file and its table


def read_curve(path: Path) -> list[Point]:
    """The points of a stored curve; none without the file.

    Raises:
        UserError: when the file is damaged or of another version.
    """
    data = read_object(path, "a curve")
    if not data:
        return []
    if data.get("schema") != SCHEMA:
        raise UserError(f"{path} is no curve of version {SCHEMA}: measure it again with benchmarks/curve.py")
    try:
        return [Point.from_json(point) for point in data["points"]]
    except (KeyError, TypeError, ValueError, AttributeError) as why:
        raise UserError(f"{path} is damaged ({why}): measure it again with benchmarks/curve.py") from None


def add_points(path: Path, points: Sequence[Point]) -> list[Point]:
    """Store points in a curve; those of the same recipe and way are replaced. Returns the whole curve."""
    kept = {point.key: point for point in (*read_curve(path), *points)}
    write_json(path, {"schema": SCHEMA, "points": [point.to_json() for point in kept.values()]}, indent=1)
    return list(kept.values())


HEAD = (
    "recipe", "way", "seeds", "combined, points", "basic, points", "share of the combined gap",
    "unseen maps, combined", "distance, first quarter", "distance, last third", "colour at the end", "verdict",
)  # fmt: skip


def table_of(points: Sequence[Point]) -> str:
    """A Markdown table; distances are ratios, below 1 is nearer to reachable truth than the base."""
    order = list(dict.fromkeys(point.recipe for point in points))
    rows = sorted(points, key=lambda p: (order.index(p.recipe), p.averaged, p.way))
    lines = [_line(*HEAD), "|" + "---|" * len(HEAD)]
    return "\n".join([*lines, *(_line(*_cells(point)) for point in rows)])


def _cells(point: Point) -> tuple[str, ...]:
    combined, basic = KINDS
    seeds = ", ".join(map(str, point.seeds))
    unseen = point.unseen.get(combined)
    return (
        point.recipe,
        f"{point.way:g}",
        f"mean of {seeds}" if point.averaged else seeds,
        _brackets(point.followed[combined].times(100), 1, "+"),
        _brackets(point.followed[basic].times(100), 1, "+"),
        point.closed[combined].in_percent(none="gap not resolved"),
        _brackets(unseen.times(100), 1, "+") if unseen else "–",
        _brackets(point.looks[FIRST].exp(), 2),
        _brackets(point.looks[LAST].exp(), 2),
        _brackets(point.colour, 1, "+"),
        point.verdict,
    )


def _brackets(value: Estimate, digits: int, sign: str = "") -> str:
    return f"{value.mean:{sign}.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
