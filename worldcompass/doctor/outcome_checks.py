"""Checks of the outcome: trends of the rewards, of the held-out judge's scores and of the pictures."""

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

SURE = 0.99  # level of the interval for changes that also have a limit
MOTION = math.log(0.5)  # half of the motion left
DIVERSITY = math.log(0.4)  # two fifths of the differences between siblings left
SHIFT = 0.1  # of brightness or saturation away from the first frame, 1 being white
DETAIL = 0.5  # of log detail away from the first frame's, a factor of 1.65


def getting_worse(record: Record) -> list[Finding] | None:
    """Rewards that fall while none rises."""
    trends = {name: slope_of(record, name) for name in record.comparable}
    down = [(name, found) for name, found in trends.items() if found and found.falls]
    if not down or any(found and found.rises for found in trends.values()):
        return []
    evidence = [f"{name} {found} per step" for name, found in down]
    evidence += [
        f"{name} changed most on chunk {fall[0]}, by {number(fall[1])} from its first visits to its last"
        for name, _ in down
        if record.num_chunks > 1 and (fall := deepest_fall(record, name))
    ]
    return [
        Finding(
            "getting worse", "harmful", min(peak(record, name) for name, _ in down) + 1,
            f"{_all([name for name, _ in down], 'fall')} and no reward rises: the model unlearns",
            "; ".join(evidence),
            "check that higher scores are better and that updates are not too large; lower lr, or raise kl_weight",
        )
    ]  # fmt: skip


def reward_hacking(record: Record) -> list[Finding] | None:
    """Rewards that rise while the held-out judge falls, during training or from before to after."""
    looks = judged_changes(record, ALARM)
    if looks is None and not record.evaluation:
        return None
    since, evidence = _judge_falls(record, looks or []) or _evaluation_falls(record) or (0, "")
    if not evidence:
        return []
    rising = [name for name in record.comparable if (found := slope_of(record, name)) and found.rises]
    honest = any(change.rises for name, change in record.evaluation.items() if name.startswith(FOLLOWED))
    if honest or not rising:
        return [
            Finding(
                "getting worse", "harmful", since,
                f"the held-out judge falls: the model gets worse{' despite its gains' if honest else ''}",
                evidence, "raise the weight of the reward for the lost quality, or lower lr" if honest else
                "lower lr; the rewards show no clear trend yet",
            )
        ]  # fmt: skip
    return [
        Finding(
            "reward hacking", "harmful", since,
            f"{_all(rising, 'rise')} while the held-out judge falls: the critic is exploited",
            f"{evidence}; {', '.join(f'{n} {slope_of(record, n)} per step' for n in rising)}",
            "watch the best candidates; add a reward for what they lack, raise kl_weight, or stop earlier",
        )
    ]  # fmt: skip


def motion_dying(record: Record) -> list[Finding] | None:
    """Commanded motion that fades, as quality critics do not mind a still picture."""
    return _fading(
        record, lambda pictures: pictures.motion, MOTION, "motion dying",
        "the pictures move less and less, although motion is commanded",
        "of the motion of the first steps on the same chunks",
        "raise the weight of the reward for following actions, lower that for quality, or shorten the run",
    )  # fmt: skip


def diversity_collapse(record: Record) -> list[Finding] | None:
    """Candidates of a group that become copies of each other."""
    return _fading(
        record, lambda pictures: pictures.diversity, DIVERSITY, "diversity collapse",
        "the candidates of a group become copies of each other: soon no difference is left to prefer",
        "of the first steps' spread between siblings on the same chunks",
        "raise kl_weight or explore, lower lr",
    )  # fmt: skip


def picture_drift(record: Record) -> list[Finding] | None:
    """Exposure, saturation or sharpness that leave those of the videos' first frames."""
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
                    f"{word} drifts {direction}wards, away from that of the videos' first frames",
                    f"{number(average(found))} {unit} further away than in the first steps on the same chunks "
                    f"(limit {limit})",
                    "a critic prefers this to the truth: add a drift reward, raise kl_weight, or lower lr",
                )
            )  # fmt: skip
    return findings


def judged_changes(record: Record, level: float) -> list[tuple[int, Estimate]] | None:
    """Step and change of the held-out judge's score since its first look, paired by video, for every later look."""
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
    """The step after the last good look, and the fall of the judge's score as evidence; None without a fall."""
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
    """The last step and the losses in the evaluation, on intervals at the level of alarms; None without a loss."""
    lost = [
        f"{name} {change}" for name, change in record.evaluation.items() if change.wider(0.95, ALARM).falls
    ]
    if not lost or not record.rows:
        return None
    return record.rows[-1].step, f"evaluation before and after (95% intervals): {'; '.join(lost)}"


def _all(names: Sequence[str], verb: str) -> str:
    """Names with a verb: ``a rises``, ``a and b rise``."""
    return f"{' and '.join(names)} {verb}{'s' if len(names) == 1 else ''}"


def _fading(
    record: Record,
    of: Callable[[Pictures], float | None],
    limit: float,
    name: str,
    what: str,
    share: str,
    advice: str,
) -> list[Finding] | None:
    """The finding that a positive quantity fell below a limit of its logarithm; None without points."""
    found = _shrunk(record, of, limit)
    if not found:
        return None if found is None else []
    evidence = f"{math.exp(average(found)):.0%} {share} (limit {math.exp(limit):.0%})"
    return [Finding(name, "harmful", found[0].step, what, evidence, advice)]


def _shrunk(record: Record, of: Callable[[Pictures], float | None], limit: float) -> list[Point] | None:
    """The last points of a positive quantity below a limit of its logarithm; None without points."""
    series = record.pictures(of)
    if not series:
        return None
    logs = record.since_baseline(series, lambda value, start: math.log(max(value, 1e-9) / max(start, 1e-9)))
    return [
        Point(p.step, p.chunk, -p.value)
        for p in _beyond([Point(p.step, p.chunk, -p.value) for p in logs], -limit)
    ]


def _beyond(series: Sequence[Point], limit: float) -> list[Point]:
    """The last points above a limit; empty unless the recent mean exceeds it and its interval excludes 0."""
    recent = list(series[-PERSISTENT:])
    found = mean([p.value for p in recent], SURE) if len(recent) == PERSISTENT else None
    if found is None or not found.rises or found.mean <= limit:
        return []
    return streak(series, lambda value: value > limit) or recent
