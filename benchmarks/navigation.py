"""Does post-training make the simulator more faithful to a robot that navigates in it?

``python benchmarks/navigation.py runs/demo`` lets one simple policy (walk where there is room, else turn
right; it sees pixels alone) act in the real engine, in the base world model and in the post-trained one, from
the evaluation's starts. For each model it prints how well it predicts what happens in the engine: how often the
policy decides there as in the engine, how many steps it is off about when the robot turns for the first time, and
how far the robot ends from where it ends in the engine, with paired bootstrap intervals over starts. Several
runs (other seeds of one recipe) are each compared with the base, and their mean is too.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldcompass.geometry import level_motion, parse_path
from worldcompass.statistics import interval
from worldcompass.types import Scenario
from worldcompass.walk import start_walk
from worldcompass.worlds.doom.engine.engine import Engine, poses_from_cameras
from worldcompass.worlds.doom.engine.maps import find_map
from worldcompass.worlds.doom.engine.scenarios import Plan, evaluation_plans, replay_all
from worldcompass.worlds.doom.network.autoencoder import Autoencoder
from worldcompass.worlds.doom.world import SPEC, DoomWorld, load_doom_world

FORWARD, RIGHT = parse_path("w-1, right-1")[1:].tolist()
CLOSE = 0.35  # nearness (one step over distance) from which a wall is too close to walk on
RESAMPLES = 2000


def decide(autoencoder: Autoencoder, frames_P3hw: Tensor) -> Tensor:
    """The policy: forward where the middle of the picture is far enough, else turn right; (P,)."""
    with torch.no_grad():
        nearness = autoencoder.look(autoencoder.encode(frames_P3hw.float() / 255)).nearness
    rows, columns = nearness.shape[-2:]
    middle = nearness[:, rows // 3 : 2 * rows // 3, columns // 3 : 2 * columns // 3].mean((1, 2))
    return torch.where(middle < CLOSE, FORWARD, RIGHT)


def in_engine(autoencoder: Autoencoder, plans: Sequence[Plan], steps: int) -> tuple[Tensor, Tensor]:
    """Decisions (P, steps) and where the robot ended, right and forward of its start, (P, 2)."""
    done: dict[str, tuple[Tensor, Tensor]] = {}
    for map_name in dict.fromkeys(plan.map_name for plan in plans):
        with Engine(find_map(map_name)) as engine:
            for plan in (plan for plan in plans if plan.map_name == map_name):
                done[plan.id] = _walk(engine, autoencoder, plan, steps)
    decisions, ends = zip(*(done[plan.id] for plan in plans), strict=True)
    return torch.stack(decisions), torch.stack(ends)


def _walk(engine: Engine, autoencoder: Autoencoder, plan: Plan, steps: int) -> tuple[Tensor, Tensor]:
    seen = [engine.reset(plan.seed, plan.place)]
    labels: list[int] = []
    while len(labels) < steps:
        frame = torch.from_numpy(seen[-1].frames_Fhw3[-1].copy()).movedim(-1, 0)
        labels.append(int(decide(autoencoder, frame[None])[0]))
        moved = engine.act(labels[-1])
        assert moved is not None, f"the script of {plan.map_name} ended the episode"
        seen.append(moved)
    cameras = np.concatenate([s.cameras_F5 for s in seen])
    poses = poses_from_cameras(cameras[[0, -1]])
    return torch.tensor(labels), level_motion(poses[0], poses[1])[:2]


def in_model(world: DoomWorld, scenarios: Sequence[Scenario], steps: int, seed: int) -> tuple[Tensor, Tensor]:
    """The same in a world model; the robot believes that it moved as it meant to."""
    walk = start_walk(world, scenarios, seed)
    for _ in range(steps):
        walk = walk.step(decide(world.autoencoder, walk.frames_PF3hw[:, -1]))
    poses = walk.world_from_camera_PM44
    return walk.labels_PM[:, 1:], level_motion(poses[:, 0], poses[:, -1])[:, :2]


def steps_before_turning(decisions_PM: Tensor) -> Tensor:
    """How many decisions come before the first turn, all of them when there is none; float64 (P,)."""
    return (decisions_PM == FORWARD).cumprod(1).sum(1).double()


def errors(found: tuple[Tensor, Tensor], truth: tuple[Tensor, Tensor]) -> dict[str, np.ndarray]:
    """How well decisions and ends in a model predict those in the engine; (P,) each."""
    turning = steps_before_turning(found[0]) - steps_before_turning(truth[0])
    return {
        "decisions as in the engine": (found[0] == truth[0]).double().mean(1).numpy(),
        "error of the first turn (steps)": turning.abs().numpy(),
        "distance from the engine's end (steps)": (found[1] - truth[1]).norm(dim=1).double().numpy()
        / SPEC.motion.move,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    text = "folders of finished runs, whose weights are compared with the base"
    parser.add_argument("runs", type=Path, nargs="+", help=text)
    parser.add_argument("--steps", type=int, default=24, help="decisions per start (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="take every so many-th start (default: all)")
    args = parser.parse_args()
    base = load_doom_world()
    worlds = {"base": base} | {run.name: load_doom_world(run / "weights") for run in args.runs}
    plans = evaluation_plans()[:: args.every]
    starts = replay_all(plans, 1)
    truth = in_engine(base.autoencoder, plans, args.steps)
    scores = {
        name: errors(in_model(world, starts, args.steps, args.seed), truth) for name, world in worlds.items()
    }
    if len(args.runs) > 1:
        trained = [scores[run.name] for run in args.runs]
        scores["mean of runs"] = {what: np.mean([s[what] for s in trained], 0) for what in trained[0]}
    picks = np.random.default_rng(0).integers(len(plans), size=(RESAMPLES, len(plans)))
    walked = float(truth[1].norm(dim=1).mean()) / SPEC.motion.move
    print(
        f"{len(plans)} starts, {args.steps} decisions, the engine's robot ended {walked:.1f} steps from its start"
    )
    for what, of_base in scores["base"].items():
        for name, score in scores.items():
            print(f"{what}, {name}: {_with_interval(score[what], picks)}")
            if name != "base":
                print(f"{what}, {name} less base: {_with_interval(score[what] - of_base, picks)}")


def _with_interval(values_P: np.ndarray, picks_RP: np.ndarray) -> str:
    found = interval(values_P[picks_RP].mean(1), values_P.mean(), len(values_P))
    low, high = found["ci95"]
    return f"{found['mean']:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
