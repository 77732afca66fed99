"""The design of a study: which pairs a sheet shows, in which order, and the key that reveals them.

Everything is drawn from the seed before any video exists, so no result can influence it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from worldcompass.errors import UserError
from worldcompass.judging.votes.controls import (
    CONTROL_SHARE,
    CONTROLS,
    ENGINE,
    Choice,
    Control,
    Source,
)
from worldcompass.judging.votes.subjects import Subjects
from worldcompass.runs.atomic import write_json
from worldcompass.runs.metrics import read_object
from worldcompass.seeding import generator_for

SCHEMA = 1  # of key.json
MIN_COMPARED = 6  # pairs: with fewer, the two-sided sign test cannot reach p < 0.05
PURPOSE = "vote sheet"  # key of all random numbers

QUESTIONS = ("looks", "place", "overall")
COMMANDS = "commands"
"""The question of sheets that show the engine too: which does what was commanded?"""

Letter = Literal["A", "B"]
_T = TypeVar("_T")


@dataclass(frozen=True)
class SheetFolder:
    """The paths of a study; none of them has to exist."""

    path: Path

    @property
    def key(self) -> Path:
        """The file that says which side is which; raters must not see it."""
        return self.path / "key" / "key.json"

    @property
    def sheet(self) -> Path:
        """The folder for raters."""
        return self.path / "sheet"

    @property
    def form(self) -> Path:
        """The empty form."""
        return self.sheet / "form.csv"

    @property
    def instructions(self) -> Path:
        """The instructions for raters."""
        return self.sheet / "INSTRUCTIONS.md"

    @property
    def forms(self) -> Path:
        """The folder of answered forms."""
        return self.path / "forms"

    def imagined(self, video: str, noise: int, batch: int) -> Path:
        """Finished videos, so that nothing is imagined twice."""
        return self.path / "key" / "videos" / f"{video}_{noise}_{batch:02d}.safetensors"


@dataclass(frozen=True)
class Pair:
    """Two videos of one scenario."""

    number: int
    """From 1, in the order of the sheet."""
    scenario: str
    noise: int
    """Seed of the noise of both sides."""
    A: Source
    B: Source
    good: Letter
    """The side of the model in question, or of a control's better video."""
    control: str = ""
    """The name of a control; empty for a compared pair."""

    @property
    def name(self) -> str:
        """The name of its files."""
        return f"pair_{self.number:02d}"

    def choice(self, answer: Literal["A", "B", "tie"]) -> Choice:
        """An answer as a preference."""
        return "tie" if answer == "tie" else "good" if answer == self.good else "bad"

    def to_json(self) -> dict[str, Any]:
        """The inverse of ``from_json``."""
        sides = {"A": self.A.to_json(), "B": self.B.to_json(), "good": self.good}
        own = {"number": self.number, "scenario": self.scenario, "noise": self.noise}
        return {**own, **sides, "control": self.control}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Pair:
        """Read a pair.

        Raises:
            KeyError, TypeError, AttributeError, ValueError: for malformed data.
        """
        pair = Pair(
            int(data["number"]),
            str(data["scenario"]),
            int(data["noise"]),
            Source.from_json(data["A"]),
            Source.from_json(data["B"]),
            data["good"],
            str(data["control"]),
        )
        if pair.good not in ("A", "B") or pair.control not in {"", *CONTROLS}:
            raise ValueError(f"pair {pair.number} has good {pair.good!r} and control {pair.control!r}")
        return pair


@dataclass(frozen=True)
class Sheet:
    """The key of a study."""

    world: str
    subject: str
    """The name of the model whose wins are counted."""
    rival: str
    titles: Mapping[str, str]
    weights: Mapping[str, str]
    scenarios: str
    """Hash of the scenarios."""
    num_frames: int
    seed: int
    pairs: tuple[Pair, ...]
    """In their order on the sheet."""
    engine: bool = False
    """Whether each pair also shows the engine's own video, by which raters see what the commands ask for."""
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    """By name in the raters' folder: SHA-256 of each picture and video; empty while the sheet is made."""

    @property
    def compared(self) -> tuple[Pair, ...]:
        """The pairs that count."""
        return tuple(pair for pair in self.pairs if not pair.control)

    @property
    def controls(self) -> tuple[Pair, ...]:
        """The hidden controls."""
        return tuple(pair for pair in self.pairs if pair.control)

    @property
    def questions(self) -> tuple[str, ...]:
        """What raters are asked about each pair."""
        return (*QUESTIONS, COMMANDS) if self.engine else QUESTIONS

    @property
    def id(self) -> str:
        """A short hash of the design, which forms carry; paths of weights do not matter."""
        facts = {k: v for k, v in self.to_json().items() if k not in ("id", "titles", "files")}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        """The content of key.json."""
        own = {name: getattr(self, name) for name in ("world", "subject", "rival", "scenarios", "num_frames")}
        maps = {name: dict(getattr(self, name)) for name in ("titles", "weights", "files")}
        pairs = [pair.to_json() for pair in self.pairs]
        engine = (
            {"engine": True} if self.engine else {}
        )  # left out of others, whose forms carry the id without it
        return {"schema": SCHEMA, **own, **maps, "seed": self.seed, "pairs": pairs, **engine}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Sheet:
        """Read a sheet.

        Raises:
            KeyError, TypeError, AttributeError, ValueError: for malformed data.
        """
        if data["schema"] != SCHEMA:
            raise ValueError(f"its schema is {data['schema']}, expected {SCHEMA}")
        maps = [{str(k): str(v) for k, v in data[name].items()} for name in ("titles", "weights", "files")]
        return Sheet(
            str(data["world"]), str(data["subject"]), str(data["rival"]), maps[0], maps[1], str(data["scenarios"]),
            int(data["num_frames"]), int(data["seed"]), tuple(Pair.from_json(p) for p in data["pairs"]),
            bool(data.get("engine", False)), maps[2],
        )  # fmt: skip


