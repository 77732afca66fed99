"""What a world tells about the videos of a study; the study itself knows no world."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from worldcompass.types import Scenario
from worldcompass.world import WorldSpec


@dataclass(frozen=True)
class Subjects:
    """The scenarios and videos that a study can show."""

    spec: WorldSpec
    scenario_ids: tuple[str, ...]
    subject: str
    """The name of the model in question: its wins are counted."""
    rival: str
    """The name of the model that it is compared with; may be ``base``."""
    titles: Mapping[str, str]
    """By name of a model: where its weights come from, for people."""
    weights: Mapping[str, str]
    """By name of a model, ``base`` always among them: SHA-256 of its weights."""
    num_frames: int
    """Frames of every video."""
    prepare: Callable[[Sequence[str]], Sequence[Scenario]]
    """Scenarios of some ids, with start image and commands; with the engine's frames if ``engine``."""
    imagine: Callable[[str, Sequence[Scenario], int], Tensor]
    """(name of a model, scenarios, noise seed) -> their videos, uint8 (V, F, 3, h, w)."""
    fingerprint: Callable[[Sequence[Scenario]], str]
    """A hash of scenarios, which changes when any start image or command does."""
    engine: bool = True
    """Whether scenarios have the engine's continuation, which a control shows."""
