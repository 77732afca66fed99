"""What a judge needs of a small world."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from worldcompass.judging.court import Court, Role, Scenes
from worldcompass.runs.folder import weights_folder
from worldcompass.runs.requirements import digest_of
from worldcompass.world import WorldModel, WorldSpec
from worldcompass.worlds.small.weights import WeightFiles


def court_of(
    weights: WeightFiles,
    spec: WorldSpec,
    load: Callable[[Path | None, str], WorldModel[Any]],
    scenes: Callable[[Role, int], Scenes],
    remedy: str,
) -> Court:
    """The court of a world with shipped weights.

    Args:
        weights: where they lie.
        spec: of the world.
        load: makes the world from a folder of weights, or from the shipped ones for None, on a device.
        scenes: see ``Court``.
        remedy: see ``Court``.
    """

    def folder(run: Path | None) -> Path:
        assert weights.shipped is not None
        return weights.shipped if run is None else weights_folder(run, weights.net)

    return Court(
        spec,
        lambda run, device: load(None if run is None else folder(run), device),
        lambda run: digest_of(folder(run) / weights.net),
        scenes,
        remedy,
    )
