"""A judgement: three gates, what explains them, and one sentence for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from worldcompass.errors import UserError
from worldcompass.runs.atomic import finite, write_json
from worldcompass.runs.metrics import read_object
from worldcompass.statistics import Estimate

SCHEMA = 1  # of judgement.json
Outcome = Literal["better", "worse", "undecided"]
WORDS: Mapping[Outcome, str] = {
    "better": "the trained model is nearer to the real thing",
    "worse": "the trained model is farther from the real thing",
    "undecided": "no difference is shown",
}


@dataclass(frozen=True)
class Gate:
    """A measure that can reject the trained model."""

    name: str
    change: Estimate
    """Trained against base; above 0, training came nearer to the real thing."""
    unit: str

    @property
    def outcome(self) -> Outcome:
        """``better`` or ``worse`` when the whole interval lies on one side of 0."""
        return "better" if self.change.rises else "worse" if self.change.falls else "undecided"

    @property
    def sentence(self) -> str:
        """The gate in words."""
        return f"{self.name}: {WORDS[self.outcome]}, {self.change} {self.unit}"


@dataclass(frozen=True)
class Row:
    """A measure of several sources beside each other, with its floor and ceiling among them."""

    part: str
    """``classifier``, ``distances``, ``statistics``, ``paired`` or ``place``."""
    name: str
    values: Mapping[str, Estimate]
    """Source -> value; ``change`` is trained minus base."""
    meaning: str
    """What a good value is, in a few words."""


@dataclass(frozen=True)
class Judgement:
    """All results of one judge."""

    scenarios: int
    seeds: int
    frames: int
    digest: str
    """SHA-256 of the scenarios."""
    seed: int
    gates: tuple[Gate, ...]
    rows: tuple[Row, ...]

    @property
    def outcome(self) -> Outcome:
        """``worse`` if any gate says so, ``better`` only if all do."""
        found = {gate.outcome for gate in self.gates}
        return "worse" if "worse" in found else "better" if found == {"better"} else "undecided"

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        against, better = (
            [gate.name for gate in self.gates if gate.outcome == outcome] for outcome in ("worse", "better")
        )
        if self.outcome == "worse":
            part = f" It is nearer to the real thing by {_and(better)}." if better else ""
            return f"The trained model looks worse than the base, by {_and(against)}.{part}"
        if self.outcome == "better":
            return "The trained model looks better than the base, by every gate."
        part = f"; better by {_and(better)} alone" if better else ""
        return f"No gate shows that the trained model looks worse than the base{part}."

    def to_json(self) -> dict[str, Any]:
        """The content of judgement.json."""
        facts = {
            name: getattr(self, name)
            for name in ("scenarios", "seeds", "frames", "digest", "seed", "sentence")
        }
        gates = [
            {"name": g.name, "change": g.change, "unit": g.unit, "outcome": g.outcome, "sentence": g.sentence}
            for g in self.gates
        ]
        return finite({"schema": SCHEMA, **facts, "outcome": self.outcome, "gates": gates, "rows": self.rows})


def _and(names: Sequence[str]) -> str:
    """Names in a sentence; ``A; B and C``, as a name may hold a comma."""
    return " and ".join(["; ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def write_judgement(path: Path, judgement: Judgement) -> Path:
    """Write judgement.json."""
    return write_json(path, judgement.to_json(), indent=1)


def read_judgement(path: Path) -> Judgement:
    """Read judgement.json.

    Raises:
        UserError: when the file is missing, damaged or of another version.
    """
    data = read_object(path, "a judgement")
    if data.get("schema") != SCHEMA:
        raise UserError(f"{path} is no judgement of version {SCHEMA}: make one with 'worldcompass judge RUN'")
    try:
        gates = tuple(Gate(g["name"], Estimate.from_json(g["change"]), g["unit"]) for g in data["gates"])
        rows = tuple(
            Row(
                r["part"],
                r["name"],
                {source: Estimate.from_json(v) for source, v in r["values"].items()},
                r["meaning"],
            )
            for r in data["rows"]
        )
        scenarios, seeds, frames, seed = (int(data[n]) for n in ("scenarios", "seeds", "frames", "seed"))
        return Judgement(scenarios, seeds, frames, str(data["digest"]), seed, gates, rows)
    except (KeyError, TypeError, ValueError, AttributeError) as why:
        raise UserError(f"{path} is damaged ({why}): judge the run again") from None
