"""The judge of open checkpoints: a lab's own recordings are the real thing."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from worldcompass.devices.autocast import in_bf16
from worldcompass.errors import UserError
from worldcompass.judging.court import Court
from worldcompass.judging.recorded import REMEDY, recorded_scenes, smaller
from worldcompass.noise import ShiftedLevels
from worldcompass.world import WorldSpec
from worldcompass.worlds.open.evaluation import blank_world, digest_of_weights, settings_of, use_weights
from worldcompass.worlds.open.recipe import OpenRecipe, OpenWorld


def court(recipe: OpenRecipe, folder: Path, num_latents: int, steps: int | None, device: str) -> Court:
    """What a judge needs of a recipe's world. Videos are filmed one by one, with one set of weights loaded.

    Args:
        recipe: whose world and own weights, the base, are used.
        folder: of recordings, see ``recordings.py``.
        num_latents: of every video.
        steps: of denoising; the world's own when None.
        device: of the models.

    Raises:
        UserError: for a length that a judge cannot use, or steps that the world does not take.
    """
    spec, loaded = _spec(recipe, steps), list[OpenWorld]()

    def load(run: Path | None, device: str) -> OpenWorld:
        if not loaded:
            loaded.append(blank_world(recipe, device))
            setattr(loaded[0], "spec", spec)  # noqa: B010 - a read-only property of the protocol
        use_weights(loaded[0].net, run, recipe, device)
        return loaded[0]

    return Court(
        spec,
        load,
        partial(digest_of_weights, recipe),
        recorded_scenes(folder, spec, num_latents, recipe.read_actions, recipe.begun),
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


def _spec(recipe: OpenRecipe, steps: int | None) -> WorldSpec:
    spec = recipe.spec
    if steps is None or steps == spec.num_steps:
        return spec
    if not isinstance(spec.schedule, ShiftedLevels):
        raise UserError(f"--steps is {steps}: {spec.name} was made for {spec.num_steps} given noise levels")
    return replace(spec, schedule=replace(spec.schedule, num_steps=steps))
