"""The verdict of a blind study: raters checked by their controls, wins with intervals, grades.

Raters of one pair are not independent samples. The verdict therefore counts every pair once, by the majority of
its raters; votes of single raters are shown next to it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from worldcompass.judging.votes.controls import CONTROLS, Choice, Outcome, outcome
from worldcompass.judging.votes.form import Answer
from worldcompass.judging.votes.sheet import Pair, Sheet
from worldcompass.statistics import (
    UNKNOWN,
    Estimate,
    bootstrap,
    detectable_share,
    resamples,
    sign_test,
    wilson,
    win_rate,
)

Forms = Mapping[str, Sequence[Answer]]
"""Answers by rater."""


@dataclass(frozen=True)
class Tally:
    """Votes on one question."""

    wins: int
    losses: int
    ties: int

    @property
    def win_rate(self) -> Estimate:
        """Wins among decided votes with Wilson's 95% interval; unknown without decided votes."""
        return win_rate(self.wins, self.losses)

    @property
    def with_halves(self) -> Estimate:
        """Share of wins with each tie as half a win.

        Wilson's 95% interval for all votes: values of 0, 1/2 and 1 vary at most like a coin, so it is never too
        narrow. Unknown without votes.
        """
        count = self.wins + self.losses + self.ties
        if not count:
            return Estimate(math.nan, 0.0, 1.0, 0)
        mean = (self.wins + self.ties / 2) / count
        return Estimate(mean, *wilson(mean, count), count)

    @property
    def p(self) -> float:
        """Two-sided exact sign test."""
        return sign_test(self.wins, self.losses)


def tally(choices: Iterable[Choice]) -> Tally:
    """Count choices; ``good`` is a win."""
    count = Counter(choices)
    return Tally(count["good"], count["bad"], count["tie"])


@dataclass(frozen=True)
class Checked:
    """A rater's answer to one hidden control."""

    pair: int
    control: str
    outcome: Outcome


@dataclass(frozen=True)
class Grades:
    """Mean grades of 1 to 5 with 95% intervals over scenarios; unknown for fewer than two graded pairs."""

    subject: Estimate = UNKNOWN
    rival: Estimate = UNKNOWN
    difference: Estimate = UNKNOWN
    """Subject minus rival, paired by scenario."""


@dataclass(frozen=True)
class Rater:
    """One rater's part."""

    name: str
    checked: tuple[Checked, ...]
    tallies: Mapping[str, Tally]
    """By question."""
    grades: Grades
    chose_A: float
    """Share of A among the decided answers of all pairs; about a half is expected. NaN without any."""

    @property
    def faults(self) -> tuple[str, ...]:
        """Names of the failed controls that exclude a rater, each once."""
        failed = (c.control for c in self.checked if c.outcome == "failed" and CONTROLS[c.control].excludes)
        return tuple(dict.fromkeys(failed))

    def count(self, control: str, wanted: Outcome) -> int:
        """How often a control had an outcome."""
        return sum((c.control, c.outcome) == (control, wanted) for c in self.checked)


@dataclass(frozen=True)
class Verdict:
    """What a study says about the subject."""

    raters: tuple[Rater, ...]
    kept: tuple[str, ...]
    """Names of the raters whose answers count."""
    tallies: Mapping[str, Tally]
    """By question: compared pairs by the majority of the kept raters."""
    grades: Grades
    """Of the kept raters' mean grades."""
    num_pairs: int
    """Compared pairs."""

    @property
    def detectable(self) -> float:
        """The share of wins that so many decided pairs show with 80% at two-sided 5%."""
        return detectable_share(self.num_pairs)


def score(sheet: Sheet, forms: Forms, keep_all: bool = False) -> Verdict:
    """The verdict of some raters.

    Args:
        sheet: the key.
        forms: the raters' answers, each complete.
        keep_all: whether raters who fail an excluding control count too.
    """
    raters = tuple(_rater(sheet, name, answers) for name, answers in forms.items())
    kept = {rater.name: forms[rater.name] for rater in raters if keep_all or not rater.faults}
    chosen = {question: majorities(sheet, kept, question) if kept else () for question in sheet.questions}
    return Verdict(
        raters,
        tuple(kept),
        {question: tally(choices) for question, choices in chosen.items()},
        grades(sheet, kept.values()),
        len(sheet.compared),
    )


def _rater(sheet: Sheet, name: str, answers: Sequence[Answer]) -> Rater:
    by_pair = {answer.pair: answer for answer in answers}

    def choices(pair: Pair) -> dict[str, Choice]:
        return {question: pair.choice(by_pair[pair.number].on(question)) for question in sheet.questions}

    checked = tuple(
        Checked(pair.number, pair.control, outcome(CONTROLS[pair.control], choices(pair)))
        for pair in sheet.controls
    )
    of_question = {q: tally(choices(pair)[q] for pair in sheet.compared) for q in sheet.questions}
    decided = [answer.on(q) for answer in answers for q in sheet.questions if answer.on(q) != "tie"]
    chose_a = decided.count("A") / len(decided) if decided else math.nan
    return Rater(name, checked, of_question, grades(sheet, [answers]), chose_a)


def majorities(sheet: Sheet, forms: Forms, question: str) -> list[Choice]:
    """For every compared pair, what more than half of the raters chose; a tie if nothing was."""
    by_rater = [{answer.pair: answer for answer in answers} for answers in forms.values()]
    found: list[Choice] = []
    for pair in sheet.compared:
        counts = Counter(pair.choice(answers[pair.number].on(question)) for answers in by_rater)
        half = len(by_rater) / 2
        found.append("good" if counts["good"] > half else "bad" if counts["bad"] > half else "tie")
    return found


def grades(sheet: Sheet, forms: Iterable[Sequence[Answer]]) -> Grades:
    """Mean grades of the compared pairs over raters who graded both sides, with intervals over scenarios."""
    given: dict[int, list[tuple[int, int]]] = {}
    good = {pair.number: pair.good for pair in sheet.compared}
    for answers in forms:
        for answer in answers:
            if answer.pair in good and answer.grade_A is not None and answer.grade_B is not None:
                a, b = answer.grade_A, answer.grade_B
                given.setdefault(answer.pair, []).append((a, b) if good[answer.pair] == "A" else (b, a))
    if len(given) < 2:
        return Grades()
    means_V2 = np.array([np.mean(given[number], axis=0) for number in sorted(given)])
    scenario = {pair.number: pair.scenario for pair in sheet.compared}
    rows = resamples([scenario[number] for number in sorted(given)])

    def estimate(values_V: np.ndarray) -> Estimate:
        return bootstrap(values_V[rows].mean(1), float(values_V.mean()), len(values_V))

    return Grades(
        estimate(means_V2[:, 0]), estimate(means_V2[:, 1]), estimate(means_V2[:, 0] - means_V2[:, 1])
    )
