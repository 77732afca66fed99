"""Metrics of training steps, and their append-only file metrics.jsonl with one row per step."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

from worldcompass.errors import UserError
from worldcompass.runs.atomic import write_text
from worldcompass.runs.reading import parse_json, read_json
from worldcompass.statistics import mean_of
from worldcompass.ways import ROLLOUT


@dataclass(frozen=True)
class RewardMetrics:
    """Statistics of one critic's scores in a step; None with too few valid scores."""

    mean: float | None = None
    std: float | None = None
    """Mean over groups of the standard deviation within a group."""
    spread: float | None = None
    """Standard deviation over all scores."""
    weight: float | None = None
    """Share in the sum of weights."""
    valid: float | None = None
    """Share of valid scores."""
    flat: float | None = None
    """Share of groups with equal scores for all candidates."""


@dataclass(frozen=True)
class Pictures:
    """Statistics of the imagined pictures, relative to the first frame of their video.

    The last three are logarithms of ratios to reachable truth, None where that is unknown.
    """

    brightness: float | None = None
    """Difference, in shares of 255."""
    saturation: float | None = None
    """Difference of the largest minus the smallest channel, in shares of 255."""
    detail: float | None = None
    """Log ratio of the mean absolute gradients."""
    motion: float | None = None
    """Mean absolute change per latent with a commanded action; None without one."""
    diversity: float | None = None
    """Standard deviation of a pixel over the candidates of a group; None with one candidate."""
    true_detail: float | None = None
    """Of the mean absolute gradient."""
    true_contrast: float | None = None
    """Of the standard deviation of the brightness."""
    true_saturation: float | None = None
    """Of the mean difference of the largest and the smallest channel."""


@dataclass(frozen=True)
class Unreached:
    """Trainable parameters without a gradient in the step's updates."""

    share: float
    names: tuple[str, ...]
    """The first few names."""


@dataclass(frozen=True)
class Judged:
    """The held-out judge's scores of its videos after a step."""

    mean: float | None
    values: tuple[float, ...]
    """Score of each video."""


