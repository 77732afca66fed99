"""A lab's own videos with their camera poses: ``lake.mp4`` with ``lake.json``, and ``lake.txt`` for the caption.

The JSON file holds poses in the official form, or ``{"path": "w-3, right-2"}``. ``worldcompass prepare --images``
makes the conditioning from the first frames of the same folder.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from worldcompass.actions import ActionSpace
from worldcompass.recordings import Recording, json_in, path_in, read_recordings
from worldcompass.types import Actions, Scenario
from worldcompass.world import WorldSpec
from worldcompass.worlds.worldplay.pose_files import read_poses


def read_moves(file: Path, space: ActionSpace) -> Actions:
    """The actions of a recording.

    Raises:
        UserError: when the file holds neither poses nor a path.
    """
    raw = json_in(file)
    return path_in(file, space) if isinstance(raw, dict) and "path" in raw else read_poses(file)


def recorded_scenarios(
    folder: Path,
    spec: WorldSpec,
    num_latents: int,
    begin: Callable[[Recording, Scenario], Scenario],
) -> list[Scenario]:
    """One scenario per recording, with its continuation, held in memory.

    Args:
        folder: of the recordings.
        spec: of the world.
        num_latents: of each.
        begin: adds conditioning and caption.

    Raises:
        UserError: see ``read_recordings``.
    """
    found = read_recordings(folder, spec, num_latents, read_moves)
    return [begin(recording, recording.scenario(spec)) for recording in found]
