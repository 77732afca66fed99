"""The judge's videos of a world: real, reachable, and of the models; each is stored and made once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.evaluate import scenarios_hash
from worldcompass.judging.filming import (
    AFTER,
    BATCH,
    Reel,
    imagine,
    step_after_truth,
    through_autoencoder,
)
from worldcompass.judging.sources import BASE, TRAINED, Sources, Steps
from worldcompass.judging.twin import twin_seed
from worldcompass.media.progress import progress
from worldcompass.runs.atomic import write_json, writing
from worldcompass.runs.folder import claim
from worldcompass.runs.metrics import read_object
from worldcompass.types import Scenario
from worldcompass.ways import ROLLOUT
from worldcompass.world import WorldModel, WorldSpec

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

    spec: WorldSpec
    load: Callable[[Path | None, str], WorldModel[Any]]
    """The world with the weights of a run, or with the base's for None, on a device. An earlier one is given up."""
    identify: Callable[[Path | None], str]
    """A digest of the weights of a run, or of the base for None.

    Raises:
        UserError: when there are none.
    """
    scenes: Callable[[Role, int], Scenes]
    """So many scenarios of the judge or its twin.

    Raises:
        UserError: when there are not as many.
    """
    remedy: str
    """For videos of other scenarios, such as ``install the same vizdoom``."""
    batch: int = BATCH
    """Scenarios that are filmed at once."""
    shown: Callable[[Tensor], Tensor] = field(default=lambda frames: frames)
    """What is stored and judged of frames (..., 3, h, w), such as smaller ones."""
    computing: Callable[[], AbstractContextManager[Any]] = nullcontext
    """A context for the models' arithmetic, such as autocast."""
    settings: Mapping[str, object] = field(default_factory=dict[str, object])
    """What else the videos depend on, for the record."""


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
    """All videos of the judge: real, reachable, the base, and the trained weights of every run.

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
    facts = {
        "weights": [court.identify(path) for path in (None, *runs)],
        "scenarios": count,
        "seed": seed,
        "role": role,
        **court.settings,
    }
    _claim(out, facts)
    if reuse is not None:
        _take(reuse, out)
    reel = Reel(out)
    if not all(map(reel.has, _names(len(runs)))):
        found = court.scenes(role, count)
        _same_scenes(court, out, found)
        for path in runs:  # a file of another network is refused before anything is filmed
            court.load(path, device)
        reel.take("engine", lambda: court.shown(_true(found.scenarios)))
        reel.take("other", lambda: court.shown(_true(found.others)))
        noise = twin_seed(seed) if role == "twin" else seed
        numbers = range(len(runs))
        for path, name, own in (
            (None, BASE, numbers),
            *((run, TRAINED, [k]) for k, run in enumerate(runs)),
        ):
            makers = {"reachable": through_autoencoder} if path is None else {}
            for number in own:
                makers[f"{name}_{number}"] = partial(imagine, seed=noise + number)
                makers[f"{name}_{number}_step"] = partial(step_after_truth, seed=noise + number)
            if not all(map(reel.has, makers)):
                world = court.load(path, device)
                for label, make in makers.items():
                    _filmed(court, reel, label, world, found.scenarios, make)
    return stored_sources(out, court.spec)


SHARED = (SCENES, "engine.safetensors", "other.safetensors", "reachable.safetensors")
"""Files that all judges of the same scenarios share; the base's videos are shared too."""


def _take(reuse: Path, out: Path) -> None:
    """Copy the videos of the engine and the base from another judge of the same base and settings."""
    own, theirs = (read_object(folder / RECORD, "a judge's record") for folder in (out, reuse))
    same = own.keys() - {"weights"}
    if not theirs or theirs["weights"][0] != own["weights"][0] or any(theirs.get(n) != own[n] for n in same):
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
    found, reel = read_object(folder / SCENES, "the judge's scenarios"), Reel(folder)
    runs = len(list(folder.glob(f"{TRAINED}_[0-9].safetensors")))
    if not found or not runs or not all(map(reel.has, _names(runs))):
        raise UserError(
            f"{folder} holds no complete judge: make one with 'worldcompass judge RUN --out {folder}'"
        )

    def models(ending: str) -> dict[str, Tensor]:
        return {
            name: torch.stack([reel.stored(f"{name}_{number}{ending}") for number in range(runs)])
            for name in (BASE, TRAINED)
        }

    scenarios, groups, regions = (tuple(found[name]) for name in ("scenarios", "groups", "regions"))
    engine, other, reachable = (reel.stored(name) for name in ("engine", "other", "reachable"))
    first = spec.num_frames(0, AFTER * spec.ways[ROLLOUT].chunk_length)
    return Sources(
        scenarios, groups, regions, engine, other, reachable, models(""), Steps(first, models("_step"))
    )


def _filmed(
    court: Court,
    reel: Reel,
    name: str,
    world: WorldModel[Any],
    scenarios: Sequence[Scenario],
    make: Callable[..., Tensor],
) -> Tensor:
    """Stored videos, or new ones with a progress bar."""

    def film() -> Tensor:
        with progress(f"filming {name.replace('_', ' ')}", len(scenarios)) as advance, court.computing():
            return court.shown(make(world, scenarios, on_video=advance, batch=court.batch))

    return reel.take(name, film)


def _true(scenarios: Sequence[Scenario]) -> Tensor:
    return torch.stack([s.truth.frames_F3hw for s in scenarios if s.truth is not None])


def _claim(out: Path, facts: Mapping[str, object]) -> None:
    """Create the folder, or check that it holds the same judge."""
    found = claim(out, out / RECORD, facts, "a judge")
    if found is not None and found != facts:
        changed = ", ".join(
            name for name in facts.keys() | found.keys() if found.get(name) != facts.get(name)
        )
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
