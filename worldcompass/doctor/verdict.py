"""The verdict on a run: whether it is learning, with intervals, or how many more steps an answer needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from worldcompass.doctor.checks import CHECKS
from worldcompass.doctor.outcome_checks import judged_changes
from worldcompass.doctor.record import FOLLOWED, Finding, Record, Severity
from worldcompass.doctor.trends import Trend, steps_needed
from worldcompass.runs.events import Changed, Refused, RolledBack, Stopped
from worldcompass.statistics import LEVEL, MIN_FREEDOM, Estimate, number

State = Literal[
    "learning", "unconfirmed", "unjudged", "undecided", "mixed", "no change", "too early",
    "worse", "hacked", "harmed", "stuck",
]  # fmt: skip
ANSWERS: dict[State, str] = {
    "learning": "Yes, it is learning: the held-out judge, which is not a reward, sees a gain in what it reads.",
    "unconfirmed": "Not shown: the rewards rise, but the held-out judge does not find the videos better.",
    "unjudged": "Perhaps: the rewards rise, but no held-out judge has compared the videos.",
    "undecided": "Not shown: the held-out judge finds no clear difference between before and after.",
    "mixed": "In part: something got better and something else got worse.",
    "no change": "No: nothing changes, although the run was long enough to show it.",
    "too early": "Too early to tell.",
    "worse": "No, it is getting worse.",
    "hacked": "No, it is being fooled: the rewards rise, and the held-out judge finds the videos worse.",
    "harmed": "No, training is damaging the model: {cause}.",
    "stuck": "No, the model is learning nothing: {cause}.",
}
CAUSES: dict[State, Severity] = {"harmed": "harmful", "stuck": "stuck"}  # of the finding that names the cause
TOO_SHORT = "This run was too short to tell."
NEEDS = {"reward hacking": "needs a held-out judge"}
SET_PROBES = "set config.probe_every"
NO_JUDGE = (
    "compare before and after with 'worldcompass judge', as no judge has scored this run's probes twice"
)
HINTS: dict[State, str] = {
    "unconfirmed": "More steps or more held-out videos would show a smaller gain. So far only the critics see one, "
    "and they may be fooled.",
    "unjudged": "Rewards also rise when a run fools its critics. To find out, {judging}.",
    "undecided": "More steps, or more scenarios in the evaluation, would show a smaller gain.",
    "mixed": "Decide whether the gain is worth the loss, and set the rewards' weights accordingly.",
    "too early": "No reward has a clear trend so far; the lines below estimate how many more steps are needed.",
    "no change": "Check that candidates differ and that scores distinguish them; raise lr or explore.",
    "worse": "Do not use these weights; earlier checkpoints are better.",
    "hacked": "Do not use these weights, whatever the rewards say.",
}


@dataclass(frozen=True)
class RewardTrend:
    """The trend of one reward, compared chunk by chunk."""

    name: str
    trend: Trend | None
    """None before chunks are visited twice."""
    steps: int
    """Steps with a score."""
    spread: float
    """Mean standard deviation between the candidates of a group, the range that a selection can use."""
    needed: float
    """Steps until a rise is detected with probability 0.8. The rise is the larger of the measured one and one
    spread by the planned end of the run."""
    learns: bool = False
    """Whether the critic learns with the model, so that its scores of different steps cannot be compared."""

    @property
    def state(self) -> Literal["rises", "falls", "flat", "open"]:
        """``open``: too few steps for an answer."""
        if self.trend is not None and (self.trend.slope.rises or self.trend.slope.falls):
            return "rises" if self.trend.slope.rises else "falls"
        return "flat" if self.trend is not None and self.steps >= self.needed else "open"

    @property
    def rise(self) -> Estimate | None:
        """The slope times the number of steps; None without a trend."""
        if self.trend is None:
            return None
        slope, length = self.trend.slope, self.steps - 1
        return slope.times(length)


@dataclass(frozen=True)
class Diagnosis:
    """The doctor's verdict and findings on a run."""

    state: State
    rewards: tuple[RewardTrend, ...]
    judge: Estimate | None
    """Change of the held-out judge since its first look during training; None without two looks."""
    evaluation: Mapping[str, Estimate]
    """Change by the held-out judge from before the run to after it, 95% intervals; empty without an evaluation."""
    findings: tuple[Finding, ...]
    not_measured: tuple[str, ...]
    """Checks that lack numbers in the run's metrics."""
    history: tuple[str, ...]
    """Stops, rollbacks and changed settings, a sentence each."""
    steps: int
    planned: int
    probed: bool = False
    """Whether videos were probed, see ``Record``."""

    @property
    def healthy(self) -> bool:
        """Whether there is no finding."""
        return not self.findings

    def warnings(self) -> dict[str, str]:
        """Findings as one line each, by name."""
        lines: dict[str, list[str]] = {}
        for f in self.findings:
            lines.setdefault(f.name, []).append(f"{f.cause} (since step {f.since}); {f.advice}")
        return {name: ". ".join(texts) for name, texts in lines.items()}

    @property
    def answer(self) -> str:
        """The answer to "is it learning", in one sentence."""
        if self.state == "too early" and self.steps >= self.planned:
            return TOO_SHORT
        worst = self._decisive
        return ANSWERS[self.state].format(cause=worst.cause if worst else "")

    @property
    def _decisive(self) -> Finding | None:
        """The finding whose cause is the answer."""
        severity = CAUSES.get(self.state)
        return next((f for f in self.findings if f.severity == severity), None)

    @property
    def hint(self) -> str:
        """What to do after the answer; empty without advice."""
        worst = self._decisive
        if worst:
            return f"First: {worst.advice}."
        judging = NO_JUDGE if self.probed else f"{SET_PROBES}, or evaluate before and after"
        return HINTS.get(self.state, "").format(judging=judging)

    def sentences(self) -> list[str]:
        """The answer, the hint, then one sentence for each reward and each result of the judge."""
        lines = [self.answer, *([self.hint] if self.hint else [])]
        lines += [_sentence(reward, self.planned) for reward in self.rewards]
        if self.judge is not None:
            lines.append(
                f"Held-out judge, same videos since its first look: {self.judge}; {_comparison(self.judge)}."
            )
        lines += [
            f"Held-out judge, before and after, {name}: {change} (95% interval); {_comparison(change)}."
            for name, change in self.evaluation.items()
        ]
        return lines

    def unmeasured(self) -> str:
        """The skipped checks as a sentence; empty when all ran."""
        if not self.not_measured:
            return ""
        judging = NO_JUDGE if self.probed else SET_PROBES
        names = [
            f"{name} ({NEEDS[name]}: {judging})" if name in NEEDS else name for name in self.not_measured
        ]
        return f"Not checked, as this run lacks the numbers: {', '.join(names)}."

    def lines(self) -> list[str]:
        """Everything, for a terminal."""
        answer, *trends = self.sentences()
        trends += (
            [f"Changes with {LEVEL:.0%} intervals; each chunk is compared with itself."] if trends else []
        )
        lines = [f"{answer} ({self.steps} of {self.planned} steps)", *[f"  {line}" for line in trends], ""]
        lines += [line for finding in self.findings for line in finding.lines()] or ["No disease found.", ""]
        lines += list(self.history)
        lines += [self.unmeasured()] if self.not_measured else []
        return [line for i, line in enumerate(lines) if line or i + 1 < len(lines)]


