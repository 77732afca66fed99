"""Checks of the updates: do they reach the weights, and do they move the predictions by a sane amount?"""

from __future__ import annotations

import math
from statistics import median

from worldcompass.doctor.record import PERSISTENT, Finding, Record, percent, streak
from worldcompass.runs.metrics import StepMetrics
from worldcompass.statistics import number

MIN_MOVE = 0.02  # of the predictions over the whole run, in sizes of their own error
MAX_MOVE = 0.3  # of the predictions from the behaviour's within a step, in sizes of their own error
MAX_MOVE_STEPS = 3  # in a row
UNREACHED = 0.1  # share of trainable parameters without a gradient
LAG = 0.6  # share of the whole way that the behaviour has yet to follow
LAG_STEPS = 10  # before which there is hardly a way


def not_finite(record: Record) -> list[Finding] | None:
    """Numbers that are not finite, and steps that were refused for them."""
    failures = record.refused
    bad = [(row.step, name) for row in record.rows if (name := _first_not_finite(row))]
    if not failures and not bad:
        return []
    first = min([e.step for e in failures] + [step for step, _ in bad])
    why = failures[-1].why if failures else f"{bad[0][1]} at step {bad[0][0]}"
    return [
        Finding(
            "not finite", "harmful", first,
            "a loss, a gradient, a score or a measurement is not finite",
            why,
            "lower lr or max_grad_norm, try without autocast_bf16, and run check_critic on the critics",
        )
    ]  # fmt: skip


def too_small(record: Record) -> list[Finding] | None:
    """Updates that will not have moved the predictions by the planned end."""
    moved = record.moved(lambda row: row.kl_to_start)
    if not moved:
        return None
    if no_gradient(record):
        return []  # that is the reason
    if len(moved) < PERSISTENT or not any(
        p.value for p in record.series(lambda row: row.applied)[-PERSISTENT:]
    ):
        return []
    pace = median(p.value / max(p.step - 1, 1) for p in moved[-PERSISTENT:])
    if (reached := pace * max(record.planned, moved[-1].step)) >= MIN_MOVE:
        return []
    return [
        Finding(
            "update too small", "stuck", moved[0].step,
            "the updates are too small to move the model",
            f"at this pace the predictions will have moved by {number(100 * reached)}% of their own error by step "
            f"{max(record.planned, moved[-1].step)} (limit {MIN_MOVE:.0%})",
            "raise lr, by a factor of ten at first; with bfloat16 weights, keep float32 copies: small updates are "
            "rounded away",
        )
    ]  # fmt: skip


def too_large(record: Record) -> list[Finding] | None:
    """Updates that throw the predictions far from those of the weights that imagined the data."""
    moved = record.moved(lambda row: row.objective.get("deviation"))
    if not moved:
        return None
    ill = streak(moved, lambda size: size > MAX_MOVE)
    if len(ill) < MAX_MOVE_STEPS:
        return []
    return [
        Finding(
            "update too large", "harmful", ill[0].step,
            "the updates are so large that the policy leaves the data it learns from: the run diverges",
            f"predictions move by {percent(ill)} of their own error within a step, for {len(ill)} steps "
            f"(limit {MAX_MOVE:.0%})",
            "lower lr, by a factor of three at first, or updates_per_rollout",
        )
    ]  # fmt: skip


def no_gradient(record: Record) -> list[Finding] | None:
    """Trainable parameters that no update reached: an adapter bound to nothing."""
    measured = [(row, row.no_gradient) for row in record.rows if row.no_gradient is not None]
    if not measured:
        return None
    missed = [(row.step, unreached) for row, unreached in measured if row.applied]
    if not missed:
        return []
    share = min(unreached.share for _, unreached in missed)
    patience = 1 if share == 1 else max(3, record.num_chunks)
    if share < UNREACHED or len(missed) < patience:
        return []
    never = [n for n in missed[-1][1].names if all(n in unreached.names for _, unreached in missed[-3:])]
    return [
        Finding(
            "no gradient", "stuck" if share == 1 else "warning", missed[0][0],
            "trainable parameters receive no gradient: an adapter or a layer takes no part in the prediction",
            f"{share:.0%} of the trainable parameters in {len(missed)} steps (limit {UNREACHED:.0%}), "
            f"among them {', '.join(never[:3]) or 'changing ones'}",
            "check lora.targets against the layers that predict_clean calls, and that nothing reads a copy of "
            "their weights",
        )
    ]  # fmt: skip


def behaviour_far(record: Record) -> list[Finding] | None:
    """Behaviour weights that hardly follow: the data come from a model long gone."""
    if not (lag := record.series(lambda row: row.behaviour_lag)):
        return None
    ill = streak([p for p in lag if p.step >= LAG_STEPS], lambda share: share > LAG)
    if len(ill) < PERSISTENT:
        return []
    return [
        Finding(
            "behaviour too far", "warning", ill[0].step,
            "the weights that imagine the data do not follow the trained ones",
            f"they have yet to follow {percent(ill)} of the whole way from the start (limit {LAG:.0%})",
            "lower behaviour_decay: 0.2 at first, rising to 0.9, is the paper's",
        )
    ]  # fmt: skip


def _first_not_finite(row: StepMetrics) -> str:
    """The name of the first number in a row that is not finite; empty when all are."""
    numbers = row.numbers().items()
    return next((name for name, value in numbers if value is not None and not math.isfinite(value)), "")
