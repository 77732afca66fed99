"""Blind votes of the voting page: their file, and what they add up to.

The world after training wins a vote, loses it or ties. A hidden control is a vote on a pair whose better side is
known; it is never counted with the others.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from worldcompass.errors import UserError
from worldcompass.judging.votes.controls import CONTROLS, Choice, Outcome, outcome
from worldcompass.judging.votes.scoring import Tally, tally
from worldcompass.runs.reading import parse_json

Side = Literal["before", "after", "good", "bad"]
"""The world on one side of a pair; ``good`` and ``bad`` are the videos of a control."""
Preference = Side | Literal["tie"]
QUESTIONS = {
    "follows": "follows the command better",
    "looks": "looks better",
    "place": "shows the start's place",
}
_CHOICES: Mapping[str, Choice] = {
    "after": "good", "before": "bad", "good": "good", "bad": "bad", "tie": "tie"
}  # fmt: skip


@dataclass(frozen=True)
class Vote:
    """One answered pair."""

    time: str
    """ISO 8601, UTC."""
    before: str
    after: str
    """The two sets of weights: name and first digits of their SHA-256."""
    start: str
    seed: int
    path: str
    left: Side
    """What was on the left."""
    follows: Preference
    looks: Preference
    place: Preference | Literal[""] = ""
    """Which still shows the place of the start; empty in votes from before this question."""
    control: str = ""
    """The name of a hidden control; empty for a pair of worlds."""

    def answer(self, question: str) -> str:
        """The answer to one of ``QUESTIONS``; empty when it was not asked."""
        return getattr(self, question)

    def choices(self) -> dict[str, Choice]:
        """The answers by question, ``good`` being the world after training or a control's better video."""
        return {q: _CHOICES[self.answer(q)] for q in QUESTIONS if self.answer(q)}


def append_vote(path: Path, vote: Vote) -> None:
    """Add one line to the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(vote)) + "\n")


def read_votes(path: Path) -> list[Vote]:
    """All votes of a file.

    Raises:
        UserError: for a missing file, or a line that is no vote, which it names.
    """
    if not path.is_file():
        raise UserError(f"there are no votes at {path}: collect some with 'worldcompass play --vote'")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [_read(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def _read(line: str, place: str) -> Vote:
    try:
        vote = Vote(**parse_json(line))
        given = {vote.follows, vote.looks, vote.place or "tie"}
        known = vote.control in {"", *CONTROLS}
    except (ValueError, TypeError) as why:
        names = ", ".join(field.name for field in fields(Vote))
        raise UserError(f"{place} is no vote: expected an object with {names}") from why
    sides = ("good", "bad") if vote.control else ("before", "after")
    if not known:
        raise UserError(f"{place} is no vote: expected a control of {', '.join(CONTROLS)}, or none")
    if not given <= {*sides, "tie"} or vote.left not in sides:
        raise UserError(f"{place} is no vote: expected {sides[0]}, {sides[1]} or tie")
    return vote


def tally_of(votes: Sequence[Vote], question: str) -> Tally:
    """Count the pairs of worlds on one of ``QUESTIONS``; votes without an answer to it are left out."""
    return tally(vote.choices()[question] for vote in votes if not vote.control and vote.answer(question))


def control_counts(votes: Sequence[Vote]) -> dict[str, Counter[Outcome]]:
    """By name of a control, how often it was passed, missed and failed."""
    found: dict[str, Counter[Outcome]] = {}
    for vote in votes:
        if vote.control:
            counts = found.setdefault(vote.control, Counter())
            counts[outcome(CONTROLS[vote.control], vote.choices())] += 1
    return found
