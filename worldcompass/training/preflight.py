"""What a run is given, looked at before anything is imagined: do world, critics, scenarios and settings fit?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from worldcompass.critic import Critic, Elsewhere, FailedCritic, ask
from worldcompass.errors import UnfitInputs
from worldcompass.rollout import computes_bf16, device_of, make_group
from worldcompass.types import Scenario
from worldcompass.world import Guidable, WorldModel

if TYPE_CHECKING:
    from worldcompass.training.config import Config


def check_inputs(
    world: WorldModel[Any], critics: Sequence[Critic], scenarios: Sequence[Scenario], config: Config
) -> None:
    """Refuse what would fail later.

    Raises:
        UnfitInputs: one sentence saying what does not fit.
    """
    if nameless := [critic for critic in critics if not isinstance(critic, Critic)]:
        raise UnfitInputs(
            f"{type(nameless[0]).__name__} is no critic: expected what can be called with a group and has a name"
        )
    names = [critic.name for critic in critics]
    if not names or len(set(names)) < len(names):
        raise UnfitInputs(f"need at least one critic and different names, got {names}")
    if unknown := set(config.weights) - set(names):
        raise UnfitInputs(f"weights name no critic of this run: {sorted(unknown)}; critics are {names}")
    if not any(config.weights.get(name, 1.0) for name in names):
        raise UnfitInputs(
            f"the weights of all critics are zero ({', '.join(names)}): nothing would be learned"
        )
    if config.explore and not isinstance(world, Guidable):
        raise UnfitInputs(f"explore is {config.explore}, but {world.spec.name} has no method weaken(context)")
    if config.autocast_bf16 and not computes_bf16(device_of(world)):
        raise UnfitInputs(
            "autocast_bf16 is set, but this CPU has no instructions for bfloat16 and would take many times as long:"
            " set config.autocast_bf16=False"
        )
    length = config.chunk_length or world.spec.chunk_lengths[0]
    if length not in world.spec.chunk_lengths:
        raise UnfitInputs(
            f"{world.spec.name} was trained for chunks of {world.spec.chunk_lengths}, not {length}"
        )
    if len({s.id for s in scenarios}) < len(scenarios):
        raise UnfitInputs("scenario ids must differ: noise derives from them")
    if config.prompts_per_step > len(scenarios):
        raise UnfitInputs(
            f"prompts_per_step is {config.prompts_per_step}, there are {len(scenarios)} scenarios"
        )
    needed = (config.last_chunk + 1) * length
    short = [s.id for s in scenarios if len(s.actions) < needed]
    if short:
        raise UnfitInputs(f"chunk {config.last_chunk} needs {needed} latents, scenario {short[0]} is shorter")
    if config.noise_levels > (steps := len(world.spec.sigmas(config.denoising_steps)) - 1):
        raise UnfitInputs(
            f"noise_levels is {config.noise_levels}, a rollout of {steps} steps has only so many"
        )
    # Who scores elsewhere was asked who it is, and is not bothered twice.
    try_critics(world, [c for c in critics if not isinstance(c, Elsewhere)], scenarios[0], length)


def try_critics(
    world: WorldModel[Any], critics: Sequence[Critic], scenario: Scenario, chunk_length: int
) -> None:
    """Let every critic score two grey futures of the second chunk, before anything is imagined.

    Raises:
        UnfitInputs: when one cannot score frames and latents of this world, or does not return one score each.
    """
    spec, stop = world.spec, min(2 * chunk_length, len(scenario.actions))
    start = max(0, stop - chunk_length)
    frames = torch.full((spec.num_frames(0, stop), 3, *spec.frame_size), 128, dtype=torch.uint8)
    before = spec.num_frames(0, start)
    futures = frames[before:].expand(2, -1, -1, -1, -1).contiguous()
    group = make_group(world, scenario, futures, frames[:before], start, stop)
    for critic in critics:
        try:
            ask(critic, group)
        except FailedCritic as why:
            raise UnfitInputs(
                f"the critic {critic.name} cannot score the chunks of {spec.name}: it {why}"
            ) from why