def write_key(folder: SheetFolder, sheet: Sheet) -> None:
    """Write key.json."""
    write_json(folder.key, sheet.to_json(), indent=1)


def read_key(folder: SheetFolder) -> Sheet:
    """Read key.json and check that it belongs to the pictures in the folder.

    Raises:
        UserError: when the key is missing or malformed, the sheet is unfinished, or a picture is not the key's.
    """
    data = read_object(folder.key, "the key of a vote sheet")
    if not data:
        raise UserError(
            f"{folder.path} holds no vote sheet: expected {folder.key}, as 'vote-sheet' writes it"
        )
    try:
        sheet = Sheet.from_json(data)
    except (KeyError, TypeError, AttributeError, ValueError) as why:
        raise UserError(
            f"{folder.key} is not the key of a vote sheet ({why}): make the sheet again"
        ) from None
    if not sheet.files:
        raise UserError(f"{folder.path} holds an unfinished sheet: repeat the command that makes it")
    for name, digest in sheet.files.items():
        path = folder.sheet / name
        if not path.is_file() or file_hash(path) != digest:
            what = "another file than the key says" if path.is_file() else "missing"
            raise UserError(f"{folder.key} does not belong to this sheet: {path} is {what}")
    return sheet


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def draw_sheet(subjects: Subjects, num_pairs: int, seed: int, engine: bool = False) -> Sheet:
    """Draw pairs, hidden controls, their scenarios, their order and their sides.

    Controls show scenarios that no compared pair shows, as far as there are enough, and other noise.

    Args:
        subjects: what can be shown.
        num_pairs: of the sheet, controls among them.
        seed: of every choice and of the noise.
        engine: whether each pair also shows the engine's own video.

    Raises:
        UserError: when there are too few pairs for a verdict, or fewer scenarios than pairs; when the engine is to
            be shown and its videos are not known.
    """
    if engine and not subjects.engine:
        raise UserError(
            f"the scenarios of {subjects.spec.name} lack the engine's own videos: leave out --engine"
        )
    count = round(CONTROL_SHARE * num_pairs)
    compared, known = num_pairs - count, len(subjects.scenario_ids)
    if compared < MIN_COMPARED:
        fewest = next(n for n in range(num_pairs, 100) if n - round(CONTROL_SHARE * n) >= MIN_COMPARED)
        raise UserError(
            f"{num_pairs} pairs leave {compared} to compare next to {count} controls, and fewer than"
            f" {MIN_COMPARED} can show nothing at 5%: expected --pairs {fewest} or more"
        )
    if compared > known:
        most = max(n for n in range(2 * known) if n - round(CONTROL_SHARE * n) <= known)
        raise UserError(
            f"{num_pairs} pairs compare {compared} scenarios and there are {known}: expected --pairs {most} or"
            " fewer"
        )
    order = _permuted(subjects.scenario_ids, generator_for(PURPOSE, seed, "scenarios"))
    pairs = [*_compared(subjects, order[:compared], seed), *_controls(subjects, order, compared, count, seed)]
    shown = _permuted(pairs, generator_for(PURPOSE, seed, "order"))
    used = sorted({pair.scenario for pair in pairs})
    return Sheet(
        subjects.spec.name,
        subjects.subject,
        subjects.rival,
        subjects.titles,
        subjects.weights,
        subjects.fingerprint(subjects.prepare(used)),
        subjects.num_frames,
        seed,
        tuple(replace(pair, number=number) for number, pair in enumerate(shown, 1)),
        engine,
    )


def _compared(subjects: Subjects, scenarios: Sequence[str], seed: int) -> list[Pair]:
    sides = balanced(len(scenarios), generator_for(PURPOSE, seed, "sides"))
    ours, theirs = Source(subjects.subject), Source(subjects.rival)
    return [
        _pair(scenario, seed, ours, theirs, first) for scenario, first in zip(scenarios, sides, strict=True)
    ]


def _controls(subjects: Subjects, order: Sequence[str], first: int, count: int, seed: int) -> list[Pair]:
    """The controls in turn. Those that exclude are balanced on their own, so 'always A' fails one of two."""
    kinds = [c for c in CONTROLS.values() if subjects.engine or c.good.video != ENGINE]
    drawn: list[Control] = sorted((kinds[i % len(kinds)] for i in range(count)), key=lambda c: not c.excludes)
    strict = sum(control.excludes for control in drawn)
    generator = generator_for(PURPOSE, seed, "sides of controls")
    sides = [*balanced(strict, generator), *balanced(count - strict, generator)]
    scenarios = [order[(first + i) % len(order)] for i in range(count)]
    return [
        _pair(scenario, seed + 1, control.good, control.bad, side, control.name)
        for scenario, control, side in zip(scenarios, drawn, sides, strict=True)
    ]


def _pair(scenario: str, noise: int, good: Source, bad: Source, good_first: bool, control: str = "") -> Pair:
    sides: tuple[Source, Source, Letter] = (good, bad, "A") if good_first else (bad, good, "B")
    return Pair(0, scenario, noise, *sides, control)


def balanced(count: int, generator: torch.Generator) -> list[bool]:
    """As many True as False in random order; the odd one is drawn."""
    odd = bool(torch.rand(1, generator=generator) < 0.5)
    return _permuted([odd if i == count - 1 and count % 2 else i % 2 == 0 for i in range(count)], generator)


def _permuted(values: Iterable[_T], generator: torch.Generator) -> list[_T]:
    items = list(values)
    return [items[i] for i in torch.randperm(len(items), generator=generator).tolist()]
