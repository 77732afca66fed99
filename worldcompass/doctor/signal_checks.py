"""Checks of the signal: whether the scores hold anything to learn from, and what they cost."""

from __future__ import annotations

from functools import partial
from statistics import fmean

from worldcompass.doctor.record import ALARM, PERSISTENT, Finding, Point, Record, lasting, percent, slope_of
from worldcompass.doctor.trends import mean
from worldcompass.runs.metrics import StepMetrics
from worldcompass.statistics import number

FLAT = 0.5  # share of groups without spread
FLAT_REWARD = 0.8  # share of groups in which one reward has no spread
CLIPPED = 0.8  # share of advantages at the clip
APART = -0.3  # correlation of two rewards' advantages
VALID = 0.25  # share of candidates with a score by a critic
FAILING = 0.3  # share of failed tries of a critic
SLOW = 0.5  # share of a step's time


def no_spread(record: Record) -> list[Finding] | None:
    """Groups whose candidates all score the same, so that no candidate is preferred."""
    if not (flat := record.series(lambda row: row.flat_groups)):
        return None
    if ill := lasting(flat, record.window, lambda share: share > FLAT):
        return [
            Finding(
                "no spread", "stuck", ill[0].step,
                "most groups have no spread: all candidates get the same score, so none is preferred",
                f"{percent(ill)} of the groups are flat over the last {len(ill)} steps (limit {FLAT:.0%})",
                "make candidates differ (explore, a larger group_size), or use a critic with finer scores",
            )
        ]  # fmt: skip
    findings = []
    scoring = [n for n in record.trained if not _abstention(record, n)]
    for name in scoring:
        flat = record.reward(name, lambda r: r.flat)
        if ill := lasting(flat, record.window, lambda share: share > FLAT_REWARD):
            findings.append(
                Finding(
                    "no spread", "warning", ill[0].step,
                    f"{name} gives all candidates of a group the same score and teaches nothing",
                    f"{percent(ill)} of its groups flat over the last {len(ill)} steps (limit {FLAT_REWARD:.0%})",
                    "use a finer score, or remove the critic to save time",
                )
            )  # fmt: skip
    return findings


def all_clipped(record: Record) -> list[Finding] | None:
    """Advantages that are nearly all at the clip, so that only their signs count."""
    if not (clipped := record.series(lambda row: row.clipped)):
        return None
    if not (ill := lasting(clipped, record.window, lambda share: share > CLIPPED)):
        return []
    return [
        Finding(
            "advantages clipped", "warning", ill[0].step,
            "nearly all advantages are clipped: slightly better and far better futures count the same",
            f"{percent(ill)} at the clip over the last {len(ill)} steps (limit {CLIPPED:.0%})",
            "raise advantage_clip; the usual value is 2 deviations",
        )
    ]  # fmt: skip


def pulling_apart(record: Record) -> list[Finding] | None:
    """Rewards that work against each other."""
    trends = {name: slope_of(record, name) for name in record.comparable}
    up = [name for name, found in trends.items() if found and found.rises]
    down = [name for name, found in trends.items() if found and found.falls]
    findings = [
        Finding(
            "rewards pull apart", "warning", record.rows[0].step,
            f"{up[0]} rises while {down[0]} falls: one gains at the cost of the other",
            f"per step {trends[up[0]]} against {trends[down[0]]}",
            f"raise the weight of {down[0]}, or check whether a worse picture can raise {up[0]}",
        )
    ] if up and down else []  # fmt: skip
    pairs = sorted({pair for row in record.rows for pair in row.agreement})
    for pair in pairs:
        recent = record.series(partial(_agreement, pair))[-2 * PERSISTENT :]
        found = mean([p.value for p in recent], ALARM) if len(recent) == 2 * PERSISTENT else None
        if found and found.high < APART:
            findings.append(
                Finding(
                    "rewards pull apart", "warning", recent[0].step,
                    f"{pair} prefer opposite candidates: their advantages cancel",
                    f"correlation {found} over the last {len(recent)} steps (limit {APART})",
                    "set weights by importance, or correct the critic that should not object",
                )
            )  # fmt: skip
    return findings


def abstaining(record: Record) -> list[Finding] | None:
    """Critics that give few scores."""
    findings = []
    for name in record.trained:
        if ill := _abstention(record, name):
            findings.append(
                Finding(
                    "critic abstains", "warning", ill[0].step,
                    f"{name} abstains or fails on most candidates, so it has little effect",
                    f"a score for {percent(ill)} of them over the last {len(ill)} steps (limit {VALID:.0%})",
                    "read its own log; a critic of rare paths needs scenarios with such paths",
                )
            )  # fmt: skip
    return findings


def failing(record: Record) -> list[Finding] | None:
    """Critics in other processes that often need a retry."""
    findings = []
    for name in record.rewards:
        ill = lasting(record.series(partial(_failed, name)), record.window, lambda share: share > FAILING)
        if ill:
            findings.append(
                Finding(
                    "critic fails", "warning", ill[0].step,
                    f"{name} often fails and is retried: the run waits, and stops when no try is left",
                    f"{percent(ill)} of the tries failed over the last {len(ill)} steps (limit {FAILING:.0%})",
                    "the warnings name the cause: raise its timeout, or give it more memory or its own machine",
                )
            )  # fmt: skip
    return findings


def slow_critic(record: Record) -> list[Finding] | None:
    """Steps that mostly wait for scores."""
    timed = [row for row in record.rows if "score" in row.seconds]
    if not timed:
        return None
    shares = [
        Point(row.step, row.place, row.seconds["score"] / max(sum(row.seconds.values()), 1e-9))
        for row in timed
    ]
    if not (ill := lasting(shares, record.window, lambda share: share > SLOW)):
        return []
    lost = fmean(row.seconds["score"] for row in timed[-len(ill) :])
    return [
        Finding(
            "slow critic", "warning", ill[0].step,
            "the run spends most of its time waiting for critics",
            f"{percent(ill)} of a step, {number(lost)} s each, over the last {len(ill)} steps (limit {SLOW:.0%})",
            "score a whole group in one batch, use a smaller critic, or give it its own device",
        )
    ]  # fmt: skip


def _abstention(record: Record, reward: str) -> list[Point]:
    return lasting(record.reward(reward, lambda r: r.valid), record.window, lambda share: share < VALID)


def _agreement(pair: str, row: StepMetrics) -> float | None:
    return row.agreement.get(pair)


def _failed(name: str, row: StepMetrics) -> float | None:
    return (row.failed_tries or {}).get(name)
