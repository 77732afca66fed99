"""Keyboards and mice of Matrix-Game 2 and ForgeWM: words for people, and the numbers that a network reads.

The setting of frame t belongs to the transition from frame t to t + 1. Latent L ends with frame 4L, so its own four
settings are those of the frames 4L - 4 to 4L - 1, and the network reads three latents' settings: frames 4L - 12 to
4L - 1. Before the video the setting of frame 0 stands, which is latent 1's first; latent 0 has none of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worldcompass.controls import Axis, Controls
from worldcompass.errors import UnfitInputs
from worldcompass.types import Actions, ControlValues
from worldcompass.worlds.causal_wan.action_module import MOUSE, SEEN_LATENTS, Windows
from worldcompass.worlds.open.causal import FRAMES_PER_LATENT

STROKE = 0.1  # of the mouse, in the palettes of both projects; recorded play also moves it faster

_WALK = Axis("forward", words=("s", "w"), levels=3, codes=("KeyS", "KeyW"))
_STRAFE = Axis("right", words=("a", "d"), levels=3, codes=("KeyA", "KeyD"))
_YAW = Axis("yaw", words=("left", "right"), codes=("ArrowLeft", "ArrowRight"), stroke=STROKE)
_PITCH = Axis("pitch", words=("down", "up"), codes=("ArrowDown", "ArrowUp"), stroke=STROKE)


@dataclass(frozen=True)
class OneCommand(Controls):
    """Controls of which at most one is away from rest; of keys that are held together the first one counts."""

    @property
    def _sizes(self) -> tuple[int, ...]:
        return (1 + sum(len(axis.signs) - 1 for axis in self.controls),)

    @property
    def _half(self) -> int:
        return 1

    @property
    def _ways(self) -> tuple[tuple[int, ...], ...]:
        """Signs of all composites."""
        count = len(self.controls)
        alone = [
            tuple(sign if place == axis else 0 for place in range(count))
            for axis in range(count)
            for sign in self.controls[axis].signs
            if sign
        ]
        return ((0,) * count, *alone)

    def signs(self, composite: int) -> tuple[int, ...]:
        """See ``ActionSpace``."""
        return self._ways[composite]

    def composite(self, signs: Sequence[int]) -> int:
        """See ``ActionSpace``: of several signs the first one counts."""
        first = next((place for place, sign in enumerate(signs) if sign), 0)
        return self._ways.index(tuple(sign if place == first else 0 for place, sign in enumerate(signs)))

    def commanded(self, composites_M: Tensor, like: Actions | None = None) -> ControlValues:
        """See ``ActionSpace``: one control as its word sets it, or none."""
        table = [[axis.toward(s) for axis, s in zip(self.controls, way, strict=True)] for way in self._ways]
        return self.hold(torch.tensor(table, device=composites_M.device)[composites_M.long()])

    def composites(self, actions: Actions) -> Tensor:
        """See ``ActionSpace``."""
        signs_KA = actions.controls.values_KTA.mean(-2).round().long()
        found = [self.composite(signs) for signs in signs_KA.flatten(0, -2).tolist()]
        return torch.tensor(found, device=signs_KA.device).view(signs_KA.shape[:-1])

    def changed(self, actions: Actions, axis: int) -> ControlValues:
        """See ``ActionSpace``: the other controls rest."""
        values = super().changed(actions, axis).values_KTA
        alone = torch.zeros_like(values)
        alone[..., axis] = values[..., axis]
        return ControlValues(alone)

    def check(self, actions: Actions) -> None:
        """See ``ActionSpace``."""
        super().check(actions)
        several = (actions.controls.values_KTA != 0).sum(-1) > 1
        if several.any():
            pressed = actions.controls.values_KTA[several][0].nonzero().flatten().tolist()
            names = " and ".join(self.axes[place] for place in pressed)
            raise ValueError(f"{names} are commanded at once: this world knows one command at a time")


@dataclass(frozen=True)
class Devices:
    """The keyboard and the mouse of one group of checkpoints."""

    space: Controls
    """What people and policies command."""
    keys: tuple[tuple[int, int], ...]
    """The axis and the sign of each key that the network reads, in its order."""
    rest_key: bool = False
    """Whether a key before them stands for no command."""
    mouse: tuple[int | None, int | None] = (None, None)
    """The axes of pitch and yaw; None for one that stays at rest."""

    def windows(
        self, settings_PKTA: Tensor, before_PKTA: Tensor | None, first: int, num_keys: int
    ) -> Windows:
        """What each latent of a chunk reads.

        Args:
            settings_PKTA: of the chunk, see ``seen_frames``.
            before_PKTA: of the latents before it.
            first: index of the chunk's first latent.
            num_keys: of the network, which pads the keyboard with keys that are never pressed.
        """
        frames = seen_frames(settings_PKTA, before_PKTA, first)
        return Windows(self.pressed(frames, num_keys).flatten(2), self.moved(frames).flatten(2))

    def pressed(self, values: Tensor, num_keys: int) -> Tensor:
        """The keyboard's numbers for values of the controls, (..., A) to (..., num_keys)."""
        keys = [(sign * values[..., axis]).clamp(min=0) for axis, sign in self.keys]
        if self.rest_key:
            keys.insert(0, 1 - torch.stack(keys).amax(0))
        return torch.stack([*keys, *[torch.zeros_like(values[..., 0])] * (num_keys - len(keys))], -1)

    def moved(self, values: Tensor) -> Tensor:
        """The mouse's numbers, (..., A) to (..., 2): pitch and yaw."""
        rest = torch.zeros_like(values[..., 0])
        return torch.stack([rest if axis is None else values[..., axis] for axis in self.mouse], -1)

    def recorded(self, keyboard_FE: Tensor, mouse_F2: Tensor | None = None) -> ControlValues:
        """The actions of a recording with one entry for each frame, as in the official data.

        Args:
            keyboard_FE: the network's keys, or fewer of the last ones, 0 or 1.
            mouse_F2: pitch and yaw; at rest when None.

        Raises:
            UnfitInputs: when frames fill no whole latents, or something is pressed that the world does not know.
        """
        count = len(keyboard_FE)
        if count % FRAMES_PER_LATENT != 1 or (mouse_F2 is not None and mouse_F2.shape != (count, MOUSE)):
            size = "none" if mouse_F2 is None else tuple(mouse_F2.shape)
            raise UnfitInputs(
                f"the keyboard has {tuple(keyboard_FE.shape)} numbers and the mouse {size}: expected a row for each"
                " of 1, 5, 9, ... frames, and pitch and yaw of the mouse"
            )
        values_FA = self._values(keyboard_FE.float(), mouse_F2)
        own = values_FA[:-1].unflatten(0, (-1, FRAMES_PER_LATENT)) if count > 1 else values_FA[:0, None]
        first = torch.zeros(1, FRAMES_PER_LATENT, values_FA.shape[1])
        return ControlValues(torch.cat([first, own.reshape(-1, *first.shape[1:])]))

    def _values(self, keyboard_FE: Tensor, mouse_F2: Tensor | None) -> Tensor:
        names = self.key_names
        if keyboard_FE.shape[1] < len(names) or bool(keyboard_FE[:, len(names) :].any()):
            raise UnfitInputs(
                f"the keyboard has {keyboard_FE.shape[1]} keys, {int((keyboard_FE[:, len(names) :] != 0).sum())} of"
                f" them pressed beyond the world's own: expected the order {', '.join(names)}"
            )
        values = keyboard_FE.new_zeros(len(keyboard_FE), len(self.space.controls))
        for column, (axis, sign) in enumerate(self.keys, int(self.rest_key)):
            values[:, axis] += sign * keyboard_FE[:, column]
        for column, axis in enumerate(self.mouse):
            if mouse_F2 is not None and axis is not None:
                values[:, axis] = mouse_F2[:, column].float()
            elif mouse_F2 is not None and bool(mouse_F2[:, column].any()):
                raise UnfitInputs(
                    f"the mouse moves in {('pitch', 'yaw')[column]}, which this world does not know"
                )
        return values

    @property
    def key_names(self) -> tuple[str, ...]:
        """The words of the network's keys in its order."""
        words = {(key.axis, key.sign): key.word for key in self.space.keys}
        return (*("none",) * self.rest_key, *(words[key] for key in self.keys))


