"""Results of a run or an evaluation, and their file results.json."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from worldcompass.errors import UserError
from worldcompass.runs.atomic import finite, write_json
from worldcompass.runs.metrics import read_object
from worldcompass.statistics import UNKNOWN, Estimate
from worldcompass.ways import ROLLOUT, Walking

SCHEMA = 2  # of results.json; 1 knew the way ``rollout`` alone and no counts

Scores = Mapping[str, Mapping[str, Estimate]]
"""By kind of action, such as ``combined``, then by measure."""
SIDES = ("engine", "base", "trained", "difference")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Count:
    """Latents in which the held-out judge reads exactly the command, of those with a command to follow."""

    followed: int
    commanded: int

    def __str__(self) -> str:
        return f"{self.followed:,} of {self.commanded:,}"


@dataclass(frozen=True)
class Evaluation:
    """Scores on the same scenarios with 95% intervals; empty when not measured."""

    engine: Scores = field(default_factory=dict[str, Mapping[str, Estimate]])
    """The engine's videos, the upper bound."""
    base: Scores = field(default_factory=dict[str, Mapping[str, Estimate]])
    trained: Scores = field(default_factory=dict[str, Mapping[str, Estimate]])
    difference: Scores = field(default_factory=dict[str, Mapping[str, Estimate]])
    """Trained minus base, paired by scenario."""
    gap_closed: Mapping[str, Estimate] = field(default_factory=dict[str, Estimate])
    """Share closed of the gap in followed actions between base and engine, however small; see ``gap_share``."""
    counts: Mapping[str, Mapping[str, Count]] = field(default_factory=dict[str, Mapping[str, Count]])
    """By side, then by kind: the latents behind the shares of followed actions; empty in older files."""
    unseen: Evaluation | None = None
    """The evaluation on data that is not trained on, such as other maps."""
    ways: Mapping[str, Evaluation] = field(default_factory=dict[str, "Evaluation"])
    """The same scenarios in the world's other ways of walking, by name; this evaluation is that of ``rollout``."""

    def by_way(self) -> dict[str, Evaluation]:
        """The evaluation of every way of walking that was measured, ``rollout`` first."""
        return {ROLLOUT: self, **self.ways}

    def count(self, side: str, kind: str) -> Count | None:
        """Followed and commanded latents of ``engine``, ``base`` or ``trained``; None when not counted."""
        return self.counts.get(side, {}).get(kind)

    def score(self, side: str, kind: str, measure: str) -> Estimate:
        """One score of one of ``SIDES``; unknown when not measured."""
        return getattr(self, side).get(kind, {}).get(measure, UNKNOWN)

    def has(self, kind: str) -> bool:
        """Whether a kind of actions has any score."""
        return any(kind in getattr(self, side) for side in SIDES)

    def to_json(self) -> dict[str, Any]:
        """The blocks of results.json, without empty ones."""
        blocks: dict[str, Any] = {
            side: {
                kind: {name: score.to_json() for name, score in scores.items()}
                for kind, scores in getattr(self, side).items()
            }
            for side in SIDES
            if getattr(self, side)
        }
        if self.gap_closed:
            blocks["gap_closed"] = {kind: share.to_json() for kind, share in self.gap_closed.items()}
        if self.counts:
            blocks["counts"] = {
                side: {kind: [count.followed, count.commanded] for kind, count in of.items()}
                for side, of in self.counts.items()
            }
        if self.ways:
            blocks["ways"] = {name: way.to_json() for name, way in self.ways.items()}
        return blocks | ({"unseen_maps": self.unseen.to_json()} if self.unseen else {})

    @staticmethod
    def from_json(data: object) -> Evaluation:
        """The inverse of ``to_json``.

        Raises:
            ValueError: with the entry that is malformed.
        """
        blocks = _object(data, "evaluation")
        unseen = blocks.get("unseen_maps")
        return Evaluation(
            **{side: _scores(blocks.get(side, {}), side) for side in SIDES},
            gap_closed=_estimates(blocks.get("gap_closed", {}), "gap_closed"),
            counts={
                side: {kind: _count(pair) for kind, pair in _object(of, f"counts.{side}").items()}
                for side, of in _object(blocks.get("counts", {}), "counts").items()
            },
            unseen=None if unseen is None else Evaluation.from_json(unseen),
            ways={
                name: Evaluation.from_json(way)
                for name, way in _object(blocks.get("ways", {}), "ways").items()
            },
        )


@dataclass(frozen=True)
class ForwardPasses:
    """Forward passes of training on clips, and the number that training on whole videos would need."""

    clip_level: float
    whole_video: float
    clip_level_per_group: float | None = None
    whole_video_per_group: float | None = None