@dataclass(frozen=True)
class StepMetrics:
    """Metrics of one training step: a row of metrics.jsonl.

    Fields are None when not measured: the held-out judge scores only some steps, only critics that retry have
    failed tries, and earlier versions measured less.
    """

    step: int
    """Counted from 1."""
    chunk: int = 0
    """The chunk that was trained, counted from 0 in chunks of its way of walking."""
    rewards: Mapping[str, RewardMetrics] = field(default_factory=dict[str, RewardMetrics])
    """By critic."""
    flat_groups: float | None = None
    """Share of groups in which all rewards are flat."""
    clipped: float | None = None
    """Share of advantages at the clip."""
    agreement: Mapping[str, float] = field(default_factory=dict[str, float])
    """Correlation of two critics' advantages, by ``a and b``; 0 when one of them is flat."""
    objective: Mapping[str, float] = field(default_factory=dict[str, float])
    """Metrics of the objective by its names; in the file they are top-level keys."""
    loss: float | None = None
    kl_to_start: float | None = None
    mean_shift: float | None = None
    velocity_norm: float | None = None
    """Size of the velocity over that of the start weights'."""
    contrast: float | None = None
    """Contrast of the latents over that of the start weights'."""
    data_loss: float | None = None
    """Error on recorded video after true pasts, as a share of its mean absolute error."""
    grad_norm: float | None = None
    applied: float | None = None
    """Share of updates that changed the weights."""
    pictures: Pictures | None = None
    no_gradient: Unreached | None = None
    behaviour_lag: float | None = None
    """Distance of the behaviour from the trained weights, as a share of their distance from the start."""
    learners: Mapping[str, Mapping[str, float]] | None = None
    """Measurements of the critics that learn along with the policy, by critic and name."""
    failed_tries: Mapping[str, float] | None = None
    """Share of failed tries of each critic that retries."""
    forward_passes: float | None = None
    """Of the rollouts."""
    update_passes: float | None = None
    """Of targets and updates; a backward pass counts as two forward passes."""
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    """Duration of each stage."""
    judge: Judged | None = None
    way: str = ROLLOUT
    """The way of walking that was trained; in the file only where it is another one."""

    def to_json(self) -> dict[str, Any]:
        """The row of the file."""
        unreached, judge = self.no_gradient, self.judge
        row = {
            "step": self.step,
            "chunk": self.chunk,
            "way": None if self.way == ROLLOUT else self.way,
            "rewards": {name: dict(vars(reward)) for name, reward in self.rewards.items()},
            "flat_groups": self.flat_groups,
            "clipped": self.clipped,
            "agreement": dict(self.agreement),
            **self.objective,
            "loss": self.loss,
            "kl_to_start": self.kl_to_start,
            "mean_shift": self.mean_shift,
            "velocity_norm": self.velocity_norm,
            "contrast": self.contrast,
            "data_loss": self.data_loss,
            "grad_norm": self.grad_norm,
            "applied": self.applied,
            "pictures": self.pictures and dict(vars(self.pictures)),
            "no_gradient": unreached and {"share": unreached.share, "names": list(unreached.names)},
            "behaviour_lag": self.behaviour_lag,
            "learners": self.learners and {name: dict(part) for name, part in self.learners.items()},
            "failed_tries": None if self.failed_tries is None else dict(self.failed_tries),
            "forward_passes": self.forward_passes,
            "update_passes": self.update_passes,
            "seconds": dict(self.seconds),
            "judge": judge and {"mean": judge.mean, "values": list(judge.values)},
        }
        return {name: part for name, part in row.items() if part is not None}

    @staticmethod
    def from_json(row: object) -> StepMetrics:
        """The inverse of ``to_json``; rows of earlier versions may lack entries.

        Raises:
            ValueError: with the entry that is missing or malformed.
        """
        if not isinstance(row, Mapping):
            raise ValueError("expected one JSON object on each line")
        data = cast("Mapping[str, Any]", row)
        step = data.get("step")
        if not isinstance(step, int) or isinstance(step, bool) or step < 1:
            raise _malformed("step")
        rewards = {
            name: _all_numbers(RewardMetrics, reward, "rewards")
            for name, reward in _object(data.get("rewards"), "rewards").items()
        }
        known = {part.name for part in fields(StepMetrics)}
        pictures, reached, judge = data.get("pictures"), data.get("no_gradient"), data.get("judge")
        failed, taught = data.get("failed_tries"), data.get("learners")
        return StepMetrics(
            step=step,
            chunk=_chunk(data),
            way=_way(data.get("way", ROLLOUT)),
            rewards=rewards,
            agreement=_numbers(data.get("agreement", {}), "agreement"),
            objective=_numbers({k: v for k, v in data.items() if k not in known and v is not None}, ""),
            pictures=None if pictures is None else _all_numbers(Pictures, pictures, "pictures"),
            no_gradient=None if reached is None else _unreached(reached),
            learners=None
            if taught is None
            else {n: _numbers(part, "learners") for n, part in _object(taught, "learners").items()},
            failed_tries=None if failed is None else _numbers(failed, "failed_tries"),
            seconds=_numbers(data.get("seconds", {}), "seconds"),
            judge=None if judge is None else _judged(judge),
            **{name: _number(data, name) for name in _PLAIN},
        )

    @property
    def place(self) -> str:
        """The chunk with its way of walking; only steps of one place are comparable."""
        return str(self.chunk) if self.way == ROLLOUT else f"{self.chunk} of {self.way}"

    def numbers(self) -> dict[str, float | None]:
        """Every number by its path, such as ``rewards/interaction/mean``; None for nulls, without lists."""
        return dict(_flat(self.to_json()))

    @cached_property
    def not_finite(self) -> str:
        """The path of the first number that is not finite, empty when all are; kept: every step asks every row."""
        numbers = self.numbers().items()
        return next((name for name, value in numbers if value is not None and not math.isfinite(value)), "")


_PLAIN = (
    "flat_groups", "clipped", "loss", "kl_to_start", "mean_shift", "velocity_norm", "contrast", "data_loss",
    "grad_norm", "applied", "behaviour_lag", "forward_passes",
    "update_passes",
)  # fmt: skip
_T = TypeVar("_T", RewardMetrics, Pictures)


def _malformed(name: str) -> ValueError:
    return ValueError(f"{name} is missing or malformed")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _way(value: object) -> str:
    if not isinstance(value, str):
        raise _malformed("way")
    return value


