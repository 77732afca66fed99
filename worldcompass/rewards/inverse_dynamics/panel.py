"""What a reader reads: every control of an action space as a distribution over a scale of values.

Buttons and levels have their own values, other controls evenly spaced ones; a camera's axes have three, the signs
of the motion. One network and one score serve keyboards, mice, robots and cameras alike.

Values are counted in **ways**: 0 at rest, 1 at the upper bound and -1 at the lower one. Of a control whose words
set it to less than that (its stroke), such as a mouse, half of the way ends there, as most of its play does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worldcompass.actions import ActionSpace
from worldcompass.controls import Axis, Controls
from worldcompass.critic import Need
from worldcompass.geometry import motion_signs
from worldcompass.types import Actions

FINE = 5  # values of each way of a control without levels, besides rest
MOST_LEVELS = 65  # of a control; finer ones are read as if they had none
TOLERANCE = 0.2  # of a control's range: the deviation of the kernel that compares two values
ASKED = 0.25  # share of the stroke from which a control counts as commanded to move


@dataclass(frozen=True)
class Panel:
    """The controls of an action space."""

    gives: Need
    """``controls`` or ``cameras``."""
    axes: tuple[Axis, ...]
    settings: int
    """T: settings of a latent."""

    @staticmethod
    def of(space: ActionSpace) -> Panel:
        """The panel of a world's actions."""
        if isinstance(space, Controls):
            return Panel(space.gives, space.controls, space.per_latent)
        return Panel(space.gives, tuple(Axis(name, levels=3) for name in space.axes), 1)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of values on every control's scale."""
        return tuple(len(scale_of(axis)) for axis in self.axes)

    def ways(self, actions: Actions) -> Tensor:
        """The commands in ways, float32 (..., K, T, A).

        Raises:
            ValueError: for other actions.
        """
        if self.gives == "cameras":
            return motion_signs(actions.cameras.labels_K)[..., None, :]
        values = actions.controls.values_KTA.float()
        if tuple(values.shape[-2:]) != (self.settings, len(self.axes)):
            raise ValueError(
                f"expected {self.describe()}, got values of the shape {tuple(values.shape[-2:])}"
            )
        return torch.stack([to_ways(axis, values[..., i]) for i, axis in enumerate(self.axes)], -1)

    def signs(self, ways_A: Tensor) -> Tensor:
        """Which way each control is asked to go: -1, 0 (it rests) or 1; int64, of ways (..., A)."""
        least = torch.tensor([ASKED * (1.0 if axis.stroke is None else 0.5) for axis in self.axes]).to(ways_A)
        return (ways_A >= least).long() - (ways_A <= -least).long()

    def agreement(self, axis: int, read_L: Tensor, ways: Tensor) -> Tensor:
        """How near a control's distribution is to a value: the mean of a kernel that is 1 for equal values.

        Args:
            axis: of the control.
            read_L: probabilities, (..., L).
            ways: the value, (...,) or what broadcasts to it.
        """
        scale = scale_of(self.axes[axis]).to(read_L)
        far = (scale - ways[..., None]) / (TOLERANCE * (scale[-1] - scale[0]))
        return (read_L * (-far.square() / 2).exp()).sum(-1)

    def describe(self) -> str:
        """In words: ``x (-1 to 1), jump (0 to 1 in 2 levels)``."""
        each = "" if self.settings == 1 else f", {self.settings} settings a latent"
        return ", ".join(map(_words, self.axes)) + each

    def to_json(self) -> dict[str, Any]:
        """For a file; words and keys are left out, since nothing that is read depends on them."""
        names = ("name", "low", "high", "levels", "stroke")
        axes = [{name: getattr(axis, name) for name in names} for axis in self.axes]
        return {"gives": self.gives, "axes": axes, "settings": self.settings}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Panel:
        """The inverse of ``to_json``."""
        return Panel(data["gives"], tuple(Axis(**axis) for axis in data["axes"]), int(data["settings"]))

    def same(self, other: Panel) -> bool:
        """Whether both read the same, whatever their words and keys are."""
        return self.to_json() == other.to_json()


def to_ways(axis: Axis, values: Tensor) -> Tensor:
    """Values of a control in ways."""
    bound = torch.where(values < 0, -axis.low, axis.high)
    size = values.abs()
    share = size / bound.clamp_min(1e-9)
    if axis.stroke is not None:
        stroke = torch.minimum(torch.tensor(axis.stroke), bound)
        beyond = (size - stroke) / (bound - stroke).clamp_min(1e-9)
        share = torch.where(size <= stroke, size / stroke, 1 + beyond.clamp(0, 1)) / 2
    return values.sign() * share


def scale_of(axis: Axis) -> Tensor:
    """The values of a control, in ways, lowest first; float32 (L,)."""
    if axis.levels is not None and axis.levels <= MOST_LEVELS:
        return to_ways(axis, torch.linspace(axis.low, axis.high, axis.levels))
    down, up = (FINE * (bound != 0) for bound in (axis.low, axis.high))
    return torch.arange(-down, up + 1) / FINE


def on_scale(axis: Axis, ways: Tensor) -> Tensor:
    """A value as a distribution: all on one value of the scale, or shared between its two neighbours; (..., L)."""
    scale = scale_of(axis).to(ways)
    own = ways.clamp(scale[0], scale[-1]).contiguous()
    above = torch.searchsorted(scale, own).clamp(1, len(scale) - 1)
    share = (own - scale[above - 1]) / (scale[above] - scale[above - 1])
    found = torch.zeros(*own.shape, len(scale)).to(ways)
    found.scatter_(-1, above[..., None] - 1, (1 - share)[..., None])
    return found.scatter_(-1, above[..., None], share[..., None])


def _words(axis: Axis) -> str:
    levels = "" if axis.levels is None else f" in {axis.levels} levels"
    return f"{axis.name} ({axis.low:g} to {axis.high:g}{levels})"
