"""Before the first step: do world, critics, scenarios and settings fit, and the run made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from worldcompass.actions import misfit
from worldcompass.critic import Critic, Elsewhere, FailedCritic, ask, needs_of
from worldcompass.errors import UnfitInputs
from worldcompass.parallel.sharding import shard
from worldcompass.parallel.team import Team
from worldcompass.rollout import computes_bf16, device_of, make_group
from worldcompass.seeding import generator_for
from worldcompass.training.lora import inject_lora
from worldcompass.training.policy import Policy
from worldcompass.training.run import Parts, Run
from worldcompass.types import Scenario
from worldcompass.world import Guidable, WorldModel


def prepare(parts: Parts) -> Run:
    """A run before its first step: adapters and shards of ``world.net`` where configured, averages, an optimiser.

    Raises:
        UnfitInputs: when configuration, scenarios and critics do not fit together.
    """
    check_inputs(parts)
    world, config = parts.world, parts.config
    optimiser, parallel = config.optimiser, config.parallel
    if optimiser.lora is not None:
        inject_lora(world.net, optimiser.lora, generator_for(config.seed, "lora"))
    team = Team.current(parallel.ranks_per_group)
    team.check_divides(config.sampling.prompts_per_step)
    if parallel.shard and team.size > 1:
        device = device_of(world).type
        shard(world.net, device, parallel.shard_within, parallel.offload, bf16=parallel.gather_bf16)
    policy = Policy(world.net, optimiser.behaviour_decay, optimiser.checkpoint_decay)
    optimizer = optimiser.make_optimizer(policy.parameters, optimiser.lr, optimiser.weight_decay)
    return Run(world, parts.critics, parts.scenarios, config, policy, optimizer, team)


def check_inputs(parts: Parts) -> None:
    """Refuse what would fail later.

    Raises:
        UnfitInputs: one sentence saying what does not fit.
    """
    world, critics, scenarios, config = parts.world, parts.critics, parts.scenarios, parts.config
    sampling, weights = config.sampling, config.rewards.weights
    if nameless := [critic for critic in critics if not isinstance(critic, Critic)]:
        raise UnfitInputs(
            f"{type(nameless[0]).__name__} is no critic: expected what can be called with a group and has a name"
        )
    names = [critic.name for critic in critics]
    if not names or len(set(names)) < len(names):
        raise UnfitInputs(f"need at least one critic and different names, got {names}")
    if unknown := set(weights) - set(names):
        raise UnfitInputs(f"weights name no critic of this run: {sorted(unknown)}; critics are {names}")
    if not any(weights.get(name, 1.0) for name in names):
        raise UnfitInputs(
            f"the weights of all critics are zero ({', '.join(names)}): nothing would be learned"
        )
    if sampling.explore and not isinstance(world, Guidable):
        raise UnfitInputs(
            f"explore is {sampling.explore}, but {world.spec.name} has no method weaken(context)"
        )
    if config.optimiser.autocast_bf16 and not computes_bf16(device_of(world)):
        raise UnfitInputs(
            "autocast_bf16 is set, but this CPU has no instructions for bfloat16 and would take many times as long:"
            " set config.autocast_bf16=False"
        )
    length = sampling.chunk_length or world.spec.chunk_lengths[0]
    if length not in world.spec.chunk_lengths:
        raise UnfitInputs(
            f"{world.spec.name} was trained for chunks of {world.spec.chunk_lengths}, not {length}"
        )
    for critic in critics:
        if why := misfit(critic, world.spec.actions):
            raise UnfitInputs(f"the critic {critic.name} {why}: leave it out")
        if "truth" in needs_of(critic) and all(s.truth is None for s in scenarios):
            raise UnfitInputs(
                f"the critic {critic.name} needs the engine's own continuation, which no scenario has: leave it out"
            )
    for scenario in scenarios:
        try:
            world.spec.actions.check(scenario.actions)
        except ValueError as why:
            raise UnfitInputs(
                f"the actions of scenario {scenario.id} are none of {world.spec.name}'s: {why}"
            ) from why
    if len({s.id for s in scenarios}) < len(scenarios):
        raise UnfitInputs("scenario ids must differ: noise derives from them")
    if sampling.prompts_per_step > len(scenarios):
        raise UnfitInputs(
            f"prompts_per_step is {sampling.prompts_per_step}, there are {len(scenarios)} scenarios"
        )
    needed = (sampling.last_chunk + 1) * length
    short = [s.id for s in scenarios if len(s.actions) < needed]
    if short:
        raise UnfitInputs(
            f"chunk {sampling.last_chunk} needs {needed} latents, scenario {short[0]} is shorter"
        )
    if config.learning.noise_levels > (steps := len(world.spec.sigmas(sampling.denoising_steps)) - 1):
        raise UnfitInputs(
            f"noise_levels is {config.learning.noise_levels}, a rollout of {steps} steps has only so many"
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
