"""Recorded play: ``street.mp4`` at the model's rate, with the input of every frame in ``street.json``.

The JSON file holds lists with one entry per frame, or what ``worldcompass.recordings`` reads of any world::

    {"mouse": [[0.1, 0.0], ...], "buttons": [[87], ...], "wheel": [0, ...]}
    {"path": "w-30, w+right-20"}
    {"controls": {"mouse_x": [0.1, ...], ...}}

``mouse`` is a velocity, ``buttons`` are the numbers of all that are held, of ``wheel`` only the sign counts. The
input of a frame is the one that leads to it. A list that is missing rests.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from worldcompass.actions import ActionSpace
from worldcompass.controls import Controls
from worldcompass.errors import UserError
from worldcompass.recordings import actions_in, json_in
from worldcompass.types import Actions
from worldcompass.worlds.waypoint.controls import control_values

LISTS = ("mouse", "buttons", "wheel")


def read_play(file: Path, space: ActionSpace) -> Actions:
    """The controls of a recording, one setting per frame.

    Raises:
        UserError: when the file holds neither lists of input nor a path, when lists differ in length, or when a
            control leaves its bounds.
    """
    raw = json_in(file)
    if isinstance(raw, dict) and raw.keys() & {"path", "controls"}:
        return actions_in(file, space)
    if not isinstance(raw, dict) or not raw or not raw.keys() <= set(LISTS):
        raise UserError(f"{file} holds no recorded play: expected lists {', '.join(LISTS)}, or a path")
    lengths = {name: len(raw[name]) for name in raw if isinstance(raw[name], list)}
    if len(lengths) < len(raw) or len(set(lengths.values())) != 1 or not all(lengths.values()):
        found = ", ".join(f"{name} {lengths.get(name, 'no list')}" for name in raw)
        raise UserError(f"{file} needs as many entries in every list as the video has frames, got {found}")
    assert isinstance(space, Controls)
    try:
        actions = space.hold(_values(raw, lengths.popitem()[1], len(space.axes) - 3))
        space.check(actions)
    except (TypeError, ValueError, IndexError, RuntimeError) as why:
        raise UserError(f"{file} holds input that this world does not take: {why}") from why
    return actions


def _values(raw: Mapping[str, Any], frames: int, num_buttons: int) -> torch.Tensor:
    mouse = _numbers("mouse", raw.get("mouse", [[0.0, 0.0]] * frames))
    if mouse.shape != (frames, 2):
        raise ValueError(f"expected two numbers of the mouse per frame, got the shape {tuple(mouse.shape)}")
    pressed = [set(numbers) for numbers in raw.get("buttons", [[]] * frames)]
    if wrong := sorted(n for numbers in pressed for n in numbers if n not in range(num_buttons)):
        raise ValueError(f"the button {wrong[0]} is none of 0 to {num_buttons - 1}")
    wheel = _numbers("wheel", raw.get("wheel", [0] * frames))
    return control_values(mouse, pressed, wheel, num_buttons)


def _numbers(name: str, entries: list[Any]) -> torch.Tensor:
    try:
        return torch.tensor(entries, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError) as why:
        raise ValueError(f"{name} has entries that are not numbers, as many in each") from why
