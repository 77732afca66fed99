"""Waypoint's controls, one setting per frame: the mouse, the buttons by number, and the wheel.

The model publishes neither the unit of the mouse nor the meaning of button numbers. Public clients send Windows'
virtual-key codes, and the published samples move the mouse by 0.1 to 0.4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from worldcompass.controls import Axis, Controls, button

MOUSE_STROKE = 0.4  # what a word or an arrow key sets the mouse to
MOUSE_LIMIT = 100.0  # of recorded play


@dataclass(frozen=True)
class PlayKey:
    """A button that people play with."""

    number: int
    """Its place among the model's buttons."""
    code: str
    """The browser's ``KeyboardEvent.code``."""


PLAY_KEYS: Mapping[str, PlayKey] = {
    "w": PlayKey(87, "KeyW"),
    "a": PlayKey(65, "KeyA"),
    "s": PlayKey(83, "KeyS"),
    "d": PlayKey(68, "KeyD"),
    "space": PlayKey(32, "Space"),
    "shift": PlayKey(16, "ShiftLeft"),
    "click": PlayKey(1, "KeyJ"),  # the left button of the mouse
}
"""Words of a path, with Windows' virtual-key codes. All other buttons can only be set by value."""


def waypoint_controls(num_buttons: int, keys: Mapping[str, PlayKey] = PLAY_KEYS) -> Controls:
    """The action space, in the network's order: mouse x and y, buttons, sign of the wheel."""
    words = {key.number: word for word, key in keys.items()}
    buttons = [
        button(words[n], keys[words[n]].code) if n in words else Axis(f"button_{n}", 0.0, 1.0, levels=2)
        for n in range(num_buttons)
    ]
    mouse = [
        Axis(f"mouse_{axis}", -MOUSE_LIMIT, MOUSE_LIMIT, ways, codes=codes, stroke=MOUSE_STROKE)
        for axis, ways, codes in (
            ("x", ("left", "right"), ("ArrowLeft", "ArrowRight")),
            ("y", ("up", "down"), ("ArrowUp", "ArrowDown")),  # grows downwards, as on a screen
        )
    ]
    return Controls((*mouse, *buttons, Axis("wheel", levels=3)))


def control_values(mouse_K2: Tensor, pressed: list[set[int]], wheel_K: Tensor, num_buttons: int) -> Tensor:
    """Recorded input of K frames as the network reads it, float32 (K, A); of the wheel only the sign counts.

    Args:
        mouse_K2: velocity, x then y.
        pressed: numbers of the buttons that are held in each frame.
        wheel_K: raw counts.
        num_buttons: of the model.
    """
    buttons = torch.zeros(len(pressed), num_buttons)
    for row, numbers in zip(buttons, pressed, strict=True):
        row[sorted(numbers)] = 1.0
    return torch.cat([mouse_K2.float(), buttons, wheel_K.float().sign()[:, None]], 1)
