"""Actions of a world without a camera: named, bounded controls, such as a robot's or a keyboard's and a mouse's."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from worldcompass.actions import REST, ActionSpace, Key
from worldcompass.critic import Need
from worldcompass.types import Actions, ControlValues

MOST_COMPOSITES = 2**62  # their numbers are int64
MOST_NAMED = 16  # controls that a description names; of more only those with words
_WORD = re.compile(r"[a-z][a-z0-9_]*")
_LEVEL_SLACK = 1e-4  # of the distance between levels: what rounding may add

# Keys of axes that name none, as a browser names their place on a keyboard: for two directions, then for one.
_PAIRS = (
    ("KeyS", "KeyW"), ("KeyA", "KeyD"), ("ArrowDown", "ArrowUp"), ("ArrowLeft", "ArrowRight"),
    ("KeyK", "KeyI"), ("KeyJ", "KeyL"), ("KeyG", "KeyT"), ("KeyF", "KeyH"),
)  # fmt: skip
_SINGLES = tuple(f"Digit{n}" for n in (*range(1, 10), 0))


@dataclass(frozen=True)
class Axis:
    """One control: a number between two bounds that rests at 0.

    Of two words the first goes towards ``low`` and the second towards ``high``; one alone goes towards ``high``;
    without any the control can only be set by value.
    """

    name: str
    low: float = -1.0
    high: float = 1.0
    words: tuple[str, ...] = ()
    levels: int | None = None
    """Number of evenly spaced values, bounds included; None for any value between. A button has 2."""
    codes: tuple[str, ...] = ()
    """Keys of the words, as the browser's ``KeyboardEvent.code``; chosen for you when empty."""
    stroke: float | None = None
    """How far from 0 a word sets it, such as a mouse that can also move faster; as far as it goes when None."""

    def __post_init__(self) -> None:
        wrong = self._wrong()
        if wrong:
            raise ValueError(f"the control {self.name!r} {wrong}")

    def _wrong(self) -> str:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            return f"goes from {self.low:g} to {self.high:g}: expected finite bounds, the lower one first"
        if not self.low <= 0 <= self.high:
            return f"goes from {self.low:g} to {self.high:g}: expected 0, where a control rests, between them"
        ways = (self.low < 0) + (self.high > 0)
        if len(self.words) > ways or (len(self.words) == 1 and self.high == 0):
            return f"has the words {self.words} for {self.low:g} to {self.high:g}: expected one for each way from 0"
        if unread := [w for w in self.words if not _WORD.fullmatch(w) or w == REST]:
            return f"has the word {unread[0]!r}: expected small letters, digits and _, and not {REST}"
        if self.levels is not None and (self.levels < 2 or not self.is_level(torch.zeros(())).all()):
            return f"has {self.levels} levels from {self.low:g} to {self.high:g}: expected 2 or more, 0 among them"
        if self.codes and len(self.codes) != len(self.words):
            return f"has {len(self.codes)} keys for {len(self.words)} words: name one for each, or none"
        if self.stroke is not None:
            return self._wrong_stroke(self.stroke)
        return ""

    def _wrong_stroke(self, stroke: float) -> str:
        set_to = torch.tensor([self.toward(sign) for sign in self.signs if sign])
        inside = bool(((set_to >= self.low) & (set_to <= self.high) & self.is_level(set_to)).all())
        if stroke > 0 and inside:
            return ""
        return f"has a stroke of {stroke:g} for {self.low:g} to {self.high:g}: expected a value of its own above 0"

    def is_level(self, values: Tensor) -> Tensor:
        """Which values it can take, bounds aside; bool."""
        if self.levels is None:
            return torch.ones_like(values, dtype=torch.bool)
        place = (values.double() - self.low) / (self.high - self.low) * (self.levels - 1)
        return (place - place.round()).abs() <= _LEVEL_SLACK

    def toward(self, sign: int) -> float:
        """The value that a composite with this sign gives it."""
        return sign * self.stroke if self.stroke is not None else (0.0, self.high, self.low)[sign]

    @property
    def signs(self) -> tuple[int, ...]:
        """The signs that its words can give it, 0 first."""
        return ((0,), (0, 1), (0, 1, -1))[len(self.words)]


