"""Checks of the outcome: what becomes of rewards, of the held-out judge's opinion and of the pictures?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from worldcompass.doctor.record import (
    ALARM,
    FOLLOWED,
    PERSISTENT,
    Finding,
    Point,
    Record,
    average,
    deepest_fall,
    peak,
    slope_of,
    streak,
)
from worldcompass.doctor.trends import mean
from worldcompass.runs.metrics import Pictures
from worldcompass.statistics import Estimate, number

SURE = 0.99  # level of the interval of a change that must also be large
MOTION = math.log(0.5)  # half of the motion gone
DIVERSITY = math.log(0.4)  # three fifths of the differences between siblings gone
SHIFT = 0.1  # of brightness or saturation further from the first frame, 1 being white
DETAIL = 0.5  # of log detail further from the first frame's, a factor of 1.65


def getting_worse(record: Record) -> list[Finding] | None:
    """Rewards that fall, and none that rises."""
    trends = {name: slope_of(record, name) for name in record.trained}
    down = [(name, found) for name, found in trends.items() if found and found.falls]
    if not down or any(found and found.rises for found in trends.values()):
        return []
    evidence = [f"{name} {found} per step" for name, found in down]
    evidence += [
        f"{name} most on chunk {fall[0]}, by {number(fall[1])} from its first visits to its last"
        for name, _ in down
        if record.num_chunks > 1 and (fall := deepest_fall(record, name))
    ]
    return [
        Finding(
            "getting worse", "harmful", min(peak(record, name) for name, _ in down) + 1,
            f"{_all([name for name, _ in down], 'fall')} and no reward rises: the run unlearns",
            "; ".join(evidence),
            "see whether higher scores really are better and updates not too large; lower lr, or raise kl_weight",
        )
    ]  # fmt: skip


def reward_hacking(record: Record) -> list[Finding] | None:
    """Rewards that rise while the judge, which is no reward, falls: in its looks, or from before to after."""
    looks = judged_changes(record, ALARM)
    if looks is None and not record.evaluation:
        return None
    since, evidence = _judge_falls(record, looks or []) or _evaluation_falls(record) or (0, "")
    if not evidence:
        return []
    rising = [name for name in record.trained if (found := slope_of(record, name)) and found.rises]
    honest = any(change.rises for name, change in record.evaluation.items() if name.startswith(FOLLOWED))
    if honest or not rising:
        return [
            Finding(
                "getting worse", "harmful", since,
                f"the held-out judge falls: the model gets worse{' beside what it gains' if honest else ''}",
                evidence, "raise the weight of the reward for what is lost, lower lr" if honest else
                "lower lr; the rewards say nothing clear about it yet",
            )
        ]  # fmt: skip
    return [
        Finding(
            "reward hacking", "harmful", since,
            f"{_all(rising, 'rise')} while the held-out judge falls: the critic is exploited",
            f"{evidence}; {', '.join(f'{n} {slope_of(record, n)} per step' for n in rising)}",
            "watch the best candidates; add a reward for what they lack, raise kl_weight or stop earlier",
        )
    ]  # fmt: skip


def motion_dying(record: Record) -> list[Finding] | None:
    """Commanded motion that fades: standing still offends no quality critic."""
    found = _shrunk(record, lambda pictures: pictures.motion, MOTION)
    return None if found is None else [
        Finding(
            "motion dying", "harmful", found[0].step,
            "the pictures move less and less although motion is commanded",
            f"{math.exp(average(found)):.0%} of the motion of the first steps on the same chunks "
            f"(limit {math.exp(MOTION):.0%})",
            "raise the weight of the reward for following actions, lower that for quality, or shorten the run",
        )
    ] if found else []  # fmt: skip


def diversity_collapse(record: Record) -> list[Finding] | None:
    """Candidates of a group that become copies of each other."""
    found = _shrunk(record, lambda pictures: pictures.diversity, DIVERSITY)
    return None if found is None else [
        Finding(
            "diversity collapse", "harmful", found[0].step,
            "the candidates of a group become copies of each other: soon there is nothing left to prefer",
            f"{math.exp(average(found)):.0%} of the first steps' deviation between siblings on the same chunks "
            f"(limit {math.exp(DIVERSITY):.0%})",
            "raise kl_weight or explore, lower lr",
        )
    ] if found else []  # fmt: skip


def picture_drift(record: Record) -> list[Finding] | None:
    """Exposure, saturation or sharpness that run away from those of the videos' first frames."""
    measured = (
        (record.pictures(lambda p: p.brightness), "exposure", SHIFT, "of the range from black to white"),
        (
            record.pictures(lambda p: p.saturation),
            "saturation",
            SHIFT,
            "of the range from grey to pure colour",
        ),
        (record.pictures(lambda p: p.detail), "sharpness", DETAIL, "in the logarithm of local contrast"),
    )
    if not any(series for series, *_ in measured):
        return None
    findings = []
    for series, word, limit, unit in measured:
        away = record.since_baseline(series, lambda value, start: abs(value) - abs(start))
        found = _beyond(away, limit)
        if found:
            direction = "up" if series[-1].value > 0 else "down"
            findings.append(
                Finding(
                    f"{word} running away", "harmful", found[0].step,
                    f"{word} runs away from that of the videos' first frames, {direction}wards",
                    f"{number(average(found))} {unit} further away than in the first steps on the same chunks "
                    f"(limit {limit})",
                    "a critic likes this more than the truth: add a drift reward or kl_weight, lower lr",
                )
            )  # fmt: skip
    return findings


