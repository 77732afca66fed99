"""Blind votes between two worlds: their file and their statistics.

The trained world wins a vote, loses it or ties. Ties are counted and shown, but the win rate leaves them out:
``w = wins / (wins + losses)``. Its 95% interval is Wilson's (1927): with
``n = wins + losses`` and ``z = 1.96`` it is ``(w + z²/2n ± z sqrt(w(1 - w)/n + z²/4n²)) / (1 + z²/n)``. The exact
two-sided sign test gives the chance of a result at least as lopsided if both were equally good.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, get_args

from worldcompass.errors import UserError
from worldcompass.statistics import Estimate, win_rate

Verdict = Literal["before", "after", "tie"]
QUESTIONS = {"follows": "follows the command better", "looks": "looks better"}


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
    left: Literal["before", "after"]
    """The world on the left."""
    follows: Verdict
    looks: Verdict


@dataclass(frozen=True)
class Tally:
    """Votes on one question."""

    wins: int
    """For ``after``."""
    losses: int
    ties: int

    @property
    def win_rate(self) -> Estimate:
        """Wins among decided votes with a 95% interval; unknown without decided votes."""
        return win_rate(self.wins, self.losses)


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
        row = json.loads(line)
        vote = Vote(**row)
        verdicts = {vote.follows, vote.looks}
    except (ValueError, TypeError) as why:
        names = ", ".join(field.name for field in fields(Vote))
        raise UserError(f"{place} is no vote: expected an object with {names}") from why
    if not verdicts <= set(get_args(Verdict)) or vote.left not in ("before", "after"):
        raise UserError(f"{place} is no vote: expected before, after or tie")
    return vote


def tally(votes: Sequence[Vote], question: str) -> Tally:
    """Count the votes on one of ``QUESTIONS``."""
    count = Counter(getattr(vote, question) for vote in votes)
    return Tally(count["after"], count["before"], count["tie"])