def button(word: str, code: str = "") -> Axis:
    """A control that is pressed (1) or not (0)."""
    return Axis(word, 0.0, 1.0, (word,), levels=2, codes=(code,) if code else ())


@dataclass(frozen=True)
class Controls(ActionSpace):
    """Named, bounded controls of a world without camera poses: a robot, mouse and keyboard, or a game's buttons."""

    controls: tuple[Axis, ...]
    per_latent: int = 1
    """Successive settings of one latent: 1 holds one, and ``frames_per_latent`` gives one per frame."""

    def __post_init__(self) -> None:
        words = [word for axis in self.controls for word in axis.words]
        if not self.controls or len({axis.name for axis in self.controls}) < len(self.controls):
            raise ValueError(f"expected one control or more with different names, got {list(self.axes)}")
        if not words or len(set(words)) < len(words):
            raise ValueError(f"expected different words for the ways of the controls, got {words}")
        if self.per_latent < 1:
            raise ValueError(f"per_latent is {self.per_latent}: expected 1 or more settings of a latent")
        if self.num_composites > MOST_COMPOSITES:
            raise ValueError(
                f"the words of {len(self.controls)} controls combine in more than 2**62 ways: leave out the words"
                " of those that nobody plays with"
            )

    @property
    def gives(self) -> Need:
        """Controls."""
        return "controls"

    @property
    def axes(self) -> tuple[str, ...]:
        """See ``ActionSpace``."""
        return tuple(axis.name for axis in self.controls)

    @property
    def keys(self) -> tuple[Key, ...]:
        """See ``ActionSpace``. Axes that name no keys take the next free ones."""
        return _keys_of_controls(self.controls)

    @property
    def rows(self) -> tuple[str, ...]:
        """See ``ActionSpace``: the first half of the controls that have words."""
        half = self._half
        return tuple(
            self.name(index * math.prod(self._sizes[half:])) for index in range(math.prod(self._sizes[:half]))
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """See ``ActionSpace``: the other half."""
        return tuple(self.name(index) for index in range(math.prod(self._sizes[self._half :])))

    @property
    def num_composites(self) -> int:
        """See ``ActionSpace``."""
        return math.prod(self._sizes)

    @property
    def _sizes(self) -> tuple[int, ...]:
        return tuple(len(axis.signs) for axis in self.controls)

    @property
    def _half(self) -> int:
        spoken = [index for index, axis in enumerate(self.controls) if axis.words]
        return spoken[(len(spoken) - 1) // 2] + 1

    def signs(self, composite: int) -> tuple[int, ...]:
        """See ``ActionSpace``."""
        found: list[int] = []
        for axis in reversed(self.controls):
            composite, digit = divmod(composite, len(axis.signs))
            found.append(axis.signs[digit])
        return tuple(reversed(found))

    def composite(self, signs: Sequence[int]) -> int:
        """See ``ActionSpace``."""
        total = 0
        for axis, sign in zip(self.controls, signs, strict=True):
            total = total * len(axis.signs) + axis.signs.index(sign)
        return total

    def commanded(self, composites_M: Tensor, like: Actions | None = None) -> ControlValues:
        """See ``ActionSpace``: every control as its words set it, or at 0."""
        rest = composites_M.long()
        columns: list[Tensor] = []
        for axis in reversed(self.controls):
            table = torch.tensor([axis.toward(sign) for sign in axis.signs])
            columns.append(table.to(rest.device)[rest % len(axis.signs)])
            rest = rest // len(axis.signs)
        return self.hold(torch.stack(columns[::-1], -1))

    def hold(self, values_KA: Tensor) -> ControlValues:
        """Actions of controls that are held for a latent each, (..., K, A)."""
        values = values_KA.float()[..., None, :]
        return ControlValues(values.expand(*values.shape[:-2], self.per_latent, len(self.controls)))

    def composites(self, actions: Actions) -> Tensor:
        """See ``ActionSpace``: a control counts from half of its way on; of several settings their mean."""
        values_KA = actions.controls.values_KTA.mean(-2)
        total = torch.zeros(values_KA.shape[:-1], dtype=torch.long, device=values_KA.device)
        for index, axis in enumerate(self.controls):
            digit = torch.zeros_like(total)
            for place, sign in enumerate(axis.signs[1:], 1):
                digit = torch.where(values_KA[..., index] / axis.toward(sign) >= 0.5, place, digit)
            total = total * len(axis.signs) + digit
        return total

    def hold_last(self, actions: Actions, num_extra: int) -> ControlValues:
        """See ``ActionSpace``: the last setting is held."""
        values = actions.controls.values_KTA
        extra = values[-1:, -1:].expand(num_extra, *values.shape[1:])
        return ControlValues(torch.cat([values, extra]))

    def follow(self, past: Actions, coming: Actions, latents: int) -> ControlValues:
        """See ``ActionSpace``.

        Raises:
            ValueError: when ``coming`` leaves the bounds.
        """
        self.check(coming)
        held = coming.controls.values_KTA.expand(-1, latents, -1, -1)
        return ControlValues(torch.cat([past.controls.values_KTA, held], 1))

    def changed(self, actions: Actions, axis: int) -> ControlValues:
        """See ``ActionSpace``: the axis goes to the bound that is further away."""
        values, own = actions.controls.values_KTA.clone(), self.controls[axis]
        middle = (own.low + own.high) / 2
        values[..., axis] = torch.where(values[..., axis] > middle, own.low, own.high)
        return ControlValues(values)

    def check(self, actions: Actions) -> None:
        """See ``ActionSpace``."""
        values = actions.controls.values_KTA
        wanted = (self.per_latent, len(self.controls))
        if values.ndim < 3 or tuple(values.shape[-2:]) != wanted or not values.is_floating_point():
            raise ValueError(
                f"expected floating-point values (..., K, {wanted[0]}, {wanted[1]}) of {self.describe()}, got"
                f" {values.dtype} {tuple(values.shape)}"
            )
        for index, axis in enumerate(self.controls):
            own = values[..., index].flatten()
            wrong = own[~((own >= axis.low - 1e-6) & (own <= axis.high + 1e-6) & axis.is_level(own))]
            if len(wrong):
                expected = f"{axis.low:g} to {axis.high:g}"
                expected += "" if axis.levels is None else f" in {axis.levels} even levels"
                raise ValueError(f"the control {axis.name} is {float(wrong[0]):g}: expected {expected}")

    def describe(self) -> str:
        """See ``ActionSpace``."""
        count, named = len(self.controls), self.axes
        if count > MOST_NAMED:
            named = tuple(axis.name for axis in self.controls if axis.words)
        rest = [f"{count - len(named)} without a key"] * (count > len(named))
        return f"{count} control{'s' * (count > 1)} ({', '.join((*named, *rest))})"


@cache
def _keys_of_controls(controls: tuple[Axis, ...]) -> tuple[Key, ...]:
    taken = {code for axis in controls for code in axis.codes}
    pairs = iter([pair for pair in _PAIRS if not taken & set(pair)])
    singles = iter([code for code in _SINGLES if code not in taken])
    found: list[Key] = []
    for index, axis in enumerate(controls):
        if not axis.words:
            continue
        both = len(axis.words) == 2
        codes = axis.codes or (next(pairs, ("", "")) if both else (next(singles, ""),))
        for word, sign, code in zip(axis.words, (-1, 1) if both else (1,), codes, strict=True):
            found.append(Key(word, index, sign, code, word.replace("_", " ")))
    return tuple(found)
