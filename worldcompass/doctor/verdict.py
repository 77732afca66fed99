"""Is the run learning? A plain answer with error bars, or how many more steps an answer needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from worldcompass.charts import number
from worldcompass.doctor.checks import CHECKS
from worldcompass.doctor.outcome_checks import judged_changes
from worldcompass.doctor.record import Finding, Record
from worldcompass.doctor.statistics import LEVEL, MIN_FREEDOM, Estimate, Trend, steps_needed

State = Literal["learning", "mixed", "no change", "too early", "worse"]
ANSWERS: dict[State, str] = {
    "learning": "Learning so far.",
    "mixed": "Mixed: something is learned and something else is lost.",
    "no change": "No change to see, although there were steps enough to see one.",
    "too early": "Too early to tell.",
    "worse": "Getting worse.",
}


TOO_SHORT = "This run was too short to tell."


@dataclass(frozen=True)
class RewardTrend:
    """Where one reward goes, compared chunk by chunk."""

    name: str
    trend: Trend | None
    """None when the curriculum has hardly come round."""
    steps: int
    """Steps seen."""
    spread: float
    """Mean deviation between the candidates of a group: what one selection has to work with."""
    needed: float
    """Steps after which a rise would be seen with probability 0.8: one as large as the measured one, or one
    spread by the planned end of the run, whichever is larger."""

    @property
    def state(self) -> Literal["rises", "falls", "stands", "open"]:
        """``open``: too few steps to tell."""
        if self.trend is not None and (self.trend.slope.rises or self.trend.slope.falls):
            return "rises" if self.trend.slope.rises else "falls"
        return "stands" if self.trend is not None and self.steps >= self.needed else "open"

    @property
    def rise(self) -> Estimate | None:
        """What the slope amounts to over the steps seen."""
        if self.trend is None:
            return None
        slope, length = self.trend.slope, self.steps - 1
        return Estimate(slope.value * length, slope.low * length, slope.high * length)


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor says of a run."""

    state: State
    rewards: tuple[RewardTrend, ...]
    judge: Estimate | None
    """Change of the held-out judge since the first probe; None without probes."""
    findings: tuple[Finding, ...]
    not_measured: tuple[str, ...]
    """Checks whose numbers the run's metrics lack."""
    history: tuple[str, ...]
    """What the doctor did to the run, a sentence each."""
    steps: int
    planned: int

    @property
    def healthy(self) -> bool:
        """No finding at all."""
        return not self.findings

    def warnings(self) -> dict[str, str]:
        """Findings as one line each, by name."""
        return {f.name: f"{f.cause} (since step {f.since}); {f.advice}" for f in self.findings}

    def sentences(self) -> list[str]:
        """The answer, then one sentence for each reward and for the judge."""
        over = self.state == "too early" and self.steps >= self.planned
        lines = [
            TOO_SHORT if over else ANSWERS[self.state],
            *[_sentence(reward, self.planned) for reward in self.rewards],
        ]
        if self.judge is not None:
            lines.append(f"Held-out judge: {self.judge} since its first look, on the same videos.")
        return lines

    def unmeasured(self) -> str:
        """What could not be checked, as a sentence; empty when everything was."""
        if not self.not_measured:
            return ""
        return f"Not measured in this run, so not checked: {', '.join(self.not_measured)}."

    def lines(self) -> list[str]:
        """Everything, for a terminal."""
        answer, *trends = self.sentences()
        trends += [f"Changes with {LEVEL:.0%} intervals, every chunk compared with itself."] if trends else []
        lines = [f"{answer} ({self.steps} of {self.planned} steps)", *[f"  {line}" for line in trends], ""]
        lines += [line for finding in self.findings for line in finding.lines()] or ["No disease found.", ""]
        lines += list(self.history)
        lines += [self.unmeasured()] if self.not_measured else []
        return [line for i, line in enumerate(lines) if line or i + 1 < len(lines)]


def diagnose(record: Record) -> Diagnosis:
    """Every check and the verdict."""
    results = [(check.__name__.replace("_", " "), check(record)) for check in CHECKS]
    rewards = tuple(reward_trend(record, name) for name in record.rewards)
    probes = judged_changes(record)
    judge = probes[-1][1] if probes else None
    return Diagnosis(
        state=_state([reward for reward in rewards if reward.name in record.trained], judge),
        rewards=rewards,
        judge=judge,
        findings=tuple(finding for _, found in results for finding in found or ()),
        not_measured=tuple(name for name, found in results if found is None),
        history=tuple(_deed(event) for event in record.events if event["event"] != "refused"),
        steps=len(record.rows),
        planned=record.planned,
    )


def _deed(event: Mapping[str, Any]) -> str:
    why = f"{event['finding']} ({event['evidence']})"
    if event["event"] == "stopped":
        return f"Stopped at step {event['step']}: {why}."
    return (
        f"Rolled back from step {event['step']} to {event['to']}, learning rate now {event['lr']:g}: {why}."
    )


def reward_trend(record: Record, name: str) -> RewardTrend:
    """The trend of one reward and the steps that telling it needs."""
    seen, found = len(record.series("rewards", name, "mean")), record.trend(name, LEVEL)
    spreads = record.series("rewards", name, "std")
    spread = fmean(p.value for p in spreads) if spreads else 0.0
    least = spread / record.planned
    if found is None:
        needed = float(max(record.num_chunks + 1 + MIN_FREEDOM, seen + 1))
    else:
        needed = steps_needed(found.noise, max(found.slope.value, least))
    return RewardTrend(name, found, seen, spread, needed)


def _state(rewards: Sequence[RewardTrend], judge: Estimate | None) -> State:
    states = [reward.state for reward in rewards]
    up = "rises" in states
    down = "falls" in states or (judge is not None and judge.falls)
    if up or down:
        return "mixed" if up and down else "learning" if up else "worse"
    return "no change" if states and all(state == "stands" for state in states) else "too early"


def _sentence(reward: RewardTrend, planned: int) -> str:
    name, more = reward.name, max(1, math.ceil(min(reward.needed, 1e9)) - reward.steps)
    if reward.rise is None:
        return f"{name}: the curriculum has hardly come round; a trend needs about {more} more steps."
    said = f"{reward.rise} over {reward.steps} steps"
    if reward.spread > 0:
        said += f", {number(abs(reward.rise.value) / reward.spread)} times the spread of a group"
    if reward.state in ("rises", "falls"):
        return f"{name} {reward.state}: {said}."
    if reward.state == "stands":
        return f"{name} stands still: {said}."
    if not math.isfinite(reward.needed):
        return f"{name}: {said}; it does not vary within groups, so no number of steps will tell."
    beyond = f", beyond the {planned} planned" if reward.steps + more > planned else ""
    return f"{name}, no telling yet: {said}; about {more} more steps needed{beyond}."
