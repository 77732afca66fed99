"""Accuracy of pick-up critics against the engine's counters, with intervals.

Every scene has six questions, its three clips for each of its two items: two clips take the item, two take the
other item, and two take nothing. The threshold for "yes" is fitted on one half of the scenes and tested on the
other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldcompass.critic import Critic, ask
from worldcompass.runs.atomic import finite
from worldcompass.statistics import Estimate, bootstrap, calibration_error, rank_correlation, resamples, share
from worldcompass.worlds.doom.engine.pickup_scenes import Played

RESAMPLES = 1000
DONE, OTHER, NOTHING = "takes it", "takes the other item", "takes nothing"
OUTCOMES = (DONE, OTHER, NOTHING)


@dataclass(frozen=True)
class Marks:
    """Scores of S scenes, by item and outcome."""

    values_SWO: np.ndarray
    """float, (S, 2 items, 3 outcomes); NaN where the critic abstains."""
    paths: tuple[str, ...]
    words: tuple[tuple[str, str], ...]


def mark(critic: Critic, scenes: Sequence[Played], on_scene: Callable[[], None] = lambda: None) -> Marks:
    """Score all questions with a critic, three candidates at a time."""
    values = np.full((len(scenes), 2, len(OUTCOMES)), np.nan)
    for s, played in enumerate(scenes):
        for w, word in enumerate(played.scene.words):
            scores = ask(critic, played.group(word))
            for clip, (value, valid) in enumerate(zip(scores.values_G, scores.valid_G, strict=True)):
                if valid:
                    values[s, w, outcome_of(played, clip, word)] = float(value)
        on_scene()
    return Marks(values, tuple(p.scene.path for p in scenes), tuple(p.scene.words for p in scenes))


def outcome_of(played: Played, clip: int, asked: str) -> int:
    """Index into ``OUTCOMES`` of a scene's clip, for one of its items."""
    taken = played.scene.taken[clip]
    return 2 if taken is None else int(taken[0] != asked)


@dataclass(frozen=True)
class Verdict:
    """Accuracy of the scores, with 95% intervals over scenes."""

    scenes: int
    abstained: float
    """Share of the questions without a score."""
    accuracy: Estimate
    """Balanced accuracy: the mean of the shares of right "yes" and right "no" answers."""
    right: dict[str, Estimate]
    """Share of right answers by outcome."""
    ranked: dict[str, Estimate]
    """Share of pairs in which the clip that takes the item scores above another outcome; ties count half."""
    by_path: dict[str, Estimate]
    """``ranked`` over both other outcomes, by kind of walk."""
    by_item: dict[str, Estimate]
    correlation: Estimate
    """Spearman's correlation of score and truth over all questions, with a bootstrap interval over scenes."""
    calibration: float | None
    """Mean distance of score and truth; None unless all scores lie between 0 and 1."""

    def to_json(self) -> dict[str, Any]:
        """All fields; null for a share without scenes."""
        return finite(self)


def judge_marks(marks: Marks, seed: int = 0) -> Verdict:
    """Compute the accuracy of a set of scores."""
    values = marks.values_SWO
    right = _right(values)
    above = np.stack([_above(values[..., 0], values[..., o]) for o in (1, 2)], -1)
    flat = np.where(np.isnan(right), 0.5, right)  # an abstention counts as a coin toss
    per_scene = (flat[..., 0] / 2 + flat[..., 1] / 4 + flat[..., 2] / 4).mean(1)
    paths = np.array(marks.paths)
    words = np.array(marks.words)
    given = ~np.isnan(values)
    truth = np.broadcast_to(np.array([1.0, 0.0, 0.0]), values.shape)
    inside = given.any() and np.nanmin(values) >= 0 and np.nanmax(values) <= 1
    return Verdict(
        len(values),
        float(1 - given.mean()),
        _share(per_scene),
        {name: _share(_means(right[..., o])) for o, name in enumerate(OUTCOMES)},
        {name: _share(_means(above[..., o - 1])) for o, name in enumerate(OUTCOMES) if o},
        {path: _share(_means(above[paths == path].reshape((paths == path).sum(), -1)))
         for path in dict.fromkeys(marks.paths)},
        {word: _share(_clean(above[words == word].mean(-1))) for word in sorted(set(words.flatten()))},
        _correlation(values, truth, seed),
        calibration_error(values[given], truth[given]) if inside else None,
    )  # fmt: skip


def threshold_of(values_N: np.ndarray, truth_N: np.ndarray) -> float:
    """The threshold with the highest balanced accuracy; scores at or below it mean "no"."""
    levels = np.unique(values_N)
    if len(levels) < 2:
        return float(levels[0]) if len(levels) else 0.0
    cuts = (levels[1:] + levels[:-1]) / 2
    yes = (values_N[truth_N][None] > cuts[:, None]).mean(1)
    no = (values_N[~truth_N][None] <= cuts[:, None]).mean(1)
    return float(cuts[np.argmax(yes + no)])


def _right(values_SWO: np.ndarray) -> np.ndarray:
    """1 for right, 0 for wrong, NaN for abstained; even scenes use the threshold of odd ones and vice versa."""
    truth = np.broadcast_to(np.array([True, False, False]), values_SWO.shape)
    right = np.full(values_SWO.shape, np.nan)
    for half in (0, 1):
        fitted, tested = values_SWO[1 - half :: 2], values_SWO[half::2]
        given = ~np.isnan(fitted)
        cut = threshold_of(fitted[given], truth[1 - half :: 2][given])
        answers = np.where(np.isnan(tested), np.nan, (tested > cut) == truth[half::2])
        right[half::2] = answers
    return right


def _above(wanted: np.ndarray, other: np.ndarray) -> np.ndarray:
    """1 if wanted is above other, one half for a tie, NaN if either is missing."""
    ranked = np.where(wanted > other, 1.0, np.where(wanted == other, 0.5, 0.0))
    return np.where(np.isnan(wanted) | np.isnan(other), np.nan, ranked)


def _means(values_SX: np.ndarray) -> np.ndarray:
    """Mean of each scene's known values, without scenes that have none."""
    there = ~np.isnan(values_SX)
    counted = there.any(1)
    return np.nansum(values_SX[counted], 1) / there[counted].sum(1)


def _share(values_N: np.ndarray) -> Estimate:
    """Mean of one value per scene, each between 0 and 1."""
    return share(values_N, [str(scene) for scene in range(len(values_N))])


def _clean(values_N: np.ndarray) -> np.ndarray:
    return values_N[~np.isnan(values_N)]


def _correlation(values: np.ndarray, truth: np.ndarray, seed: int) -> Estimate:
    if not len(values):
        return Estimate(float("nan"), float("nan"), float("nan"), 0)

    def of(rows: np.ndarray) -> float:
        given = ~np.isnan(values[rows])
        return rank_correlation(values[rows][given], truth[rows][given]) if given.any() else 0.0

    picks = resamples([f"{scene:06d}" for scene in range(len(values))], seed, RESAMPLES)
    return bootstrap([of(rows) for rows in picks], of(np.arange(len(values))), len(values))
