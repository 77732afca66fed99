"""A lab's own videos with their camera poses: ``lake.mp4`` with ``lake.json``, and ``lake.txt`` for the caption.

The JSON file holds poses in the official form, or ``{"path": "w-3, right-2"}``. ``worldcompass prepare --images``
makes the conditioning from the first frames of the same folder.
"""

from __future__ import annotations

from pathlib import Path

from worldcompass.actions import ActionSpace
from worldcompass.recordings import json_in, path_in
from worldcompass.types import Actions
from worldcompass.worlds.worldplay.pose_files import read_poses


def read_moves(file: Path, space: ActionSpace) -> Actions:
    """The actions of a recording.

    Raises:
        UserError: when the file holds neither poses nor a path.
    """
    raw = json_in(file)
    return path_in(file, space) if isinstance(raw, dict) and "path" in raw else read_poses(file)
