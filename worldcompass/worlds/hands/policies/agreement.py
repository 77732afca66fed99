"""How well success in a world model tells success in the engine: over policies, with intervals over scenes.

Several seeds are of the noise alone, which differs from scene to scene, so that scenes carry its variance; a world
model is one run of training. Nothing here speaks of other runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldcompass.errors import UserError
from worldcompass.runs.atomic import write_json
from worldcompass.runs.metrics import read_object
from worldcompass.statistics import Estimate, bootstrap, kendall, rank_correlation, resamples, share
from worldcompass.worlds.hands.policies.trials import BASE, ENGINE, LATENTS, PIXELS, TASKS, TRAINED, Trials

BOTH = "both"
"""The policies of all tasks together, each a point of its own."""
MEASURES: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "spearman": rank_correlation,
    "kendall": kendall,
    "error": lambda engine, other: float(np.abs(other - engine).mean()),
    "bias": lambda engine, other: float((other - engine).mean()),
}
"""Of success in the engine and elsewhere, one value per policy each; errors are shares of episodes."""
RESAMPLES = 1000  # of scenes
VERSION = 1


@dataclass(frozen=True)
class Row:
    """One policy on one task."""

    task: str
    policy: str
    says: str
    success: Mapping[str, Estimate]
    """By side: share of episodes in which the task was done, with Wilson's interval over scenes."""


@dataclass(frozen=True)
class Agreement:
    """Measures of one side against the engine, on one task or on ``BOTH``."""

    task: str
    side: str
    """``pixels``, ``base``, ``trained``, or ``difference``: trained - base."""
    measures: Mapping[str, Estimate]


@dataclass(frozen=True)
class PolicyResults:
    """What ``worldcompass hands policies`` found."""

    split: str
    scenes: int
    """Of each task."""
    seeds: int
    weights: Mapping[str, str]
    """By side: which weights."""
    rows: tuple[Row, ...]
    agreements: tuple[Agreement, ...]
    latents: int = LATENTS

    def agreement(self, task: str, side: str) -> Agreement:
        """The measures of a side on a task.

        Raises:
            KeyError: when there are none.
        """
        for one in self.agreements:
            if (one.task, one.side) == (task, side):
                return one
        raise KeyError(f"no agreement of {side} on {task}")

    @property
    def verdict(self) -> str:
        """Whether post-training made the world a better place to test policies, in one sentence."""
        changes = [one for one in self.agreements if (one.task, one.side) == (BOTH, "difference")]
        if not changes:
            return "No post-trained world was given: name a run with --after to compare."
        change = changes[0].measures["spearman"]
        if change.rises:
            return f"Success in the post-trained world ranks policies better than in the base: {change}."
        if change.falls:
            return f"Success in the post-trained world ranks policies worse than in the base: {change}."
        return f"It is not shown that post-training changes how well the world ranks policies: {change}."


def results_of(trials: Trials, weights: Mapping[str, str]) -> PolicyResults:
    """Count finished trials.

    Raises:
        UserError: when a stored block does not fit.
    """
    sides = (ENGINE, PIXELS, *trials.worlds)
    done = {
        (side, task): np.stack([trials.read(side, task, policy).mean(0) for policy in trials.policies])
        for side in sides
        for task in TASKS
    }
    rows = [
        Row(task, policy.name, policy.says, {side: _success(trials, side, task, index) for side in sides})
        for task in TASKS
        for index, policy in enumerate(trials.policies)
    ]
    sampled = {task: resamples(trials.scenes.names(task), seed, RESAMPLES) for seed, task in enumerate(TASKS)}
    agreements = [
        Agreement(task, side, measures)
        for task, parts in {**{task: (task,) for task in TASKS}, BOTH: tuple(TASKS)}.items()
        for side, measures in _agreements(done, sampled, parts, sides).items()
    ]
    count = len(next(iter(trials.scenes.by_task.values())))
    return PolicyResults(
        trials.scenes.split, count, len(trials.seeds), weights, tuple(rows), tuple(agreements)
    )


def _success(trials: Trials, side: str, task: str, index: int) -> Estimate:
    hits = trials.read(side, task, trials.policies[index])
    return share(hits.ravel(), trials.scenes.names(task) * len(hits))


def _agreements(
    done: Mapping[tuple[str, str], np.ndarray],
    sampled: Mapping[str, np.ndarray],
    tasks: Sequence[str],
    sides: Sequence[str],
) -> dict[str, dict[str, Estimate]]:
    """Measures by side, and those of trained minus base, on the same resamples of scenes."""
    whole = {side: np.concatenate([done[side, task].mean(1) for task in tasks]) for side in sides}
    drawn = {
        side: np.concatenate([done[side, task][:, sampled[task]].mean(-1) for task in tasks])
        for side in sides
    }
    scenes = sum(sampled[task].shape[1] for task in tasks)
    others = [side for side in sides if side != ENGINE]
    found: dict[str, dict[str, Estimate]] = {side: {} for side in others}
    for name, measure in MEASURES.items():
        values = {
            side: np.array([measure(a, b) for a, b in zip(drawn[ENGINE].T, drawn[side].T, strict=True)])
            for side in others
        }
        means = {side: measure(whole[ENGINE], whole[side]) for side in others}
        for side in others:
            found[side][name] = bootstrap(values[side], means[side], scenes)
        if TRAINED in values:
            change = bootstrap(values[TRAINED] - values[BASE], means[TRAINED] - means[BASE], scenes)
            found.setdefault("difference", {})[name] = change
    return found


# --------------------------------------------------------------------------- file


def write_results(path: Path, results: PolicyResults) -> None:
    """Store results as JSON."""
    rows = [
        {"task": r.task, "policy": r.policy, "says": r.says, "success": _out(r.success)} for r in results.rows
    ]
    agreements = [{"task": a.task, "side": a.side, "measures": _out(a.measures)} for a in results.agreements]
    facts = {
        "version": VERSION,
        "split": results.split,
        "scenes": results.scenes,
        "seeds": results.seeds,
        "latents": results.latents,
        "weights": dict(results.weights),
        "verdict": results.verdict,
    }
    write_json(path, {**facts, "rows": rows, "agreements": agreements}, indent=1)


def read_results(path: Path) -> PolicyResults:
    """Results that ``write_results`` stored.

    Raises:
        UserError: when the file holds none, or is of another version.
    """
    stored = read_object(path, "results of policies")
    if stored.get("version") != VERSION:
        raise UserError(f"{path} has version {stored.get('version')}, expected {VERSION}: measure again")
    try:
        return PolicyResults(
            stored["split"],
            stored["scenes"],
            stored["seeds"],
            stored["weights"],
            tuple(Row(r["task"], r["policy"], r["says"], _in(r["success"])) for r in stored["rows"]),
            tuple(Agreement(a["task"], a["side"], _in(a["measures"])) for a in stored["agreements"]),
            stored["latents"],
        )
    except (KeyError, TypeError, ValueError) as why:
        raise UserError(f"{path} holds no results of policies ({why}): measure again") from why


def _out(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: estimate.to_json() for name, estimate in estimates.items()}


def _in(stored: Mapping[str, Any]) -> dict[str, Estimate]:
    return {name: Estimate.from_json(value) for name, value in stored.items()}
