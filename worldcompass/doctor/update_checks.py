"""Checks of the updates: whether they reach the weights and move the predictions by a sane amount."""

from __future__ import annotations

from statistics import median

from worldcompass.doctor.record import PERSISTENT, Finding, Record, percent, streak
from worldcompass.statistics import number

MIN_MOVE = 0.02  # of the predictions over the whole run, in sizes of their own error
MAX_MOVE = 0.3  # of the predictions from the behaviour's within a step, in sizes of their own error
MAX_MOVE_STEPS = 3  # in a row
UNREACHED = 0.1  # share of trainable parameters without a gradient
LAG = 0.6  # distance from behaviour to trained weights as a share of the distance from the start
LAG_STEPS = 10  # before that, the distance from the start is too small


def not_finite(record: Record) -> list[Finding] | None:
    """Numbers that are not finite, and updates refused because of them."""
    failures = record.refused
    bad = [(row.step, name) for row in record.rows if (name := row.not_finite)]
    if not failures and not bad:
        return []
    first = min([e.step for e in failures] + [step for step, _ in bad])
    why = failures[-1].why if failures else f"{bad[0][1]} at step {bad[0][0]}"
    return [
        Finding(
            "not finite", "harmful", first,
            "a loss, a gradient, a score or a measurement is not finite",
            why,
            "lower lr or max_grad_norm, switch off autocast_bf16, and run check_critic on the critics",
        )
    ]  # fmt: skip


def too_small(record: Record) -> list[Finding] | None:
    """Updates too small to move the predictions by the planned end."""
    moved = record.moved(lambda row: row.kl_to_start)
    if not moved:
        return None
    if no_gradient(record):
        return []  # the cause, which has its own finding
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
            f"at this rate the predictions move by {number(100 * reached)}% of their own error until step "
            f"{max(record.planned, moved[-1].step)} (limit {MIN_MOVE:.0%})",
            "raise lr, by a factor of ten at first; keep float32 copies of bfloat16 weights, which round small "
            "updates away",
        )
    ]  # fmt: skip


def too_large(record: Record) -> list[Finding] | None:
    """Updates that move the predictions far from those of the behaviour weights."""
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
    """Trainable parameters that no update reached, such as an unused adapter."""
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
            "trainable parameters receive no gradient: the prediction does not use an adapter or a layer",
            f"{share:.0%} of the trainable parameters in {len(missed)} steps (limit {UNREACHED:.0%}), "
            f"among them {', '.join(never[:3]) or 'changing ones'}",
            "check lora.targets against the layers that predict_clean calls, and that no layer uses a copy of its "
            "weights",
        )
    ]  # fmt: skip


def behaviour_far(record: Record) -> list[Finding] | None:
    """Behaviour weights that lag behind, so that the data come from an outdated model."""
    if not (lag := record.series(lambda row: row.behaviour_lag)):
        return None
    ill = streak([p for p in lag if p.step >= LAG_STEPS], lambda share: share > LAG)
    if len(ill) < PERSISTENT:
        return []
    return [
        Finding(
            "behaviour too far", "warning", ill[0].step,
            "the behaviour weights, which imagine the data, lag far behind the trained ones",
            f"they are behind by {percent(ill)} of the trained weights' distance from the start (limit {LAG:.0%})",
            "lower behaviour_decay; the paper raises it from 0.2 to 0.9",
        )
    ]  # fmt: skip
