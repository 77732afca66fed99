"""Scenarios of a prepared data set, with drawn, listed or recorded actions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from worldcompass.actions import ActionSpace
from worldcompass.errors import UserError
from worldcompass.runs.requirements import digest_of, visible
from worldcompass.seeding import generator_for
from worldcompass.types import Actions, Scenario
from worldcompass.worlds.open.prepared import SUFFIX, PreparedFile, Shape
from worldcompass.worlds.trajectories import mix_of, parse_mix, random_composites

Trajectories = Callable[[Sequence[str]], Sequence[Actions]]
"""(names of scenarios) -> the actions of each."""


def prepared_scenarios(
    data: Path, shapes: Mapping[str, Shape], trajectories_per_image: int, trajectories: Trajectories
) -> list[Scenario]:
    """One scenario per prepared image and trajectory; conditioning is read when it is needed.

    Args:
        data: folder of one safetensors file per image, see ``prepare``.
        shapes: of a file's tensors.
        trajectories_per_image: number of scenarios of an image, named ``lake``, ``lake/1`` and so on.
        trajectories: of all names in their order.

    Raises:
        UserError: when the data set is missing or lacks a tensor, or its latents have another size.
    """
    files = visible(data, f"*{SUFFIX}")
    if not files:
        raise UserError(f"no prepared images in {data}: make them with 'worldcompass prepare'")
    names = [
        (file, file.stem if k == 0 else f"{file.stem}/{k}")
        for file in files
        for k in range(trajectories_per_image)
    ]
    drawn = trajectories([name for _, name in names])
    prepared = {file: PreparedFile(file, shapes) for file in files}
    return [
        Scenario(name, actions, conditioning=prepared[file], caption=prepared[file].caption)
        for (file, name), actions in zip(names, drawn, strict=True)
    ]


def prepared_start(data: Path, video: Path, shapes: Mapping[str, Shape]) -> tuple[PreparedFile, str]:
    """Conditioning and caption of a recording, prepared from its first frame.

    Raises:
        UserError: when they are missing, or were prepared from something else.
    """
    file = data / f"{video.stem}{SUFFIX}"
    prepared = PreparedFile(file, shapes)
    if prepared.metadata.get("image_sha256") != digest_of(video):
        raise UserError(
            f"{file} was not made from the first frame of {video}: run 'worldcompass prepare --images"
            f" {video.parent}'"
        )
    return prepared, prepared.caption


def drawn_actions(
    space: ActionSpace, names: Sequence[str], num_latents: int, seed: int, mix: str | None = None
) -> list[Actions]:
    """Random composites for every name, each held for a while; they depend only on the seed and the name.

    Args:
        space: of the world.
        names: of the scenarios.
        num_latents: of every trajectory, latent 0 included.
        seed: of the run.
        mix: see ``worlds.trajectories.parse_mix``; the space's own when None.

    Raises:
        UserError: for a mix that cannot be read.
    """
    try:
        families = mix_of(space) if mix is None else parse_mix(mix, space)
    except ValueError as mistake:
        raise UserError(str(mistake)) from mistake
    seeds = [generator_for(seed, "trajectory", name).initial_seed() for name in names]
    return [
        space.commanded(random_composites(np.random.default_rng((own,)), num_latents, families))
        for own in seeds
    ]
