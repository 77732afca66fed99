"""Recorded play: ``street.mp4`` at the world's rate, with keyboard and mouse of every frame in ``street.json``.

The JSON file holds one entry per frame, as the official data, or the forms of every world (``recordings.py``)::

    {"keyboard": [[1, 0, 0, 0], ...], "mouse": [[0.0, 0.1], ...], "fps": 12}
    {"path": "w-3, w+right-4"}
    {"controls": {"forward": [1, 1, 1, 1], "right": [0, 0, 0, 0], "yaw": [0, 0, 0, 0.1], "pitch": [0, 0, 0, 0]}}

An entry belongs to the transition from its frame to the next. Keys are in the network's order, the mouse is (pitch,
yaw) with up and right positive, and rests when it is missing. ``fps`` is checked when it is there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldcompass.actions import ActionSpace
from worldcompass.errors import UserError
from worldcompass.recordings import RATE, actions_in, json_in
from worldcompass.types import Actions
from worldcompass.worlds.causal_wan.controls import Devices
from worldcompass.worlds.causal_wan.matrix_game import FPS
from worldcompass.worlds.open.causal import FRAMES_PER_LATENT

LISTS = ("keyboard", "mouse", "fps")


def read_play(devices: Devices, file: Path, space: ActionSpace) -> Actions:
    """The commands of a recording; frames that fill no latent at its end are left out.

    Raises:
        UserError: when the file holds neither lists nor a path, or something that the world does not know.
    """
    raw = json_in(file)
    if isinstance(raw, dict) and ("path" in raw or "controls" in raw):
        return actions_in(file, space)
    if not isinstance(raw, dict) or "keyboard" not in raw or not raw.keys() <= set(LISTS):
        raise UserError(
            f"{file} holds no recorded play: expected keyboard and mouse of every frame, controls, or a path"
        )
    fps = raw.get("fps", FPS)
    if not isinstance(fps, int | float) or abs(fps / FPS - 1) > RATE:
        raise UserError(
            f"{file} has {fps} commands per second, this world has {FPS:g}: resample them, and the video with them"
        )
    keyboard = _numbers(file, "keyboard", raw)
    mouse = _numbers(file, "mouse", raw) if "mouse" in raw else None
    if mouse is not None and len(mouse) != len(keyboard):
        raise UserError(
            f"{file} has {len(keyboard)} entries of the keyboard and {len(mouse)} of the mouse: expected one of"
            " each for every frame"
        )
    whole = len(keyboard) - (len(keyboard) - 1) % FRAMES_PER_LATENT
    try:
        actions = devices.recorded(keyboard[:whole], None if mouse is None else mouse[:whole])
        space.check(actions)
    except ValueError as why:
        raise UserError(f"{file}: {why}") from why
    return actions


def _numbers(file: Path, name: str, raw: dict[str, Any]) -> Tensor:
    try:
        found = torch.tensor(raw[name], dtype=torch.float32)
    except (TypeError, ValueError) as why:
        raise UserError(f"{file}: {name} is no list of equally long lists of numbers ({why})") from why
    if found.ndim != 2 or not len(found):
        raise UserError(
            f"{file}: {name} has shape {tuple(found.shape)}: expected a row of numbers for each frame"
        )
    return found
