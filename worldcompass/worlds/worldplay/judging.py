"""The judge of WorldPlay weights: a lab's own recordings are the real thing."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from worldcompass.devices.autocast import in_bf16
from worldcompass.judging.court import Court
from worldcompass.judging.recorded import REMEDY, recorded_scenes, smaller
from worldcompass.noise import ShiftedLevels
from worldcompass.world import WorldSpec
from worldcompass.worlds.worldplay.evaluation import (
    blank_world,
    digest_of_weights,
    settings_of,
    use_weights,
)
from worldcompass.worlds.worldplay.recipe import WorldPlayRecipe
from worldcompass.worlds.worldplay.recordings import read_moves
from worldcompass.worlds.worldplay.world import WorldPlay


def court(recipe: WorldPlayRecipe, folder: Path, num_latents: int, steps: int | None, device: str) -> Court:
    """What a judge needs of a recipe's world. Videos are filmed one by one, with one set of weights loaded.

    Args:
        recipe: whose world and own weights, the base, are used.
        folder: of recordings, see ``worldplay.recordings``.
        num_latents: of every video.
        steps: of denoising; the world's own when None.
        device: of the models.

    Raises:
        UserError: for a length that a judge cannot use.
    """
    spec, loaded = _spec(recipe, steps), list[WorldPlay]()

    def load(run: Path | None, device: str) -> WorldPlay:
        if not loaded:
            loaded.append(blank_world(recipe, device))
            loaded[0].spec = spec
        use_weights(loaded[0].net, run, recipe, device)
        return loaded[0]

    return Court(
        spec,
        load,
        partial(digest_of_weights, recipe),
        recorded_scenes(folder, spec, num_latents, read_moves, recipe.begun),
        REMEDY,
        batch=1,
        shown=smaller,
        computing=lambda: in_bf16(torch.device(device).type, recipe.config.optimiser.autocast_bf16),
        settings={
            **settings_of(recipe),
            "world": spec.name,
            "recordings": str(folder),
            "latents": num_latents,
            "steps": spec.num_steps,
        },
    )


def _spec(recipe: WorldPlayRecipe, steps: int | None) -> WorldSpec:
    spec = recipe.spec
    assert isinstance(spec.schedule, ShiftedLevels)
    return spec if steps is None else replace(spec, schedule=replace(spec.schedule, num_steps=steps))
