"""The judge's scenarios and videos in the embedded world.

The judge sees the frozen evaluation scenarios and further ones that were drawn once. Its twin, for choosing
settings, sees other starts on the training maps alone: neither ever sees an episode of the other.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.judging.filming import (
    AFTER,
    CHUNK,
    Reel,
    imagine,
    step_after_truth,
    through_autoencoder,
)
from worldcompass.judging.sources import BASE, TRAINED, Sources, Steps
from worldcompass.judging.twin import twin_seed
from worldcompass.media.progress import progress
from worldcompass.runs.atomic import write_json, writing
from worldcompass.runs.folder import claim, weights_folder
from worldcompass.runs.metrics import read_object
from worldcompass.types import Scenario
from worldcompass.worlds.doom.engine.maps import TRAINING, UNSEEN, DoomMap
from worldcompass.worlds.doom.engine.scenarios import (
    KINDS,
    Plan,
    draw_all,
    evaluation_plans,
    replay_all,
    scenarios_hash,
)
from worldcompass.worlds.doom.world import SPEC, WEIGHTS, DoomWorld, load_doom_world, shipped_weights

Role = Literal["judge", "twin"]
LATENTS = 32  # 125 frames
EPISODES_SEED: dict[Role, int] = {"judge": 9_117, "twin": 5_226}
"""Of the drawn episodes; independent of ``--seed``, which sets noise and networks."""

MOST: dict[Role, int] = {"judge": 168, "twin": 96}
"""Scenarios."""
RECORD, SCENES = "judge.json", "scenes.json"
PLACE = 128.0  # map units: starts within one square are one place


@dataclass(frozen=True)
class Scenes:
    """The real side: scenarios, and other episodes from the same maps in the same order."""

    scenarios: list[Scenario]
    groups: list[str]
    regions: list[str]
    others: list[Scenario]


def scenes(role: Role, count: int, latents: int = LATENTS) -> Scenes:
    """Draw and replay the scenarios of the judge or its twin, spread over maps and kinds.

    Args:
        role: whose.
        count: of scenarios.
        latents: of each.

    Raises:
        UserError: when there are not as many scenarios.
    """
    if not 8 <= count <= MOST[role]:
        raise UserError(
            f"the {role} has 8 to {MOST[role]} scenarios, got {count}: choose another --scenarios"
        )
    maps: tuple[DoomMap, ...] = (*TRAINING, *UNSEEN) if role == "judge" else TRAINING
    per_map = -(-count // (len(maps) * len(KINDS)))
    seed = EPISODES_SEED[role]
    frozen = evaluation_plans() if role == "judge" else []
    if count < len(frozen):
        frozen = _spread(frozen, per_map)
    with progress("replaying the scenarios in the engine", count) as advance:
        known = list(zip(frozen, replay_all(frozen, latents, advance), strict=True))
        further = max(0, count - len(known))
        each = -(-further // (len(maps) * len(KINDS)))
        if each:
            known += draw_all(maps, KINDS, each, latents, seed, f"{role} further", advance)
    kept = _even(known, count)
    regions = [plan.map_name for plan, _ in kept]
    with progress("playing other episodes in the engine", count) as advance:
        most = max(regions.count(name) for name in set(regions))
        drawn = draw_all(maps, ("mixed",), most, latents, seed, f"{role} other", advance)
    pools = {m.name: [(plan, s) for plan, s in drawn if plan.map_name == m.name] for m in maps}
    others = [pools[name].pop(0) for name in regions]
    return Scenes(
        [s for _, s in kept],
        [place_of(plan) for plan, _ in kept],
        regions,
        [s for _, s in others],
    )


def _spread(plans: Sequence[Plan], per_map_and_kind: int) -> list[Plan]:
    """At most so many plans of every map and kind, in their order."""
    seen: dict[tuple[str, str], int] = {}
    kept = []
    for plan in plans:
        key = (plan.map_name, plan.kind)
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= per_map_and_kind:
            kept.append(plan)
    return kept


def _even(known: Sequence[tuple[Plan, Scenario]], count: int) -> list[tuple[Plan, Scenario]]:
    """``count`` scenarios, taken from the maps and kinds in turn."""
    queues: dict[tuple[str, str], list[tuple[Plan, Scenario]]] = {}
    for plan, scenario in known:
        queues.setdefault((plan.map_name, plan.kind), []).append((plan, scenario))
    kept: list[tuple[Plan, Scenario]] = []
    while len(kept) < count and any(queues.values()):
        for queue in queues.values():
            if queue and len(kept) < count:
                kept.append(queue.pop(0))
    return kept


def place_of(plan: Plan) -> str:
    """Map and start of a plan; starts within ``PLACE`` units are one place."""
    if plan.place is None:
        return f"{plan.map_name}/start"
    x, z, _ = plan.place
    return f"{plan.map_name}/{round(x / PLACE)}/{round(z / PLACE)}"


def sources_of(
    runs: Sequence[Path],
    out: Path,
    count: int,
    seed: int,
    device: str,
    role: Role = "judge",
    reuse: Path | None = None,
) -> Sources:
    """All videos of the judge: real, reachable, the shipped base, and the trained weights of every run.

    Run number k and the base's videos number k share their noise. Everything is stored in ``out`` and made once.

    Args:
        runs: finished runs or folders of weights; several are several seeds of one recipe.
        out: a new folder, or one with the same judge, which resumes.
        count: of scenarios.
        seed: of the noise.
        device: of the models.
        role: the judge, or its twin.
        reuse: the folder of another run's judge, whose videos of the engine and the base are taken.

    Raises:
        UserError: when weights are missing, ``out`` holds something else, or ``reuse`` is another kind of judge.
    """
    weights = [weights_folder(path, WEIGHTS.net) for path in runs]
    worlds = [load_doom_world(path, device) for path in weights]
    base = load_doom_world(device=device)
    noise = twin_seed(seed) if role == "twin" else seed
    _claim(out, [path / WEIGHTS.net for path in (shipped_weights(), *weights)], count, seed, role)
    if reuse is not None:
        _take(reuse, out)
    if not all((out / f"{name}.safetensors").exists() for name in _names(len(runs))):
        found, reel = scenes(role, count), Reel(out)
        _same_scenes(out, found)
        reel.take("engine", lambda: _true(found.scenarios))
        reel.take("other", lambda: _true(found.others))
        _filmed(reel, "reachable", base, found, through_autoencoder)
        for number, world in enumerate(worlds):
            for name, model in ((BASE, base), (TRAINED, world)):
                label, own = f"{name}_{number}", noise + number
                _filmed(reel, label, model, found, partial(imagine, seed=own))
                _filmed(reel, f"{label}_step", model, found, partial(step_after_truth, seed=own))
    return stored_sources(out)


SHARED = (SCENES, "engine.safetensors", "other.safetensors", "reachable.safetensors")
"""Files that all judges of the same scenarios share; the base's videos are shared too."""


