"""Trajectories for training and play, in WorldPlay's camera conventions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from worldcompass.actions import CameraActions
from worldcompass.geometry import Motion
from worldcompass.types import CameraMoves
from worldcompass.worlds.open.poses import MOTION, THRESHOLDS, TRAINING_MOTION, commanded
from worldcompass.worlds.trajectories import METHOD_MIX, parse_mix, random_composites
from worldcompass.worlds.worldplay.pose_files import CHUNK


def random_trajectory(
    num_latents: int, seed: tuple[int, ...], motion: Motion = TRAINING_MOTION, mix: str | None = None
) -> CameraMoves:
    """Random motions from a mix, by default the method's, each lasting several latents.

    Args:
        num_latents: of the whole trajectory, including the start image's.
        seed: of all randomness, such as the run's seed and the scenario's number.
        motion: distances and angles of an action.
        mix: see ``worldcompass.worlds.trajectories.parse_mix``.

    Raises:
        ValueError: for a length that is not a multiple of a chunk, or an invalid mix.
    """
    _check_length(num_latents, "the trajectory")
    families = METHOD_MIX if mix is None else parse_mix(mix, CameraActions(motion, THRESHOLDS))
    return commanded(random_composites(np.random.default_rng(seed), num_latents, families), motion)


def random_trajectories(
    count: int, num_latents: int, seed: int, motion: Motion = TRAINING_MOTION, mix: str | None = None
) -> list[CameraMoves]:
    """``count`` trajectories; number i depends only on (seed, i). See ``random_trajectory``."""
    return [random_trajectory(num_latents, (seed, i), motion, mix) for i in range(count)]


def along_path(path: str, motion: Motion = MOTION) -> CameraMoves:
    """The trajectory of a pose string such as ``w-15, right-8, w+left-8``.

    Raises:
        ValueError: for an unknown key, or a length that is not a multiple of a chunk.
    """
    labels = CameraActions(motion, THRESHOLDS).parse(path)
    _check_length(len(labels), f"the path {path!r} with its start")
    return commanded(labels, motion)


def scaled(motion: Motion, move: float | None, turn_deg: float | None) -> Motion:
    """The motion with another length or angle per latent; None leaves it unchanged.

    Raises:
        ValueError: when one is not above 0.
    """
    given = {"move": move, "turn": turn_deg}
    if wrong := [
        f"{name} is {value}" for name, value in given.items() if value is not None and not value > 0
    ]:
        raise ValueError(f"{wrong[0]}: expected a number above 0")
    motion = motion if move is None else replace(motion, move=move)
    return motion if turn_deg is None else replace(motion, yaw_deg=turn_deg, pitch_deg=turn_deg)


def _check_length(num_latents: int, what: str) -> None:
    if num_latents < CHUNK or num_latents % CHUNK:
        more = CHUNK - num_latents % CHUNK
        raise ValueError(
            f"{what} has {num_latents} latents: expected a multiple of {CHUNK}, add {more} or remove"
            f" {num_latents % CHUNK}"
        )
