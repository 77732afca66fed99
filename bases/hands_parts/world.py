"""The Hands world with its second network and the weights beside this file: ``--world FILE:make``."""

from __future__ import annotations

from pathlib import Path

from worldcompass.runs.folder import weights_folder
from worldcompass.worlds.hands.parts.world import WEIGHTS, PartsWorld, load_parts_world


def make(weights: Path | None = None, device: str = "cpu") -> PartsWorld:
    """The world with the weights of a folder or a run, or those beside this file.

    Raises:
        UserError: when they are missing or do not fit.
    """
    folder = weights_folder(weights, WEIGHTS.net) if weights else Path(__file__).parent
    return load_parts_world(folder, device)