@dataclass(frozen=True)
class ActionCounts:
    """Counts of commanded and followed composite actions per chunk, without the start image."""

    asked: Sequence[Sequence[int]]
    followed: Sequence[Sequence[int]]
    rows: Sequence[str] = ()
    """Names of the composites as a table, see ``ActionSpace.rows``; empty in older files, for a camera's."""
    columns: Sequence[str] = ()


@dataclass(frozen=True)
class Curve:
    """One measure by chunk, which shows how it changes over a rollout."""

    mean: Sequence[float]
    """One value for each chunk; NaN is unknown."""
    low: Sequence[float] = ()
    """Lower ends of the 95% intervals; empty in older files."""
    high: Sequence[float] = ()

    def to_json(self) -> dict[str, Any]:
        """Lists of numbers, with null for unknown ones; intervals are left out when there are none."""
        return {name: finite(list(values)) for name, values in vars(self).items() if values}

    @staticmethod
    def from_json(data: object) -> Curve:
        """The inverse of ``to_json``; a list alone is that of the means.

        Raises:
            ValueError: when it is malformed, or an interval is missing for some of the means.
        """
        alone, none = {"mean": data}, list[object]()
        parts = alone if isinstance(data, list) else _object(data, "per_depth")
        mean, low, high = (_known(parts.get(end, none), "per_depth") for end in ("mean", "low", "high"))
        if any(len(ends) not in (0, len(mean)) for ends in (low, high)) or len(low) != len(high):
            raise ValueError(
                f"per_depth is malformed: {len(mean)} means with {len(low)} lower and {len(high)} upper ends"
            )
        return Curve(mean, low, high)


Depths = Mapping[str, Mapping[str, Curve]]
"""By kind of action, then by measure."""


@dataclass(frozen=True)
class Results:
    """Results of a run or an evaluation; those of an unfinished run are incomplete."""

    evaluation: Evaluation = field(default_factory=Evaluation)
    scenarios_hash: str = ""
    """Hash of the evaluation's scenarios; runs with different hashes are not comparable."""
    walking: Mapping[str, Walking] = field(default_factory=dict[str, Walking])
    """The measured ways of walking by name; empty in files of schema 1, which measured ``rollout``."""
    seconds: float | None = None
    training_seconds: float | None = None
    forward_passes: ForwardPasses | None = None
    horizons: Mapping[int, Evaluation] = field(default_factory=dict[int, Evaluation])
    """By number of frames: the evaluation of the first frames of the rollouts."""
    per_depth: Mapping[str, Depths] = field(default_factory=dict[str, Depths])
    """By one of ``SIDES``, in the way ``rollout``."""
    per_action: Mapping[str, ActionCounts] = field(default_factory=dict[str, ActionCounts])
    """By side, on held-out starts."""

    def to_json(self) -> dict[str, Any]:
        """The content of results.json, without missing parts."""
        passes = self.forward_passes
        parts = {
            "scenarios_hash": self.scenarios_hash or None,
            "walking": {name: vars(way) for name, way in self.walking.items()} or None,
            "seconds": self.seconds,
            "training_seconds": self.training_seconds,
            **self.evaluation.to_json(),
            "forward_passes": passes and {k: v for k, v in vars(passes).items() if v is not None},
            "horizons": {str(frames): part.to_json() for frames, part in self.horizons.items()} or None,
            "per_depth": {
                side: {
                    kind: {name: curve.to_json() for name, curve in curves.items()}
                    for kind, curves in depths.items()
                }
                for side, depths in self.per_depth.items()
            }
            or None,
            "per_action": {
                side: {name: part for name, part in vars(counts).items() if part != ()}
                for side, counts in self.per_action.items()
            }
            or None,
        }
        return {"schema": SCHEMA, **{name: part for name, part in parts.items() if part is not None}}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Results:
        """The inverse of ``to_json``; missing parts were not measured.

        Raises:
            ValueError: with the part that is malformed.
        """
        passes = data.get("forward_passes")
        horizons = _object(data.get("horizons", {}), "horizons").items()
        depths = _object(data.get("per_depth", {}), "per_depth").items()
        actions = _object(data.get("per_action", {}), "per_action").items()
        return Results(
            evaluation=Evaluation.from_json(data),
            scenarios_hash=_word(data.get("scenarios_hash", ""), "scenarios_hash"),
            walking=read_walking(data.get("walking", {})),
            seconds=_number(data.get("seconds"), "seconds"),
            training_seconds=_number(data.get("training_seconds"), "training_seconds"),
            forward_passes=None if passes is None else _passes(passes),
            horizons={
                int(_word(frames, "horizons")): Evaluation.from_json(part) for frames, part in horizons
            },
            per_depth={side: _depths(part) for side, part in depths},
            per_action={side: _counts(part) for side, part in actions},
        )


