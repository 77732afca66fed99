"""The embedded Doom world as a Gymnasium environment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from worldcompass.env import MAX_STEPS, Reward, WorldEnv, WorldVectorEnv
from worldcompass.types import Scenario


def doom_starts(maps: str = "training") -> list[Scenario]:
    """Start images of the evaluation's scenarios, from the engine: on maps the world was trained on, or ``unseen``.

    Raises:
        ValueError: for another word.
    """
    from worldcompass.worlds.doom.engine.scenarios import evaluation_plans, replay_all

    if maps not in ("training", "unseen"):
        raise ValueError(f"maps is {maps!r}, expected training or unseen")
    return [replace(s, truth=None) for s in replay_all(evaluation_plans(maps == "unseen"), 1)]


def make_doom(
    weights: str | Path | None = None,
    maps: str = "training",
    reward: Reward | None = None,
    max_steps: int = MAX_STEPS,
    num_steps: int | None = None,
    render_mode: str | None = None,
) -> WorldEnv:
    """What ``gymnasium.make("worldcompass/Doom-v0")`` calls.

    Args:
        weights: folder of post-trained weights, such as ``runs/demo/weights``; the package's own when None.
        maps: ``training`` or ``unseen``.
        reward: see ``WorldEnv``, as are the others.
    """
    from worldcompass.worlds.doom.world import load_doom_world

    world = load_doom_world(Path(weights) if weights is not None else None)
    return WorldEnv(
        world,
        doom_starts(maps),
        reward=reward,
        max_steps=max_steps,
        num_steps=num_steps,
        render_mode=render_mode,
    )


def make_doom_vector(
    num_envs: int = 1,
    weights: str | Path | None = None,
    maps: str = "training",
    reward: Reward | None = None,
    max_steps: int = MAX_STEPS,
    num_steps: int | None = None,
) -> WorldVectorEnv:
    """What ``gymnasium.make_vec("worldcompass/Doom-v0", vectorization_mode="vector_entry_point")`` calls."""
    from worldcompass.worlds.doom.world import load_doom_world

    world = load_doom_world(Path(weights) if weights is not None else None)
    starts = doom_starts(maps)
    return WorldVectorEnv(world, starts, num_envs, reward=reward, max_steps=max_steps, num_steps=num_steps)
