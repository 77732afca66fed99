"""The judge's twin, for choosing settings: the same code with networks, folds and episodes of its own.

What a setting is chosen by can no longer judge it. So experiments choose by the twin, and the judge sees the result
once. A world's folder gives the twin its own episodes.
"""

from __future__ import annotations

from collections.abc import Callable

from worldcompass.judging.classifier import Asked
from worldcompass.judging.judge import judge
from worldcompass.judging.sources import Sources
from worldcompass.judging.verdict import Judgement

NETWORKS = 1_000_003  # added to the seed of networks, folds and noise


def judge_twin(
    sources: Sources, seed: int, asked: Asked | None = None, on_step: Callable[[], None] = lambda: None
) -> Judgement:
    """A judgement by the twin; see ``judging.judge.judge``. The sources must be of the twin's own episodes."""
    return judge(sources, twin_seed(seed), asked, on_step)


def twin_seed(seed: int) -> int:
    """The twin's seed for networks and noise; the judge never uses it."""
    return seed + NETWORKS