def read_results(path: Path) -> Results:
    """Read a results.json; empty results without a file.

    Raises:
        UserError: when the file is malformed or has another schema.
    """
    data = read_object(path, "a run's results")
    if (schema := data.get("schema", SCHEMA)) not in (1, SCHEMA):
        raise UserError(f"{path} has schema {schema}, expected {SCHEMA} or 1")
    try:
        return Results.from_json(data)
    except ValueError as why:
        raise UserError(f"{path} is not a run's results: {why}") from None


def write_results(path: Path, results: Results) -> None:
    """Write a results.json atomically."""
    write_json(path, results.to_json(), indent=1)


def read_walking(data: object) -> dict[str, Walking]:
    """Ways of walking by name, from JSON.

    Raises:
        ValueError: when they are malformed.
    """
    found: dict[str, Walking] = {}
    for name, way in _object(data, "walking").items():
        sizes = [_object(way, "walking").get(size) for size in ("chunk_length", "num_steps")]
        if not all(isinstance(size, int) and size >= 1 for size in sizes):
            raise ValueError(f"walking.{name} is malformed: expected chunk_length and num_steps, got {way}")
        found[name] = Walking(*cast("list[int]", sizes))
    return found


def _object(value: object, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is malformed: expected an object, got {type(value).__name__}")
    return cast("Mapping[str, Any]", value)


def _word(value: object, name: str) -> str:
    if not isinstance(value, str) or (name == "horizons" and not value.isdigit()):
        raise ValueError(f"{name} is malformed: got {value!r}")
    return value


def _number(value: object, name: str) -> float | None:
    if value is not None and (not isinstance(value, int | float) or isinstance(value, bool)):
        raise ValueError(f"{name} is malformed: expected a number, got {value!r}")
    return None if value is None or math.isnan(value) else value


def _scores(value: object, name: str) -> Scores:
    return {kind: _estimates(part, f"{name}.{kind}") for kind, part in _object(value, name).items()}


def _estimates(value: object, name: str) -> dict[str, Estimate]:
    found: dict[str, Estimate] = {}
    for key, entry in _object(value, name).items():
        try:
            found[key] = Estimate.from_json(entry)
        except ValueError as why:
            raise ValueError(f"{name}.{key} is malformed: {why}") from None
    return found


def _count(value: object) -> Count:
    pair = _list(value, int, "counts")
    if len(pair) != 2:
        raise ValueError(f"counts is malformed: expected followed and commanded latents, got {pair}")
    return Count(*pair)


def _passes(value: object) -> ForwardPasses:
    data = _object(value, "forward_passes")
    clip, whole, *per_group = (
        _number(data.get(name), f"forward_passes.{name}") for name in vars(ForwardPasses(0, 0))
    )
    if clip is None or whole is None:
        raise ValueError("forward_passes is malformed: expected clip_level and whole_video")
    return ForwardPasses(clip, whole, *per_group)


def _depths(value: object) -> Depths:
    return {
        kind: {name: Curve.from_json(part) for name, part in _object(measures, "per_depth").items()}
        for kind, measures in _object(value, "per_depth").items()
    }


def _counts(value: object) -> ActionCounts:
    data = _object(value, "per_action")
    asked, followed = (
        [
            _list(chunk, int, "per_action")
            for chunk in _list(data.get(name), cast("type[list[object]]", list), "per_action")
        ]
        for name in ("asked", "followed")
    )
    if [len(chunk) for chunk in asked] != [len(chunk) for chunk in followed]:
        raise ValueError("per_action is malformed: expected as many followed as asked counts")
    names = [tuple(_list(data.get(name, []), str, "per_action")) for name in ("rows", "columns")]
    return ActionCounts(asked, followed, *names)


def _known(value: object, name: str) -> tuple[float, ...]:
    """Numbers of a list; null is NaN."""
    numbers = [math.nan if one is None else one for one in _list(value, object, name)]
    return tuple(_list(numbers, float, name))


def _list(value: object, kind: type[_T], name: str) -> list[_T]:
    kinds = (int, float) if kind is float else kind
    found = cast("list[_T]", value) if isinstance(value, list) else None
    if found is None or not all(isinstance(one, kinds) for one in found):
        raise ValueError(f"{name} is malformed: expected a list of {kind.__name__}s")
    return found