def seen_frames(settings_PKTA: Tensor, before_PKTA: Tensor | None, first: int) -> Tensor:
    """The settings that each latent of a chunk reads, oldest frame first; (P, K, ``SEEN_FRAMES``, A).

    Args:
        settings_PKTA: of the chunk's latents, four frames each.
        before_PKTA: of the last latents before it, ``SEEN_LATENTS`` - 1 or more unless the video is younger; None
            at its beginning.
        first: index of the chunk's first latent in the video.
    """
    whole = (
        settings_PKTA if before_PKTA is None else torch.cat([before_PKTA.to(settings_PKTA), settings_PKTA], 1)
    )
    known = first - whole.shape[1] + settings_PKTA.shape[1]  # index of the first latent in ``whole``
    places = torch.arange(first - SEEN_LATENTS + 1, first + settings_PKTA.shape[1], device=whole.device)
    picked = whole[:, (places - known).clamp(min=0)]
    if (
        first < SEEN_LATENTS
    ):  # before the video, and in latent 0, stands the setting of frame 0: latent 1's first
        frame_0 = whole[:, None, min(max(1 - known, 0), whole.shape[1] - 1), :1]
        picked = torch.where((places < 1)[:, None, None], frame_0, picked)
    return picked.unfold(1, SEEN_LATENTS, 1).movedim(-1, 2).flatten(2, 3)


WALKER = Devices(
    Controls((_WALK, _STRAFE, _YAW, _PITCH), FRAMES_PER_LATENT),
    keys=((0, 1), (0, -1), (1, -1), (1, 1)),
    mouse=(3, 2),
)
"""Matrix-Game 2 universal and base, and ForgeWM: W, S, A, D and a mouse; 81 composites, as of a camera."""

DRIVER = Devices(Controls((_WALK, _YAW), FRAMES_PER_LATENT), keys=((0, 1), (0, -1)), mouse=(None, 1))
"""Matrix-Game 2 for driving (GTA): W, S, and the mouse's yaw, which steers."""

RUNNER = Devices(
    OneCommand(
        (
            Axis("jump", words=("slide", "jump"), levels=3, codes=("ArrowDown", "ArrowUp")),
            Axis("turn", words=("turn_left", "turn_right"), levels=3, codes=("ArrowLeft", "ArrowRight")),
            Axis("side", words=("left", "right"), levels=3, codes=("KeyA", "KeyD")),
        ),
        FRAMES_PER_LATENT,
    ),
    keys=((0, 1), (0, -1), (1, -1), (1, 1), (2, -1), (2, 1)),
    rest_key=True,
)
"""Matrix-Game 2 for Temple Run: one command at a time, and a key for none."""

BY_KEYS: Mapping[int, Devices] = {2: DRIVER, 4: WALKER, 6: WALKER, 7: RUNNER}
"""The devices of a checkpoint by the number of its keys; with 6 the last two are never pressed."""
