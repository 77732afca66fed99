"""The judge's videos of a small world: real, reachable, and of the models; each is stored and made once."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

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
from worldcompass.world import WorldModel, WorldSpec
from worldcompass.worlds.small.post_training.evaluation import scenarios_hash
from worldcompass.worlds.small.weights import WeightFiles

Role = Literal["judge", "twin"]
RECORD, SCENES = "judge.json", "scenes.json"


@dataclass(frozen=True)
class Scenes:
    """The real side: scenarios, and other episodes from the same regions in the same order."""

    scenarios: list[Scenario]
    groups: list[str]
    regions: list[str]
    others: list[Scenario]


@dataclass(frozen=True)
class Court:
    """What a judge needs of a world."""

    weights: WeightFiles
    spec: WorldSpec
    load: Callable[[Path | None, str], WorldModel[Any]]
    """The world of a folder of weights, or the shipped one, on a device."""
    scenes: Callable[[Role, int], Scenes]
    """So many scenarios of the judge or its twin.

    Raises:
        UserError: when there are not as many.
    """
    remedy: str
    """For videos of other scenarios, such as ``install the same vizdoom``."""


def sources_of(
    court: Court,
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
        court: the world.
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
    own = court.weights
    weights = [weights_folder(path, own.net) for path in runs]
    worlds = [court.load(path, device) for path in weights]
    base = court.load(None, device)
    noise = twin_seed(seed) if role == "twin" else seed
    assert own.shipped is not None
    _claim(out, [path / own.net for path in (own.shipped, *weights)], count, seed, role)
    if reuse is not None:
        _take(reuse, out)
    if not all((out / f"{name}.safetensors").exists() for name in _names(len(runs))):
        found, reel = court.scenes(role, count), Reel(out)
        _same_scenes(court, out, found)
        reel.take("engine", lambda: _true(found.scenarios))
        reel.take("other", lambda: _true(found.others))
        _filmed(reel, "reachable", base, found, through_autoencoder)
        for number, world in enumerate(worlds):
            for name, model in ((BASE, base), (TRAINED, world)):
                label, film_seed = f"{name}_{number}", noise + number
                _filmed(reel, label, model, found, partial(imagine, seed=film_seed))
                _filmed(reel, f"{label}_step", model, found, partial(step_after_truth, seed=film_seed))
    return stored_sources(out, court.spec)


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


def stored_sources(folder: Path, spec: WorldSpec) -> Sources:
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
    steps = Steps(spec.num_frames(0, AFTER * CHUNK), models("_step"))
    return Sources(scenarios, groups, regions, engine, other, reachable, models(""), steps)


def _filmed(
    reel: Reel, name: str, world: WorldModel[Any], found: Scenes, make: Callable[..., Tensor]
) -> Tensor:
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


def _same_scenes(court: Court, out: Path, found: Scenes) -> None:
    """Refuse to mix videos of other scenarios, which another version of the engine would draw."""
    path = out / SCENES
    digest = scenarios_hash([*found.scenarios, *found.others], court.spec.actions)
    if not path.exists():
        names = {
            "scenarios": [s.id for s in found.scenarios],
            "groups": found.groups,
            "regions": found.regions,
        }
        write_json(path, {"sha256": digest, **names})
    elif read_object(path, "the judge's scenarios").get("sha256") != digest:
        raise UserError(f"{out} holds videos of other scenarios: {court.remedy}, or choose another --out")
