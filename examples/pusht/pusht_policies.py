"""Does a world model say what a policy is worth in the environment? Ten policies, in both.

    python pusht_policies.py --starts 40                                   # the base beside the environment
    python pusht_policies.py --starts 40 --after runs/pusht_rl --out policies.json

A policy sees pictures alone, through the reader, and answers with controls; what it draws is the same everywhere.
Its score is the share of the goal that the T covers after ten seconds. In the environment that is known, and read
off the picture too: the difference is what reading costs. In a world model it can only be read.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pusht_engine import GOAL, Engine, Moment, coverage, random_state
from pusht_reader import StateReader, load_reader
from pusht_scripts import Pusher, Script, Shaky, Wander, still
from pusht_world import HERE, PushWorld, make
from worldcompass.statistics import Estimate, bootstrap, kendall, rank_correlation, resamples
from worldcompass.types import ControlValues, Scenario
from worldcompass.walk import start_walk

LATENTS = 50  # of an episode, ten seconds
NEAR, TURNED = 110.0, 2.0  # board pixels and radians within which the T starts from the goal
ENGINE, PIXELS, BASE, TRAINED = "environment", "environment, read", "base", "trained"
SEED = 20_000  # of the starts; those of recordings are smaller
RESAMPLES = 1000


@dataclass
class Late:
    """Another script that first waits."""

    script: Script
    wait: int

    def __call__(self, state_5: np.ndarray) -> np.ndarray:
        """See ``Script``."""
        self.wait -= 1
        return still(state_5) if self.wait >= 0 else self.script(state_5)


def _goal(dx: float = 0, turn: float = 0) -> np.ndarray:
    return GOAL + np.array([dx, 0, turn])


POLICIES: Mapping[str, tuple[str, Callable[[np.random.Generator], Script]]] = {
    "script": ("thinks every push through", lambda rng: Pusher(_goal())),
    "fast": ("the same at full speed", lambda rng: Pusher(_goal(), speed=1.0)),
    "slow": ("the same at a third of the speed", lambda rng: Pusher(_goal(), speed=0.2)),
    "late": ("waits for five seconds first", lambda rng: Late(Pusher(_goal()), 25)),
    "careless": ("does not care about the angle", lambda rng: Pusher(_goal(), turns=0.0)),
    "shaky": ("a third of its controls are random", lambda rng: Shaky(Pusher(_goal()), rng, 0.33)),
    "drunk": ("two thirds of its controls are random", lambda rng: Shaky(Pusher(_goal()), rng, 0.67)),
    "crooked": ("aims 40 pixels aside and 40 degrees turned", lambda rng: Pusher(_goal(40, 0.7))),
    "random": ("bumps into the T at random", lambda rng: Wander(rng)),
    "still": ("does nothing", lambda rng: still),
}
"""What each one does, and its script."""


@dataclass(frozen=True)
class Row:
    """One policy: its score by side, with an interval over starts."""

    policy: str
    scores: Mapping[str, Estimate]


def starts_of(engine: Engine, count: int) -> list[Moment]:
    """Starts near enough to the goal that ten seconds can be enough."""
    rng, found = np.random.default_rng(SEED), list[Moment]()
    while len(found) < count:
        state = random_state(rng)
        turn = (state[4] - GOAL[2] + np.pi) % (2 * np.pi) - np.pi
        if np.linalg.norm(state[2:4] - GOAL[:2]) < NEAR and abs(turn) < TURNED:
            found.append(engine.begin(state))
    return found


def scripts_of(policy: str, count: int) -> list[Script]:
    """The policy of every start; what it draws depends on its name and the start."""
    make_script = POLICIES[policy][1]
    number = list(POLICIES).index(policy)
    return [make_script(np.random.default_rng((SEED, number, start))) for start in range(count)]


def in_engine(
    engine: Engine, reader: StateReader, policy: str, starts: Sequence[Moment], latents: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the environment's truth and of its read pictures, one for each start."""
    known, seen = [], []
    for start, script in zip(starts, scripts_of(policy, len(starts)), strict=True):
        moment = engine.begin(start.state_5)
        for _ in range(latents):
            moment = engine.go(np.clip(script(_read(reader, moment.picture_hw3[None])[0]), -1, 1))
        known.append(coverage(moment.state_5[2:]))
        seen.append(coverage(_read(reader, moment.picture_hw3[None])[0, 2:]))
    return np.array(known), np.array(seen)


def in_world(
    world: PushWorld, reader: StateReader, policy: str, starts: Sequence[Moment], latents: int, seed: int = 0
) -> np.ndarray:
    """Scores of the world model's pictures, one for each start; all episodes in one batch."""
    scripts = scripts_of(policy, len(starts))
    rest = world.spec.actions.commanded(torch.zeros(1, dtype=torch.int64))
    pictures = torch.from_numpy(np.stack([start.picture_hw3 for start in starts])).movedim(-1, 1)
    scenarios = [Scenario(f"policies/{i}", rest, picture) for i, picture in enumerate(pictures)]
    walk = start_walk(world, scenarios, seed)
    for _ in range(latents):
        states = _read(reader, walk.frames_PF3hw[:, -1].movedim(1, -1).numpy())
        controls = np.stack([np.clip(s(state), -1, 1) for s, state in zip(scripts, states, strict=True)])
        walk = walk.step(ControlValues(torch.from_numpy(controls).float()[:, None]))
    last = _read(reader, walk.frames_PF3hw[:, -1].movedim(1, -1).numpy())
    return np.array([coverage(state[2:]) for state in last])


