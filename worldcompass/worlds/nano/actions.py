"""Controls of the published data sets, and the numbers that the network reads of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from worldcompass.controls import Axis, Controls, button
from worldcompass.errors import UserError
from worldcompass.runs.reading import read_json, reason
from worldcompass.settings import Rule, enforce
from worldcompass.types import Actions

FLOOR = 1e-6  # added to every standard deviation, as in the official loaders
BOUND_STDS = 5.0  # bounds of a control whose extremes are unknown, in standard deviations from the mean
STROKE_STDS = 1.5  # what a key sets, in standard deviations


@dataclass(frozen=True)
class Statistics:
    """Of one setting of every control, in the order of the data set."""

    mean: tuple[float, ...]
    """After division by the checkpoint's ``action_scale``, over the valid steps of the training split."""
    std: tuple[float, ...]
    """Unbiased, of the same values, without the floor that is added to it."""
    low: tuple[float, ...] = ()
    """Smallest raw values; chosen from mean and deviation when empty."""
    high: tuple[float, ...] = ()
    """Largest raw values."""

    def __post_init__(self) -> None:
        sizes = {len(part) for part in (self.mean, self.std, self.low, self.high) if part}
        numbers = [*self.mean, *self.std, *self.low, *self.high]
        enforce(
            vars(self),
            [
                Rule(
                    ("mean", "std"), len(sizes) == 1 and len(self.mean) > 0, "expected one number per control"
                ),
                Rule(("mean", "std"), all(map(math.isfinite, numbers)), "expected finite numbers"),
                Rule(("std",), all(std >= 0 for std in self.std), "expected no negative deviation"),
                Rule(("low", "high"), bool(self.low) == bool(self.high), "expected both bounds or none"),
            ],
        )

    @classmethod
    def of(cls, values_NA: Tensor, scale: float = 1.0) -> Statistics:
        """Of recorded raw values, one row per step."""
        scaled = values_NA.double() / scale
        return cls(
            tuple(scaled.mean(0).tolist()),
            tuple(scaled.std(0).tolist()),
            tuple(values_NA.amin(0).tolist()),
            tuple(values_NA.amax(0).tolist()),
        )

    @classmethod
    def read(cls, path: Path) -> Statistics:
        """Read a JSON or safetensors file with ``mean`` and ``std``, and optionally ``low`` and ``high``.

        The ``stats.json`` of a LeRobot data set is read too: its entry ``action``, with ``min`` and ``max``.

        Raises:
            UserError: when the file is missing, damaged, or has other content.
        """
        try:
            if path.suffix == ".safetensors":
                raw: Any = {name: tensor.flatten().tolist() for name, tensor in load_file(path).items()}
            else:
                raw = read_json(path)
            raw = raw.get("action", raw)
            low, high = raw.get("low", raw.get("min", [])), raw.get("high", raw.get("max", []))
            return cls(*(tuple(map(float, part)) for part in (raw["mean"], raw["std"], low, high)))
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as why:
            raise UserError(
                f"{path} holds no statistics of actions ({reason(why)}): expected JSON or safetensors with mean and"
                " std, one number per control, such as 'worldcompass prepare' writes"
            ) from why

    def written(self) -> dict[str, Sequence[float]]:
        """The content of a JSON file for ``read``."""
        return {name: value for name, value in vars(self).items() if value}


@dataclass(frozen=True)
class NanoActions:
    """The controls of a world, and how the network reads them."""

    space: Controls
    scale: float = 1.0
    """Raw values are divided by it."""
    mean: tuple[float, ...] = ()
    """Subtracted from the network's numbers of a setting; nothing when empty."""
    std: tuple[float, ...] = ()
    """Then these are divided by it, see ``FLOOR``."""
    one_hot: tuple[str, ...] = ()
    """Controls with levels that the network gets as one number for each level, 1 at the chosen one."""

    @property
    def size(self) -> int:
        """Numbers of a latent."""
        return self.space.per_latent * sum(self._widths)

    def packed(self, actions: Actions) -> Tensor:
        """The network's numbers, (..., K, T * A'), one setting after another; float32."""
        values_KTA = actions.controls.values_KTA.float()
        parts = []
        for axis, column in zip(self.space.controls, values_KTA.unbind(-1), strict=True):
            parts.append(_one_hot(axis, column) if axis.name in self.one_hot else column[..., None])
        numbers = torch.cat(parts, -1) / self.scale
        if self.mean:
            mean, std = (torch.tensor(part, device=numbers.device) for part in (self.mean, self.std))
            numbers = (numbers - mean) / (std + FLOOR)
        return numbers.flatten(-2)

    def raw(self, numbers_KTA: Tensor) -> Tensor:
        """Values of the controls from a data set's own columns, (..., A') to (..., A)."""
        columns = []
        for axis, part in zip(self.space.controls, numbers_KTA.split(self._widths, -1), strict=True):
            if axis.name in self.one_hot and axis.levels:
                step = (axis.high - axis.low) / (axis.levels - 1)
                columns.append(axis.low + step * part.argmax(-1))
            else:
                columns.append(part[..., 0])
        return torch.stack(columns, -1)

    @property
    def _widths(self) -> list[int]:
        return [(axis.levels or 1) if axis.name in self.one_hot else 1 for axis in self.space.controls]


