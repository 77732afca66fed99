"""Checks of the looks against what the world can show at best, and against the start weights.

Rewards for looks are gamed by contrast and invented detail, which the first frame of a video does not judge well:
no decoder reaches the sharpness of a real picture. The limits lie below the inflation of a run whose pictures blind
raters found worse than the start's: velocities 2.5% and contrasts 7% larger.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from worldcompass.doctor.record import PERSISTENT, Finding, Point, Record, average, lasting
from worldcompass.runs.metrics import Pictures, StepMetrics

NORM = 1.02  # of the velocity over the start weights'
CONTRAST = 1.05  # of the latents over the start weights'
TRUTH = 0.1  # logarithm: further away from reachable truth than in the first steps
TOLD = 0.95  # share of new pairs that a discriminator tells apart

_Measured = tuple[Sequence[Point], float, str]


def looks_spoil(record: Record) -> list[Finding] | None:
    """Velocities or contrasts that inflate, and pictures that leave reachable truth, on either side."""
    measured = [*_against_the_start(record), *_against_truth(record)]
    told = _told(record)
    if not told and not any(series for series, _, _ in measured):
        return None
    found = [
        (ill, words.format(average(ill)))
        for series, limit, words in measured
        if (ill := lasting(series, record.window, lambda value, limit=limit: value > limit))
    ]
    findings = [
        Finding(
            "looks spoil", "harmful", min(ill[0].step for ill, _ in found),
            "the pictures get contrast or detail that the world cannot truly show: a reward for looks is gamed",
            "; ".join(evidence for _, evidence in found),
            "raise norm_weight and contrast_weight, add data_share, lower explore, and drop rewards that do not"
            " rank candidates by their distance to the truth",
        )
    ] if found else []  # fmt: skip
    findings += [
        Finding(
            "looks reward blind", "warning", ill[0].step,
            f"{name} tells nearly every candidate from the engine, so its order among siblings is mostly noise",
            f"{average(ill):.0%} of new pairs told apart over the last {len(ill)} steps (limit {TOLD:.0%})",
            "give it fewer updates or more penalty; if the pictures are far from the engine's, train the base more",
        )
        for name, series in told.items()
        if (ill := lasting(series, max(PERSISTENT, record.window), lambda share: share > TOLD))
    ]  # fmt: skip
    return findings


def _against_the_start(record: Record) -> list[_Measured]:
    start = "the start weights' over the last steps"
    return [
        (
            record.series(lambda row: row.velocity_norm),
            NORM,
            f"velocities {{:.3f}} times {start} (limit {NORM})",
        ),
        (
            record.series(lambda row: row.contrast),
            CONTRAST,
            f"contrast {{:.3f}} times {start} (limit {CONTRAST})",
        ),
    ]


def _against_truth(record: Record) -> list[_Measured]:
    kinds: dict[str, Callable[[Pictures], float | None]] = {
        "detail": lambda p: p.true_detail,
        "contrast": lambda p: p.true_contrast,
        "saturation": lambda p: p.true_saturation,
    }
    return [
        (
            record.since_baseline(record.pictures(of), lambda value, start: abs(value) - abs(start)),
            TRUTH,
            f"{name} {{:.2f}} in the logarithm further from reachable truth than at the start (limit {TRUTH})",
        )
        for name, of in kinds.items()
    ]


def _told(record: Record) -> dict[str, list[Point]]:
    """Accuracies of the critics that learn, by critic."""
    names = {name for row in record.rows for name in row.learners or {}}

    def accuracy(name: str) -> Callable[[StepMetrics], float | None]:
        return lambda row: (row.learners or {}).get(name, {}).get("accuracy")

    found = {name: record.series(accuracy(name)) for name in sorted(names)}
    return {name: series for name, series in found.items() if series}