def _read(reader: StateReader, pictures_Nhw3: np.ndarray) -> np.ndarray:
    return reader.read(torch.from_numpy(np.ascontiguousarray(pictures_Nhw3)).movedim(-1, 1)).state_N5


def scores_of(
    worlds: Mapping[str, PushWorld],
    reader: StateReader,
    starts: int,
    latents: int = LATENTS,
    policies: Sequence[str] = tuple(POLICIES),
) -> dict[str, np.ndarray]:
    """Scores (policies, starts) of every side."""
    engine = Engine()
    found: dict[str, list[np.ndarray]] = {side: [] for side in (ENGINE, PIXELS, *worlds)}
    moments = starts_of(engine, starts)
    for policy in policies:
        known, seen = in_engine(engine, reader, policy, moments, latents)
        found[ENGINE].append(known)
        found[PIXELS].append(seen)
        for side, world in worlds.items():
            found[side].append(in_world(world, reader, policy, moments, latents))
        print(
            policy, {side: round(float(values[-1].mean()), 3) for side, values in found.items()}, flush=True
        )
    return {side: np.stack(values) for side, values in found.items()}


MEASURES: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "spearman": rank_correlation,
    "kendall": kendall,
    "error": lambda true, other: float(np.abs(other - true).mean()),
    "bias": lambda true, other: float((other - true).mean()),
}
"""Of the policies' scores in the environment and elsewhere; errors are shares of the goal."""


def agreement(scores: Mapping[str, np.ndarray]) -> dict[str, dict[str, Estimate]]:
    """Measures of every side against the environment, with intervals over starts; ``change``: trained - base."""
    true_PS = scores[ENGINE]
    rows = resamples([str(i) for i in range(true_PS.shape[1])], 0, RESAMPLES)
    drawn: dict[str, dict[str, np.ndarray]] = {}
    found: dict[str, dict[str, Estimate]] = {}
    for side in (s for s in scores if s != ENGINE):
        for name, measure in MEASURES.items():
            pairs = ((true_PS[:, row].mean(1), scores[side][:, row].mean(1)) for row in rows)
            values = np.array([measure(*pair) for pair in pairs])
            mean = measure(true_PS.mean(1), scores[side].mean(1))
            drawn.setdefault(side, {})[name] = values
            found.setdefault(side, {})[name] = bootstrap(values, mean, true_PS.shape[1])
    if TRAINED in found:
        found["change"] = {
            name: bootstrap(
                drawn[TRAINED][name] - drawn[BASE][name],
                found[TRAINED][name].mean - found[BASE][name].mean,
                true_PS.shape[1],
            )
            for name in MEASURES
        }
    return found


def rows_of(scores: Mapping[str, np.ndarray], policies: Sequence[str] = tuple(POLICIES)) -> list[Row]:
    """Each policy's mean score by side."""
    count = scores[ENGINE].shape[1]
    rows = resamples([str(i) for i in range(count)], 0, RESAMPLES)
    return [
        Row(
            policy,
            {s: bootstrap(v[index][rows].mean(1), float(v[index].mean()), count) for s, v in scores.items()},
        )
        for index, policy in enumerate(policies)
    ]


def page(rows: Sequence[Row], found: Mapping[str, Mapping[str, Estimate]]) -> str:
    """Both tables, as they stand in the tutorial."""
    sides = list(rows[0].scores)
    lines = ["| policy | what it does | " + " | ".join(sides) + " |", "|---" * (2 + len(sides)) + "|"]
    for row in rows:
        cells = " | ".join(row.scores[side].in_percent(digits=0) for side in sides)
        lines.append(f"| {row.policy} | {POLICIES[row.policy][0]} | {cells} |")
    lines += [
        "",
        "| against the environment | " + " | ".join(MEASURES) + " |",
        "|---" * (1 + len(MEASURES)) + "|",
    ]
    for side, measures in found.items():
        cells = " | ".join(f"{e.mean:.2f} [{e.low:.2f}, {e.high:.2f}]" for e in measures.values())
        lines.append(f"| {side} | {cells} |")
    return "\n".join(lines)


def to_json(rows: Sequence[Row], found: Mapping[str, Mapping[str, Estimate]]) -> dict[str, object]:
    """Both tables as JSON values."""
    return {
        "policies": {row.policy: {side: e.to_json() for side, e in row.scores.items()} for row in rows},
        "agreement": {side: {name: e.to_json() for name, e in m.items()} for side, m in found.items()},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, default=None, metavar="FOLDER", help="weights of the base")
    parser.add_argument("--after", type=Path, default=None, metavar="RUN", help="a post-trained run")
    parser.add_argument("--reader", type=Path, default=HERE / "weights", metavar="FOLDER")
    parser.add_argument("--starts", type=int, default=40, metavar="N")
    parser.add_argument("--out", type=Path, default=None, metavar="FILE", help="the tables as JSON")
    parser.add_argument(
        "--quick", action="store_true", help="two short episodes of two policies, to see that it works"
    )
    args = parser.parse_args(arguments)
    worlds = {BASE: make(args.before)} | ({} if args.after is None else {TRAINED: make(args.after)})
    starts, latents, policies = (
        (2, 2, list(POLICIES)[-2:]) if args.quick else (args.starts, LATENTS, list(POLICIES))
    )
    scores = scores_of(worlds, load_reader(args.reader), starts, latents, policies)
    rows, found = rows_of(scores, policies), agreement(scores)
    print(page(rows, found))
    if args.out:
        args.out.write_text(json.dumps(to_json(rows, found), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
