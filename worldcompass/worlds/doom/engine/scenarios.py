"""Scenarios of the Doom world: fixed ones for the evaluation, and fresh ones for post-training.

A plan stores the start and the commands; the engine replays it to make the start image and its continuation. The
engine executes every command of an evaluation scenario exactly.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch

from worldcompass.errors import UserError
from worldcompass.evaluate import KINDS
from worldcompass.geometry import opposite
from worldcompass.runs.atomic import write_text
from worldcompass.types import CameraMoves, Scenario, Truth
from worldcompass.worlds.doom.engine import collect
from worldcompass.worlds.doom.engine.engine import Engine, Steps, poses_from_cameras
from worldcompass.worlds.doom.engine.facts import ACTIONS, FRAMES_PER_LATENT
from worldcompass.worlds.doom.engine.feasible import MIX, feasible_latents
from worldcompass.worlds.doom.engine.maps import TRAINING, UNSEEN, DoomMap, find_map
from worldcompass.worlds.trajectories import HOLD_MAX, HOLD_MIN, draw_motion

LONGEST_LATENTS = 96  # 381 frames
OUT_MAX = 4  # most latents of a motion before its return, so that most chunks revisit a view
FILE = "evaluation_scenarios.json"


@dataclass(frozen=True)
class Plan:
    """The start and commands of a scenario, from which the engine replays it."""

    id: str
    map_name: str
    kind: str
    seed: int
    place: tuple[float, float, float] | None
    """x, z in map units and yaw in degrees; None for the start of the map."""
    labels: tuple[int, ...]


def replay(engine: Engine, plan: Plan, latents: int) -> Scenario | None:
    """The scenario with its start image and the engine's continuation; None when the map's script ends it."""
    steps = engine.reset(plan.seed, plan.place)
    if engine.finished():
        return None
    seen = [steps]
    for action in plan.labels[1:latents]:
        moved = engine.act(action)
        if moved is None:
            return None
        seen.append(moved)
    return _scenario(plan, seen, latents)


def _scenario(plan: Plan, seen: list[Steps], latents: int) -> Scenario:
    frames = torch.from_numpy(np.concatenate([s.frames_Fhw3 for s in seen])).movedim(-1, -3).contiguous()
    cameras = np.concatenate([s.cameras_F5 for s in seen])
    actions = ACTIONS.commanded(torch.tensor(plan.labels[:latents]))
    poses = poses_from_cameras(cameras[::FRAMES_PER_LATENT])
    truth = Truth(frames, CameraMoves(collect.true_labels(cameras), poses, actions.intrinsics_K4))
    return Scenario(plan.id, actions, image_3hw=frames[0], kind=plan.kind, truth=truth)


def draw(
    engine: Engine,
    rng: np.random.Generator,
    name: str,
    kind: str,
    latents: int,
    places: list[np.ndarray],
    out_and_back: bool = False,
) -> tuple[Plan, Scenario] | None:
    """Try to draw a scenario of a kind on a running engine; None when a command is not executed exactly.

    With ``out_and_back`` every motion is followed by its opposite of the same length.
    """
    place = collect.start_place(engine, rng, places)
    seed = int(rng.integers(2**31))
    steps = engine.reset(seed, place)
    if engine.finished() or engine.walls_L4 is None:
        return None
    labels, seen, hold, action, way_back = [0], [steps], 0, 0, 0
    while len(labels) < latents:
        if hold == 0 and way_back:
            action, hold, way_back = opposite(action), way_back, 0
        elif hold == 0:
            action, hold = _segment(rng, kind, seen[-1].cameras_F5[-1], engine.walls_L4)
            if hold == 0:
                return None
            if out_and_back:
                hold = way_back = min(hold, OUT_MAX)
        moved = engine.act(action)
        if moved is None:
            return None
        labels.append(action)
        seen.append(moved)
        places.append(moved.cameras_F5[-1])
        hold -= 1
    plan = Plan(name, engine.map.name, kind, seed, place, tuple(labels))
    scenario = _scenario(plan, seen, latents)
    wanted = scenario.actions.cameras.labels_K
    carried_out = scenario.truth is not None and scenario.truth.actions.cameras.labels_K.equal(wanted)
    return (plan, scenario) if carried_out else None


def _segment(
    rng: np.random.Generator, kind: str, camera_5: np.ndarray, walls_L4: np.ndarray
) -> tuple[int, int]:
    """A feasible motion of a kind and its number of latents; (0, 0) when none is found."""
    for _ in range(200):
        action = draw_motion(rng, MIX)
        if kind == "mixed" or ACTIONS.kind(action) == kind:
            hold = feasible_latents(action, int(rng.integers(HOLD_MIN, HOLD_MAX + 1)), camera_5, walls_L4)
            if hold >= HOLD_MIN:
                return action, hold
    return 0, 0


def draw_all(
    maps: Sequence[DoomMap],
    kinds: Sequence[str],
    per_map_and_kind: int,
    latents: int,
    seed: int,
    prefix: str,
    on_scenario: Callable[[], None] = lambda: None,
    out_and_back: bool = False,
) -> list[tuple[Plan, Scenario]]:
    """Scenarios that the engine executes exactly, the same number for every map and kind."""
    drawn = []
    for doom_map in maps:
        digest = hashlib.sha256(f"{prefix}/{seed}/{doom_map.name}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:4], "little"))
        places: list[np.ndarray] = []
        with Engine(doom_map) as engine:
            for kind in kinds:
                count = 0
                while count < per_map_and_kind:
                    name = f"{prefix}/{doom_map.name}/{kind}/{count}"
                    found = draw(engine, rng, name, kind, latents, places, out_and_back)
                    if found is not None:
                        drawn.append(found)
                        count += 1
                        on_scenario()
    return drawn


def replay_all(
    plans: Sequence[Plan], latents: int, on_scenario: Callable[[], None] = lambda: None
) -> list[Scenario]:
    """Replay plans in their order, one engine per map.

    Raises:
        UserError: when the installed engine ends a plan early.
    """
    done: dict[str, Scenario] = {}
    for map_name in dict.fromkeys(p.map_name for p in plans):
        with Engine(find_map(map_name)) as engine:
            for plan in (p for p in plans if p.map_name == map_name):
                scenario = replay(engine, plan, latents)
                if scenario is None:
                    raise UserError(
                        f"ViZDoom ended scenario {plan.id} early: install the pinned vizdoom version"
                    )
                done[plan.id] = scenario
                on_scenario()
    return [done[p.id] for p in plans]


def evaluation_plans(unseen: bool | None = None) -> list[Plan]:
    """The fixed scenarios of the package: held-out starts on training maps, and unseen maps."""
    text = (resources.files("worldcompass.worlds.doom.engine") / FILE).read_text(encoding="utf-8")
    plans = [Plan(**{**row, "labels": tuple(row["labels"])}) for row in json.loads(text)]
    if unseen is None:
        return plans
    names = {m.name for m in UNSEEN}
    return [p for p in plans if (p.map_name in names) == unseen]


def training_scenarios(
    count_per_map: int,
    latents: int,
    seed: int,
    on_scenario: Callable[[], None] = lambda: None,
    out_and_back: bool = False,
) -> list[Scenario]:
    """Fresh scenarios on the training maps for post-training, with ids that start with ``train/``."""
    drawn = draw_all(TRAINING, ("mixed",), count_per_map, latents, seed, "train", on_scenario, out_and_back)
    return [scenario for _, scenario in drawn]


def freeze_evaluation(path: Path, per_map_and_kind: int = 6, seed: int = 2026) -> None:
    """Draw and write the evaluation scenarios. They are fixed independently of any result of post-training."""
    drawn = draw_all(TRAINING, KINDS, per_map_and_kind, LONGEST_LATENTS, seed, "heldout")
    drawn += draw_all(UNSEEN, KINDS, per_map_and_kind // 2, LONGEST_LATENTS, seed, "unseen")
    write_text(path, "[\n" + ",\n".join(json.dumps(asdict(plan)) for plan, _ in drawn) + "\n]\n")