def _object(value: object, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _malformed(name)
    return cast("Mapping[str, Any]", value)


def _number(data: Mapping[str, Any], name: str, inside: str = "") -> float | None:
    value = data.get(name)
    if value is not None and not _is_number(value):
        raise _malformed(inside or name)
    return value


def _chunk(data: Mapping[str, Any]) -> int:
    found = _number(data, "chunk") or 0
    if not float(found).is_integer():
        raise _malformed("chunk")
    return int(found)


def _numbers(value: object, name: str) -> dict[str, float]:
    """A mapping to numbers; errors report ``name``, or the malformed key when ``name`` is empty."""
    found = _object(value, name)
    if bad := next((key for key, number in found.items() if not _is_number(number)), None):
        raise _malformed(name or bad)
    return dict(found)


def _all_numbers(kind: type[_T], value: object, name: str) -> _T:
    data = _object(value, name)
    return kind(**{part.name: _number(data, part.name, name) for part in fields(kind)})


def _unreached(value: object) -> Unreached:
    data = _object(value, "no_gradient")
    share, names = _number(data, "share", "no_gradient"), _list(data.get("names"))
    if share is None or names is None or not all(isinstance(name, str) for name in names):
        raise _malformed("no_gradient")
    return Unreached(share, tuple(names))


def _judged(value: object) -> Judged:
    data = _object(value, "judge")
    values = _list(data.get("values"))
    if values is None or not all(map(_is_number, values)):
        raise _malformed("judge")
    return Judged(_number(data, "mean", "judge"), tuple(values))


def _list(value: object) -> list[Any] | None:
    return cast("list[Any]", value) if isinstance(value, list) else None


def _flat(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float | None]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _flat(cast("Mapping[str, Any]", value), f"{prefix}{name}/")
        elif value is None or _is_number(value):
            yield prefix + name, value


class MetricsLog:
    """Appends one JSON object per step to a file, without the rows after ``resumed_step``.

    It does nothing unless this process ``writes``.
    """

    def __init__(self, path: Path, resumed_step: int = 0, writes: bool = True) -> None:
        self.path, self.writes = path, writes
        if not writes:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        write_metrics(path, [row for row in read_metrics(path) if row.step <= resumed_step])

    def append(self, metrics: StepMetrics) -> None:
        """Append the row of one step."""
        if self.writes:
            append_row(self.path, metrics.to_json())


def read_metrics(path: Path) -> list[StepMetrics]:
    """The rows of a metrics file; none without a file. A last line that a kill cut off is skipped.

    Raises:
        UserError: with the line that is malformed, or damaged and followed by intact ones.
    """
    steps: list[StepMetrics] = []
    for number, row in read_rows(path):
        try:
            steps.append(StepMetrics.from_json(row))
        except ValueError as why:
            raise UserError(f"{path} line {number} is not a training step: {why}") from None
    return steps


def write_metrics(path: Path, steps: Iterable[StepMetrics]) -> None:
    """Replace a metrics file atomically."""
    write_rows(path, (metrics.to_json() for metrics in steps))


def read_rows(path: Path) -> list[tuple[int, Any]]:
    """Line numbers and values of a JSON Lines file; none without a file.

    Raises:
        UserError: when intact lines follow a damaged one, so that more than the end is lost.
    """
    rows: list[tuple[int, Any]] = []
    damaged = 0
    for number, line in enumerate(path.read_bytes().split(b"\n") if path.is_file() else [], 1):
        try:
            row = parse_json(line) if line.strip() else None
        except ValueError:
            damaged = damaged or number
            continue
        if row is None:
            continue
        if damaged:
            raise UserError(
                f"{path} line {damaged} is damaged, but intact lines follow it: delete that line to continue"
            )
        rows.append((number, row))
    return rows


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append one line to a JSON Lines file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace a JSON Lines file atomically."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


SUMMED = ("forward_passes", "update_passes", "seconds")  # costs, which add up over the runs


def mean_metrics(members: Sequence[StepMetrics]) -> StepMetrics:
    """One step of several runs: numbers averaged, costs summed, and any other value from the first run."""
    return mean_of(members, SUMMED)


def read_object(path: Path, what: str) -> dict[str, Any]:
    """The object in a JSON file; empty without a file.

    Args:
        what: the file should be, for the error, such as "a run's results".

    Raises:
        UserError: when it is not a JSON object.
    """
    try:
        value: Any = read_json(path) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path} is not {what}: it is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is not {what}: expected one JSON object, not {type(value).__name__}")
    return cast("dict[str, Any]", value)
