"""The checks: pure functions from a run's record to findings, or to None where their numbers were not measured.

Some limits are large by any standard (half of the motion gone). The others were set on the toy world's healthy and
diseased runs with seeds 0 to 2; ``benchmarks/doctor.py`` tries other seeds and strengths.
"""

from __future__ import annotations

from collections.abc import Callable

from worldcompass.doctor.looks_checks import looks_spoil
from worldcompass.doctor.outcome_checks import (
    diversity_collapse,
    getting_worse,
    motion_dying,
    picture_drift,
    reward_hacking,
)  # fmt: skip
from worldcompass.doctor.record import Finding, Record
from worldcompass.doctor.signal_checks import (
    abstaining,
    all_clipped,
    failing,
    no_spread,
    pulling_apart,
    slow_critic,
)  # fmt: skip
from worldcompass.doctor.update_checks import behaviour_far, no_gradient, not_finite, too_large, too_small

Check = Callable[[Record], list[Finding] | None]

# Harmful findings first, then stuck runs, then warnings.
CHECKS: tuple[Check, ...] = (
    not_finite, too_large, reward_hacking, getting_worse, motion_dying, picture_drift, looks_spoil,
    diversity_collapse,
    no_gradient, no_spread, too_small,
    all_clipped, pulling_apart, behaviour_far, abstaining, failing, slow_critic,
)  # fmt: skip
