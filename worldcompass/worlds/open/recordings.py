"""Scenarios of a user's recordings, with prepared conditioning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from worldcompass.recordings import ReadActions, Recording, read_recordings
from worldcompass.types import Scenario
from worldcompass.world import WorldSpec


def recorded_scenarios(
    folder: Path,
    spec: WorldSpec,
    num_latents: int,
    begin: Callable[[Recording, Scenario], Scenario],
    read: ReadActions,
) -> list[Scenario]:
    """One scenario per recording, with its continuation, held in memory.

    Args:
        folder: of the recordings.
        spec: of the world.
        num_latents: of each.
        begin: adds conditioning and caption.
        read: reads the actions of a recording.

    Raises:
        UserError: see ``read_recordings``.
    """
    found = read_recordings(folder, spec, num_latents, read)
    return [begin(recording, recording.scenario(spec)) for recording in found]