def _one_hot(axis: Axis, column: Tensor) -> Tensor:
    levels = axis.levels or 1
    place = (column - axis.low) / (axis.high - axis.low) * (levels - 1)
    return torch.nn.functional.one_hot(place.round().long(), levels).float()


Way = tuple[str, str]
"""A word towards the lower bound of a control and one towards its upper bound, or their keys."""

# Words and keys of named controls by the numbers of a setting; others get words such as ``a0_less a0_more``.
_PLANE: Mapping[str, tuple[Way, Way]] = {
    "x": (("left", "right"), ("ArrowLeft", "ArrowRight")),
    "y": (("up", "down"), ("ArrowUp", "ArrowDown")),  # it grows downwards, as in PushT's picture
}
_ARM: Mapping[str, tuple[Way, Way]] = {
    "x": (("back", "forward"), ("KeyS", "KeyW")),
    "y": (("right", "left"), ("KeyD", "KeyA")),
    "z": (("down", "up"), ("ArrowDown", "ArrowUp")),
    "roll": (("roll_left", "roll_right"), ("KeyJ", "KeyL")),
    "pitch": (("pitch_down", "pitch_up"), ("KeyK", "KeyI")),
    "yaw": (("yaw_right", "yaw_left"), ("ArrowRight", "ArrowLeft")),
    "grip": (("open", "close"), ("KeyG", "KeyT")),
}
NAMES = {len(names): names for names in (_PLANE, _ARM)}
_GAME_KEYS = (
    ("w", "KeyW"), ("a", "KeyA"), ("s", "KeyS"), ("d", "KeyD"), ("jump", "Space"), ("crouch", "ControlLeft"),
    ("walk", "ShiftLeft"), ("gun1", "Digit1"), ("gun2", "Digit2"), ("gun3", "Digit3"), ("reload", "KeyR"),
    ("fire", "KeyF"), ("aim", "KeyE"),
)  # fmt: skip
_MOUSE_X, _MOUSE_Y = 11, 7  # bins to either side of rest
_STROKE_BINS = 6  # of the mouse by a key
GAME_SIZE = len(_GAME_KEYS) + 2 * (_MOUSE_X + _MOUSE_Y + 1)
"""Numbers of a setting of the shooter: 11 keys, 2 mouse buttons, and a bin for each way of the mouse."""


def actions_of(
    size: int,
    per_latent: int,
    scale: float = 1.0,
    normalised: bool = True,
    statistics: Statistics | None = None,
) -> NanoActions:
    """The controls of a checkpoint.

    Args:
        size: the data set's numbers of a setting: 2 for PushT and mazes, 7 for a robot's arm, 51 for the shooter;
            others get names without meaning.
        per_latent: settings of a latent, the checkpoint's ``frame_interval``.
        scale: the checkpoint's ``action_scale``.
        normalised: whether the network reads values without their mean, in standard deviations.
        statistics: needed for that; also for bounds.

    Raises:
        UserError: when statistics are missing or of other controls.
    """
    if size == GAME_SIZE:
        return NanoActions(Controls(_shooter(), per_latent), scale, one_hot=("mouse_x", "mouse_y"))
    if statistics is None and normalised:
        raise UserError(
            "this checkpoint reads normalised actions: give the mean and deviation of its training actions with"
            " statistics=FILE; Nano's guide says how they are computed"
        )
    if statistics is not None and len(statistics.mean) != size:
        raise UserError(
            f"the statistics are of {len(statistics.mean)} controls, the checkpoint has {size}: give those of its"
            " own data set"
        )
    names = NAMES.get(size) or {f"a{i}": ((f"a{i}_less", f"a{i}_more"), ()) for i in range(size)}
    axes = tuple(
        _axis(name, words, codes, index, scale, statistics)
        for index, (name, (words, codes)) in enumerate(names.items())
    )
    mean, std = (statistics.mean, statistics.std) if statistics and normalised else ((), ())
    return NanoActions(Controls(axes, per_latent), scale, mean, std)


def _axis(
    name: str, words: Way, codes: tuple[str, ...], index: int, scale: float, statistics: Statistics | None
) -> Axis:
    if statistics is None:
        return Axis(name, words=words, codes=codes)
    mean, std = scale * statistics.mean[index], scale * statistics.std[index]
    low, high = mean - BOUND_STDS * std, mean + BOUND_STDS * std
    if statistics.low:
        low, high = statistics.low[index], statistics.high[index]
    low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        raise UserError(
            f"the control {name} never changes in the statistics: expected those of training data"
        )
    ways = slice(0, 2) if low < 0 < high else slice(1, 2) if high else slice(0)
    stroke = min([STROKE_STDS * std, *(bound for bound in (-low, high) if bound)])
    return Axis(
        name, low, high, words[ways], codes=codes[ways], stroke=stroke if words[ways] and std else None
    )


def _shooter() -> tuple[Axis, ...]:
    keys = tuple(button(word, code) for word, code in _GAME_KEYS)
    return (
        *keys,
        _mouse("mouse_x", _MOUSE_X, "look_left", "look_right"),
        _mouse("mouse_y", _MOUSE_Y, "look_up", "look_down"),
    )


def _mouse(name: str, bins: int, less: str, more: str) -> Axis:
    return Axis(name, -bins, bins, (less, more), levels=2 * bins + 1, stroke=min(_STROKE_BINS, bins))