def diagnose(record: Record) -> Diagnosis:
    """Run every check and give the verdict."""
    results = [(check.__name__.replace("_", " "), check(record)) for check in CHECKS]
    rewards = tuple(reward_trend(record, name) for name in record.rewards)
    looks = judged_changes(record, LEVEL)
    judge = looks[-1][1] if looks else None
    findings = tuple(finding for _, found in results for finding in found or ())
    return Diagnosis(
        state=_state(
            [reward for reward in rewards if reward.name in record.comparable],
            judge,
            record.evaluation,
            findings,
        ),
        rewards=rewards,
        judge=judge,
        evaluation=record.evaluation,
        findings=findings,
        not_measured=tuple(name for name, found in results if found is None),
        history=tuple(_history_of(event) for event in record.events if not isinstance(event, Refused)),
        steps=len(record.rows),
        planned=record.planned,
        probed=record.probed,
    )


def _history_of(event: Stopped | RolledBack | Changed) -> str:
    if isinstance(event, Changed):
        return f"Resumed with changed settings after step {event.step}: {', '.join(event.settings)}."
    why = f"{event.finding} ({event.evidence})"
    if isinstance(event, Stopped):
        return f"Stopped at step {event.step}: {why}."
    return f"Rolled back from step {event.step} to {event.to}, new learning rate {event.lr:g}: {why}."