def _take(reuse: Path, out: Path) -> None:
    """Copy the videos of the engine and the base from another judge of the same base, scenarios and seed."""
    own, theirs = (read_object(folder / RECORD, "a judge's record") for folder in (out, reuse))
    same = ("scenarios", "seed", "role")
    if not theirs or theirs["weights"][0] != own["weights"][0] or any(theirs[n] != own[n] for n in same):
        raise UserError(
            f"{reuse} is no judge with the same base, --scenarios and --seed: leave out --reuse, or choose another"
        )
    for path in [*(reuse / name for name in SHARED), *sorted(reuse.glob(f"{BASE}_*.safetensors"))]:
        target = out / path.name
        if path.exists() and not target.exists():
            with writing(target) as unfinished:
                shutil.copyfile(path, unfinished)


def _names(runs: int) -> list[str]:
    """All videos of a judge of so many runs."""
    models = [f"{name}_{number}" for number in range(runs) for name in (BASE, TRAINED)]
    return ["engine", "other", "reachable", *models, *(f"{name}_step" for name in models)]


def stored_sources(folder: Path) -> Sources:
    """The videos of a judge that were made before.

    Raises:
        UserError: when the folder holds no complete judge.
    """
    found = read_object(folder / SCENES, "the judge's scenarios")
    runs = len(list(folder.glob(f"{TRAINED}_[0-9].safetensors")))
    missing = [name for name in _names(runs) if not (folder / f"{name}.safetensors").exists()]
    if not found or not runs or missing:
        raise UserError(
            f"{folder} holds no complete judge: make one with 'worldcompass judge RUN --out {folder}'"
        )
    reel = Reel(folder)

    def models(ending: str) -> dict[str, Tensor]:
        return {
            name: torch.stack([reel.stored(f"{name}_{number}{ending}") for number in range(runs)])
            for name in (BASE, TRAINED)
        }

    scenarios, groups, regions = (tuple(found[name]) for name in ("scenarios", "groups", "regions"))
    engine, other, reachable = (reel.stored(name) for name in ("engine", "other", "reachable"))
    steps = Steps(SPEC.num_frames(0, AFTER * CHUNK), models("_step"))
    return Sources(scenarios, groups, regions, engine, other, reachable, models(""), steps)


def _filmed(
    reel: Reel, name: str, world: DoomWorld, found: Scenes, make: Callable[..., Tensor]
) -> Tensor:  # fmt: skip
    """Stored videos, or new ones with a progress bar."""

    def film() -> Tensor:
        with progress(f"filming {name.replace('_', ' ')}", len(found.scenarios)) as advance:
            return make(world, found.scenarios, on_video=advance)

    return reel.take(name, film)


def _true(scenarios: Sequence[Scenario]) -> Tensor:
    return torch.stack([s.truth.frames_F3hw for s in scenarios if s.truth is not None])


def _claim(out: Path, weights: Sequence[Path], count: int, seed: int, role: Role) -> None:
    """Create the folder, or check that it holds the same judge."""
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in weights]
    facts = {"weights": digests, "scenarios": count, "seed": seed, "role": role}
    found = claim(out, out / RECORD, facts, "a judge")
    if found is not None and found != facts:
        changed = ", ".join(name for name in facts if found.get(name) != facts[name])
        raise UserError(f"{out} holds a judge with other {changed}: choose another --out")


def _same_scenes(out: Path, found: Scenes) -> None:
    """Refuse to mix videos of other scenarios, which another version of the engine would draw."""
    path, digest = out / SCENES, scenarios_hash([*found.scenarios, *found.others])
    if not path.exists():
        names = {
            "scenarios": [s.id for s in found.scenarios],
            "groups": found.groups,
            "regions": found.regions,
        }
        write_json(path, {"sha256": digest, **names})
    elif read_object(path, "the judge's scenarios").get("sha256") != digest:
        raise UserError(
            f"{out} holds videos of other scenarios: install the same vizdoom, or choose another --out"
        )
