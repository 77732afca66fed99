"""Scenarios inside the package with the engine's own continuation, so that using them needs no engine and no GL.

A set is two files: ``NAME.json`` with the plans, and ``NAME.xz`` with all frames. Most of a frame repeats the one
before, so frames compress well without loss: about 600 bytes each.
"""

from __future__ import annotations

import lzma
from collections.abc import Sequence
from functools import cache
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.runs.atomic import writing
from worldcompass.runs.reading import reason
from worldcompass.types import Scenario, Truth
from worldcompass.worlds.hands.actions import ACTIONS
from worldcompass.worlds.hands.facts import CONTROLS, FRAMES_PER_LATENT
from worldcompass.worlds.hands.scenarios import Plan, read_plans, write_plans
from worldcompass.worlds.hands.splits import Scene, scene

Set = Literal["evaluation", "errands", "training", "probes"]
SETS: tuple[Set, ...] = ("evaluation", "errands", "training", "probes")
"""The evaluation, tasks with instructions, scenarios to train on, and short ones for probes during training."""

FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4, "lp": 0, "pb": 0}]
"""Settings of the compression: bytes without alignment."""


def composites_of(labels: Sequence[int]) -> Tensor:
    """The action space's composites of the engine's composite actions; int64 (M,)."""
    return torch.tensor([ACTIONS.composite([int(sign) for sign in CONTROLS[label]]) for label in labels])


def scenario_of(plan: Plan, frames_Fhw3: np.ndarray) -> Scenario:
    """A plan with its frames as a scenario: start image, commands and the engine's continuation."""
    latents = (len(frames_Fhw3) - 1) // FRAMES_PER_LATENT + 1
    frames = torch.from_numpy(frames_Fhw3).movedim(-1, -3).contiguous()
    commanded = ACTIONS.commanded(composites_of(plan.labels[:latents]))
    did = ACTIONS.commanded(composites_of((plan.done or plan.labels)[:latents]))
    return Scenario(
        plan.id,
        commanded,
        image_3hw=frames[0],
        instruction=plan.instruction,
        kind=plan.kind,
        truth=Truth(frames, did),
    )


def write_set(folder: Path, name: Set, plans: Sequence[Plan], frames: Sequence[np.ndarray]) -> None:
    """Store plans and their frames (F, h, w, 3), all of one length."""
    plain = BytesIO()
    np.save(plain, np.stack(frames), allow_pickle=False)
    write_plans(folder / f"{name}.json", plans)
    with writing(folder / f"{name}.xz") as unfinished:
        unfinished.write_bytes(lzma.compress(plain.getvalue(), filters=FILTERS))


def read_set(folder: Path, name: Set) -> list[tuple[Plan, np.ndarray]]:
    """What ``write_set`` stored.

    Raises:
        UserError: when the files are missing or damaged.
    """
    plans = read_plans(folder / f"{name}.json")
    path = folder / f"{name}.xz"
    try:
        whole = np.load(BytesIO(lzma.decompress(path.read_bytes())), allow_pickle=False)
    except (OSError, ValueError, lzma.LZMAError) as why:
        raise UserError(
            f"{path} holds no frames of Hands scenarios ({reason(why)}): install the package again"
        ) from why
    if len(whole) != len(plans):
        raise UserError(f"{path} has frames of {len(whole)} scenarios, {len(plans)} are planned")
    return list(zip(plans, whole, strict=True))


@cache
def shipped(name: Set) -> tuple[tuple[Plan, Scenario], ...]:
    """The plans of a set of the package with their whole scenarios."""
    folder = Path(str(resources.files("worldcompass.worlds.hands") / "footage"))
    return tuple((plan, scenario_of(plan, frames)) for plan, frames in read_set(folder, name))


def scene_of(scenario_id: str) -> Scene:
    """The scene of a scenario of the package.

    Raises:
        UserError: for any other scenario.
    """
    scenes = _scenes()
    if scenario_id not in scenes:
        raise UserError(f"scenario {scenario_id} is none of the package's: its scene is not known")
    return scenes[scenario_id]


@cache
def _scenes() -> dict[str, Scene]:
    plans = [plan for name in SETS for plan, _ in shipped(name)]
    return {plan.id: scene(plan.split, plan.number) for plan in plans}


def shipped_scenarios(name: Set, latents: int) -> list[Scenario]:
    """The scenarios of a set, their first latents.

    Raises:
        UserError: when they are shorter.
    """
    return [shortened(scenario, latents) for _, scenario in shipped(name)]


def shortened(scenario: Scenario, latents: int) -> Scenario:
    """The first latents of a scenario with the engine's continuation.

    Raises:
        UserError: when it is shorter.
    """
    truth = scenario.truth
    assert truth is not None
    if len(scenario.actions) < latents:
        raise UserError(
            f"scenario {scenario.id} of the package has {len(scenario.actions)} latents, {latents} are asked for:"
            " lower the recipe's latents"
        )
    frames = slice(0, FRAMES_PER_LATENT * (latents - 1) + 1)
    return Scenario(
        scenario.id,
        scenario.actions.latents(0, latents),
        image_3hw=scenario.image_3hw,
        instruction=scenario.instruction,
        kind=scenario.kind,
        truth=truth.part(frames, 0, latents),
    )
