"""Recordings of any world: its facts, and what critics learn from and are audited on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldcompass.commands._worlds import check_world, is_open, open_recipe, world_maker
from worldcompass.errors import UserError
from worldcompass.recipes.catalogue import DOOM, EMBEDDED, HANDS

if TYPE_CHECKING:
    from worldcompass.audit.clips import Clip
    from worldcompass.critic import Critic
    from worldcompass.recordings import ReadActions
    from worldcompass.rewards.inverse_dynamics.footage import Footage
    from worldcompass.world import WorldSpec
    from worldcompass.worlds.small.pretraining.blueprint import Blueprint


def spec_and_reader(world: str) -> tuple[WorldSpec, ReadActions]:
    """The facts of a world, and what reads the actions of its recordings; open checkpoints are not loaded.

    Raises:
        UserError: for a name that means nothing, or a function of the user that makes no world.
    """
    from worldcompass.recordings import actions_in

    check_world(world)
    if world == HANDS:
        from worldcompass.worlds.hands.world import SPEC as HANDS_SPEC

        return HANDS_SPEC, actions_in
    if world == DOOM:
        from worldcompass.worlds.doom.world import SPEC

        return SPEC, actions_in
    if is_open(world):
        recipe = open_recipe(world)
        return recipe.spec, recipe.read_actions
    return world_maker(world)(None, "cpu").spec, actions_in


def recorded(world: str | None, data: Path) -> tuple[WorldSpec, list[Footage], list[Footage]]:
    """The facts of a world, and recordings of it to learn from and to hold out.

    Args:
        world: as ``--world`` says it; that of a data set when None.
        data: a folder of videos, or a data set of an embedded world.

    Raises:
        UserError: when there is no such world, or the recordings do not fit it.
    """
    from worldcompass.rewards.inverse_dynamics.footage import read_footage, split
    from worldcompass.runs.metrics import read_object
    from worldcompass.worlds.small.data import CARD, WHAT

    if not (data / CARD).is_file():
        if world is None:
            raise UserError(f"{data} does not say whose controls it holds: name the world with --world")
        spec, read = spec_and_reader(world)
        return spec, *split(read_footage(data, spec, read))
    of = read_object(data / CARD, f"the record of {WHAT}").get("world", DOOM)
    if world not in (None, of) or of not in EMBEDDED:
        raise UserError(
            f"{data} is a data set of the world {of}: leave out --world, or give a folder of videos"
        )
    spec, _ = spec_and_reader(of)
    blueprint = _blueprint(of)
    return spec, _of_kit(blueprint, data, "train", spec), _of_kit(blueprint, data, "heldout", spec)


def recorded_clips(folder: Path, spec: WorldSpec, read: ReadActions, critics: Sequence[Critic]) -> list[Clip]:
    """Clips of the recordings that none of the critics learned from.

    Raises:
        UserError: when there are none, or one cannot be read.
    """
    from worldcompass.audit.clips import CHUNK, clips_of
    from worldcompass.recordings import read_recordings
    from worldcompass.rewards.inverse_dynamics.critic import InverseDynamics

    learned = {name for c in critics if isinstance(c, InverseDynamics) for name in c.facts.trained_on}
    found = [one for one in read_recordings(folder, spec, None, read) if one.name not in learned]
    long = [one for one in found if len(one.actions) >= 3 * CHUNK]
    cut = [replace(one, actions=one.actions.latents(0, 3 * CHUNK)).scenario(spec) for one in long]
    clips = clips_of(cut, [scenario.truth.frames_F3hw for scenario in cut if scenario.truth is not None])
    if len(clips) < 2:
        raise UserError(
            f"{folder} holds {len(long)} recordings of {3 * CHUNK} latents or more that the critics did not learn"
            " from: an audit needs some in which something is commanded"
        )
    return clips


def _blueprint(world: str) -> Blueprint[Any]:
    if world == HANDS:
        from worldcompass.worlds.hands.pretraining import BLUEPRINT as HANDS_BLUEPRINT

        return HANDS_BLUEPRINT
    from worldcompass.worlds.doom.pretraining import BLUEPRINT

    return BLUEPRINT


def _of_kit(blueprint: Blueprint[Any], data: Path, split: str, spec: WorldSpec) -> list[Footage]:
    """The episodes of a split of a data set."""
    import torch

    from worldcompass.rewards.inverse_dynamics.footage import footage_of
    from worldcompass.worlds.small.data import load

    found = list["Footage"]()
    for shard in load(data, split, blueprint.recordings):
        for number, episode in enumerate(shard):
            frames = torch.from_numpy(episode.frames_Fhw3.copy()).movedim(-1, 1)
            name = f"{split}/{shard.folder.name}/{number}"
            found.append(footage_of(name, frames, blueprint.actions_of(episode), spec))
    return found