def reward_trend(record: Record, name: str) -> RewardTrend:
    """The trend of one reward, and the steps needed to detect it."""
    seen, found = len(record.reward(name, lambda r: r.mean)), record.trend(name, LEVEL)
    spreads = record.reward(name, lambda r: r.std)
    spread = fmean(p.value for p in spreads) if spreads else 0.0
    least = spread / record.planned
    if found is None:
        needed = float(max(record.num_chunks + 1 + MIN_FREEDOM, seen + 1))
    else:
        needed = steps_needed(found.noise, max(found.slope.mean, least))
    learns = name in record.trained and name not in record.comparable
    return RewardTrend(name, found, seen, spread, needed, learns)


def _state(
    rewards: Sequence[RewardTrend],
    judge: Estimate | None,
    evaluation: Mapping[str, Estimate],
    findings: Sequence[Finding],
) -> State:
    """Findings that exclude learning come first, then the judge, then the rewards, which alone prove nothing.

    An evaluation before and after outweighs the few videos that the judge scores during training. There only
    actions followed count as a gain; realism counts when it is lost.
    """
    states = [reward.state for reward in rewards]
    opinions = [judge] if judge is not None and not evaluation else []
    gains = [change for name, change in evaluation.items() if name.startswith(FOLLOWED)] + opinions
    better = any(change.rises for change in gains)
    lost = any(change.falls for change in (*evaluation.values(), *opinions))
    rises, falls = "rises" in states, "falls" in states
    names, severities = {f.name for f in findings}, {f.severity for f in findings}
    damage = {f.name for f in findings if f.severity == "harmful"} - {"getting worse"}
    if "reward hacking" in names or (rises and lost and not better):
        return "hacked"
    if damage and not better:
        return "harmed"
    # Without an evaluation, the judge's gain during training may be old.
    if "stuck" in severities and not (better and evaluation):
        return "stuck"
    if better:
        return "mixed" if lost or falls or "harmful" in severities else "learning"
    if lost or falls:
        return "mixed" if rises else "worse"
    if rises:
        return "unconfirmed" if gains else "unjudged"
    if states and all(state == "flat" for state in states):
        return "no change"
    return "undecided" if evaluation else "too early"


def _comparison(change: Estimate) -> str:
    if change.rises or change.falls:
        return "better" if change.rises else "worse"
    return "no clear difference"


def _sentence(reward: RewardTrend, planned: int) -> str:
    if reward.learns:
        return f"{reward.name} learns with the model: its scores of different steps cannot be compared."
    name, more = reward.name, max(1, math.ceil(min(reward.needed, 1e9)) - reward.steps)
    if reward.rise is None:
        return f"{name}: no chunk repeats often enough; a trend needs about {more} more steps."
    change = f"{reward.rise} over {reward.steps} steps"
    if reward.spread > 0:
        change += f", {number(abs(reward.rise.mean) / reward.spread)} times the spread of a group"
    if reward.state in ("rises", "falls"):
        return f"{name} {reward.state}: {change}."
    if reward.state == "flat":
        return f"{name} does not change: {change}."
    if not math.isfinite(reward.needed):
        return f"{name}: {change}; it does not vary within groups, so more steps will not help."
    beyond = f", beyond the {planned} planned" if reward.steps + more > planned else ""
    return f"{name}, no clear trend yet: {change}; about {more} more steps needed{beyond}."
