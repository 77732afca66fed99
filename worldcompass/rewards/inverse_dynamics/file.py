"""The file of a trained reader: weights, and what is known of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from worldcompass.errors import UserError
from worldcompass.rewards.inverse_dynamics.network import ControlReader
from worldcompass.rewards.inverse_dynamics.panel import Panel
from worldcompass.rewards.inverse_dynamics.sight import read_frames
from worldcompass.runs.network_files import NetworkFile
from worldcompass.statistics import Estimate

FILE = NetworkFile("inverse_dynamics", 1, "worldcompass critics train --data RECORDINGS")
FACTS = "facts"
LARGEST = 512  # pixels of a side of the frames that are read; more is no file of ours
LEAST_SKILL = 0.2  # share of the way from guessing to always right, below which a control cannot be read


@dataclass(frozen=True)
class Read:
    """How well one control is read in held-out recordings."""

    right: Estimate
    """Share of settings whose way (towards either bound, or rest) is read right; mean of the ways that occur."""
    ways: int
    """Number of ways that occur."""
    error: float
    """Mean distance between value and reading, as a share of the control's range."""
    moving: float
    """Mean agreement where the control is commanded to move; 1 if it never is."""
    resting: float
    """Mean agreement where it rests; 1 if it never does."""

    @property
    def guessing(self) -> float:
        """The share that guessing gets right."""
        return 1 / self.ways

    @property
    def readable(self) -> bool:
        """Whether it is shown to be read better than by guessing, and by more than a little."""
        least = self.guessing + LEAST_SKILL * (1 - self.guessing)
        return self.ways > 1 and self.right.low > self.guessing and self.right.mean >= least


@dataclass(frozen=True)
class Facts:
    """What is known of a reader."""

    panel: Panel
    fps: float
    frames_per_latent: int
    size: tuple[int, int]
    """(height, width) in which frames are read."""
    reads: tuple[Read, ...]
    """Of every control."""
    shown: float
    """Mean probability that true frames show the world."""
    true: Estimate
    """Scores of true held-out latents for their own commands."""
    other: Estimate
    """Scores of the same latents for commands of other latents."""
    trained_on: tuple[str, ...]
    """Names of the recordings."""
    held_out: tuple[str, ...]
    seed: int
    steps: int

    @property
    def counted(self) -> tuple[bool, ...]:
        """Which controls count in scores."""
        return tuple(read.readable for read in self.reads)

    def to_json(self) -> dict[str, Any]:
        """For the file."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        reads = [{**vars(read), "right": read.right.to_json()} for read in self.reads]
        own = {"panel": self.panel.to_json(), "reads": reads}
        return {**plain, **own, "true": self.true.to_json(), "other": self.other.to_json()}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Facts:
        """The inverse of ``to_json``.

        Raises:
            KeyError, TypeError, ValueError: for something else.
        """
        reads = tuple(Read(**{**read, "right": Estimate.from_json(read["right"])}) for read in data["reads"])
        high, wide = data["size"]
        if not max(high, wide) <= LARGEST:
            raise ValueError(f"frames of {high} x {wide}")
        found = Facts(**{**data, "panel": Panel.from_json(data["panel"]), "reads": reads})
        return replace(
            found,
            size=(int(high), int(wide)),
            true=Estimate.from_json(data["true"]),
            other=Estimate.from_json(data["other"]),
            trained_on=tuple(data["trained_on"]),
            held_out=tuple(data["held_out"]),
        )


def save_reader(path: Path, net: ControlReader, facts: Facts) -> None:
    """Write a reader in float16 with its facts, atomically."""
    FILE.save(net, path, {FACTS: json.dumps(facts.to_json())})


def load_reader(path: Path) -> tuple[ControlReader, Facts]:
    """A reader in evaluation mode, without gradients, and its facts.

    Raises:
        UserError: when the file is missing, of another kind or damaged.
    """
    raw = FILE.facts(path).get(FACTS, "")
    try:
        facts = Facts.from_json(json.loads(raw))
        net = ControlReader(facts.panel, facts.size, len(read_frames(facts.frames_per_latent)))
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as why:
        raise UserError(
            f"{path} does not say what it reads ({why}): make it again with '{FILE.command}'"
        ) from why
    FILE.load(net, path)
    return net, facts