def judged_changes(record: Record, level: float) -> list[tuple[int, Estimate]] | None:
    """Change of the held-out judge's score since its first look, paired by video, at every later look."""
    looks = [(row.step, row.judge.values) for row in record.rows if row.judge is not None]
    if not looks:
        return None
    start = looks[0][1]
    changes = [
        (step, mean([b - a for a, b in zip(start, values, strict=True)], level))
        for step, values in looks[1:]
        if len(values) == len(start)
    ]
    return [(step, change) for step, change in changes if change is not None]


def _judge_falls(record: Record, looks: Sequence[tuple[int, Estimate]]) -> tuple[int, str] | None:
    """From which step on the judge's score has fallen, and how far; the look before was the last good one."""
    ill = 0
    while ill < len(looks) and looks[-1 - ill][1].falls:
        ill += 1
    if not ill:
        return None
    first = next(row.step for row in record.rows if row.judge is not None)
    last_good = looks[-1 - ill][0] if ill < len(looks) else first
    change = looks[-1][1]
    return (
        last_good + 1,
        f"the judge's score of the same held-out videos changed by {change} since the first look",
    )


def _evaluation_falls(record: Record) -> tuple[int, str] | None:
    """What the evaluation after the run says is lost, on intervals as wide as every alarm's."""
    lost = [
        f"{name} {change}" for name, change in record.evaluation.items() if change.wider(0.95, ALARM).falls
    ]
    if not lost or not record.rows:
        return None
    return record.rows[-1].step, f"evaluation before and after (95% intervals): {'; '.join(lost)}"


def _all(names: Sequence[str], verb: str) -> str:
    """Names and what they do: ``a rises``, ``a and b rise``."""
    return f"{' and '.join(names)} {verb}{'s' if len(names) == 1 else ''}"


def _shrunk(record: Record, of: Callable[[Pictures], float | None], limit: float) -> list[Point] | None:
    """The last points of a positive quantity where it has shrunk beyond a limit (of its logarithm)."""
    series = record.pictures(of)
    if not series:
        return None
    logs = record.since_baseline(series, lambda value, start: math.log(max(value, 1e-9) / max(start, 1e-9)))
    return [
        Point(p.step, p.chunk, -p.value)
        for p in _beyond([Point(p.step, p.chunk, -p.value) for p in logs], -limit)
    ]


def _beyond(series: Sequence[Point], limit: float) -> list[Point]:
    """The last points when their mean lies beyond a limit and its interval above zero; from the first ill one."""
    recent = list(series[-PERSISTENT:])
    found = mean([p.value for p in recent], SURE) if len(recent) == PERSISTENT else None
    if found is None or not found.rises or found.mean <= limit:
        return []
    return streak(series, lambda value: value > limit) or recent
