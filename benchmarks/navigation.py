"""Does post-training make the simulator more faithful to a robot that navigates in it?

``python benchmarks/navigation.py runs/demo`` lets one simple policy (walk where there is room, else turn
right; it sees pixels alone) act in the real engine, in the base world model and in the post-trained one, from
the evaluation's starts. For each model it prints how often the policy decided there as in the engine, and how
far the robot ended from where it ended in the engine, with paired bootstrap intervals over starts.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldcompass.doom.autoencoder import Autoencoder
from worldcompass.doom.engine import Engine, poses_from_cameras
from worldcompass.doom.maps import find_map
from worldcompass.doom.scenarios import Plan, evaluation_plans, replay_all
from worldcompass.evaluate import interval
from worldcompass.geometry import level_motion, parse_path
from worldcompass.types import Scenario
from worldcompass.walk import start_walk
from worldcompass.worlds.doom import SPEC, DoomWorld, load_doom_world

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
    decisions, ends = [], []
    for plan in plans:
        with Engine(find_map(plan.map_name)) as engine:
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
        decisions.append(torch.tensor(labels))
        ends.append(level_motion(poses[0], poses[1])[:2])
    return torch.stack(decisions), torch.stack(ends)


def in_model(world: DoomWorld, scenarios: Sequence[Scenario], steps: int, seed: int) -> tuple[Tensor, Tensor]:
    """The same in a world model; the robot believes that it moved as it meant to."""
    walk = start_walk(world, scenarios, seed)
    for _ in range(steps):
        walk = walk.step(decide(world.autoencoder, walk.frames_PF3hw[:, -1]))
    poses = walk.world_from_camera_PM44
    return walk.labels_PM[:, 1:], level_motion(poses[:, 0], poses[:, -1])[:, :2]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "run", type=Path, help="folder of a finished run, whose weights are compared with the base"
    )
    parser.add_argument("--steps", type=int, default=24, help="decisions per start (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="take every so many-th start (default: all)")
    args = parser.parse_args()
    worlds = {"base": load_doom_world(), "trained": load_doom_world(args.run / "weights")}
    plans = evaluation_plans()[:: args.every]
    starts = replay_all(plans, 1)
    truth, true_ends = in_engine(worlds["base"].autoencoder, plans, args.steps)
    scores = {}
    for name, world in worlds.items():
        decisions, ends = in_model(world, starts, args.steps, args.seed)
        scores[name] = {
            "decisions as in the engine": (decisions == truth).double().mean(1).numpy(),
            "distance from the engine's end (steps)": (ends - true_ends).norm(dim=1).numpy()
            / SPEC.motion.move,
        }
    picks = np.random.default_rng(0).integers(len(plans), size=(RESAMPLES, len(plans)))
    walked = true_ends.norm(dim=1).mean() / SPEC.motion.move
    print(
        f"{len(plans)} starts, {args.steps} decisions, the engine's robot ended {walked:.1f} steps from its start"
    )
    for what in scores["base"]:
        rows = {
            **{n: s[what] for n, s in scores.items()},
            "difference": scores["trained"][what] - scores["base"][what],
        }
        for name, values in rows.items():
            found = interval(values[picks].mean(1), values.mean(), len(values))
            low, high = found["ci95"]
            print(f"{what}, {name}: {found['mean']:.3f} [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    main()
