"""The embedded Doom world as a Gymnasium environment."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from worldcompass.env import MAX_STEPS, Observes, Reward, WorldEnv, WorldVectorEnv
from worldcompass.runs.folder import weights_folder
from worldcompass.types import Scenario
from worldcompass.world import WorldModel


def doom_starts(maps: str = "training") -> list[Scenario]:
    """Start images of the evaluation's scenarios, from the engine: on maps the world was trained on, or ``unseen``.

    Raises:
        ValueError: for another word.
    """
    if maps not in ("training", "unseen"):
        raise ValueError(f"maps is {maps!r}, expected training or unseen")
    return list(_starts(maps == "unseen"))


@cache
def _starts(unseen: bool) -> tuple[Scenario, ...]:
    """Kept, as the engine takes a second to begin on every map and each environment asks."""
    from worldcompass.worlds.doom.engine.scenarios import evaluation_plans, replay_all

    return tuple(replace(s, truth=None) for s in replay_all(evaluation_plans(unseen), 1))


def make_doom(
    weights: str | Path | None = None,
    maps: str = "training",
    reward: Reward | None = None,
    max_steps: int = MAX_STEPS,
    num_steps: int | None = None,
    render_mode: str | None = None,
    observes: Observes = "step",
    device: str = "cpu",
) -> WorldEnv:
    """What ``gymnasium.make("worldcompass/Doom-v0")`` calls.

    Args:
        weights: folder of a finished run or of weights, such as ``runs/demo``; the package's own when None.
        maps: ``training`` or ``unseen``.
        reward: see ``WorldEnv``, as are the others.
        device: of PyTorch, such as ``cuda``; observations are NumPy arrays on any.
    """
    world = _world(weights, device)
    return WorldEnv(
        world,
        doom_starts(maps),
        reward=reward,
        max_steps=max_steps,
        num_steps=num_steps,
        render_mode=render_mode,
        observes=observes,
    )


def _world(weights: str | Path | None, device: str) -> WorldModel[Any]:
    from worldcompass.worlds.doom.world import WEIGHTS, load_doom_world

    folder = None if weights is None else weights_folder(Path(weights), WEIGHTS.net)
    return load_doom_world(folder, device)


def make_doom_vector(
    num_envs: int = 1,
    weights: str | Path | None = None,
    maps: str = "training",
    reward: Reward | None = None,
    max_steps: int = MAX_STEPS,
    num_steps: int | None = None,
    render_mode: str | None = None,
    observes: Observes = "step",
    device: str = "cpu",
) -> WorldVectorEnv:
    """What ``gymnasium.make_vec("worldcompass/Doom-v0", vectorization_mode="vector_entry_point")`` calls."""
    return WorldVectorEnv(
        _world(weights, device),
        doom_starts(maps),
        num_envs,
        reward=reward,
        max_steps=max_steps,
        num_steps=num_steps,
        render_mode=render_mode,
        observes=observes,
    )
