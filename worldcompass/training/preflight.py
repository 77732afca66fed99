"""Checks before the first step: world, critics, scenarios and settings must fit together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch

from worldcompass.actions import misfit
from worldcompass.critic import Critic, Elsewhere, FailedCritic, Fitted, ask, needs_of
from worldcompass.errors import UnfitInputs
from worldcompass.noise import euler_step
from worldcompass.parallel.sharding import shard
from worldcompass.parallel.team import Team
from worldcompass.rollout import computes_bf16, device_of, make_group
from worldcompass.seeding import generator_for
from worldcompass.training.curriculum import chunks_needed
from worldcompass.training.optim import choose_trained
from worldcompass.training.policy import Policy
from worldcompass.training.run import Parts, Run
from worldcompass.training.selection import Learning, along_path
from worldcompass.training.stretch import rollout_length
from worldcompass.types import Scenario
from worldcompass.ways import PLAY
from worldcompass.world import Encoder, Guidable, Tempered, WorldModel


def prepare(parts: Parts) -> Run:
    """Check the inputs and build the run: adapters and shards as configured, weight averages and the optimiser.

    Raises:
        UnfitInputs: when configuration, scenarios and critics do not fit together.
    """
    check_inputs(parts)
    world, config = parts.world, parts.config
    optimiser, parallel = config.optimiser, config.parallel
    try:
        choose_trained(world.net, optimiser, generator_for(config.seed, "lora"))
    except ValueError as error:
        raise UnfitInputs(str(error)) from None
    team = Team.current(parallel.ranks_per_group)
    sampling = config.sampling
    team.check_divides(sampling.prompts_per_step)
    check_shares(team, sampling.prompts_per_step, sampling.true_pasts)
    if parallel.shard and team.size > 1:
        device = device_of(world).type
        shard(world.net, device, parallel.shard_within, parallel.offload, bf16=parallel.gather_bf16)
    policy = Policy(world.net, optimiser.behaviour_decay, optimiser.checkpoint_decay)
    optimizer = optimiser.make_optimizer(policy.parameters, optimiser.lr, optimiser.weight_decay)
    run = Run(world, parts.critics, parts.scenarios, config, policy, optimizer, team)
    for critic in run.learners:
        critic.load({})
    return run


def check_shares(team: Team, prompts: int, true_pasts: float) -> None:
    """Check that every process gets as many groups with true pasts as the others.

    Raises:
        UnfitInputs: naming what divides.
    """
    teams, true = team.size // team.per_group, round(true_pasts * prompts)
    if true % teams:
        raise UnfitInputs(
            f"true_pasts={true_pasts} makes {true} of {prompts} groups, which {teams} teams of processes cannot"
            f" share evenly: choose a share that makes a multiple of {teams}"
        )


def check_guidance(world: WorldModel[Any], explore: float) -> None:
    """Check that a world has the guidance by which candidates are to differ.

    Raises:
        UnfitInputs: when it has none.
    """
    if explore and not isinstance(world, Guidable):
        raise UnfitInputs(
            f"explore={explore} explores by guidance, which {world.spec.name} does not have: set config.explore=0"
        )


def check_inputs(parts: Parts) -> None:
    """Check that configuration, scenarios and critics fit together.

    Raises:
        UnfitInputs: for the first mismatch, in one sentence.
    """
    world, critics, scenarios, config = parts.world, parts.critics, parts.scenarios, parts.config
    sampling, weights = config.sampling, config.rewards.weights
    if nameless := [c for c in cast("Sequence[object]", critics) if not isinstance(c, Critic)]:
        raise UnfitInputs(
            f"{type(nameless[0]).__name__} is not a critic: expected a callable for groups, with a name"
        )
    names = [critic.name for critic in critics]
    if not names or len(set(names)) < len(names):
        raise UnfitInputs(f"expected one or more critics with different names, got {names}")
    if unknown := set(weights) - set(names):
        raise UnfitInputs(f"weights for unknown critics {sorted(unknown)}: the critics are {names}")
    if not any(weights.get(name, 1.0) for name in names):
        raise UnfitInputs(
            f"the weights of all critics are zero ({', '.join(names)}): set one of them above 0"
        )
    check_guidance(world, sampling.explore)
    if sampling.temperature is not None and not isinstance(world, Tempered):
        raise UnfitInputs(
            f"temperature={sampling.temperature} needs a world that says how unsure it is, which"
            f" {world.spec.name} does not: leave config.temperature out"
        )
    if sampling.stochastic and world.spec.sampler is not euler_step:
        raise UnfitInputs(
            f"stochastic={sampling.stochastic} needs a world that follows a flow, but {world.spec.name} jumps from"
            " fresh noise to clean pictures, as distilled models do: set config.stochastic=0, and another objective"
            " than flow_grpo_loss"
        )
    if config.optimiser.autocast_bf16 and not computes_bf16(device_of(world)):
        raise UnfitInputs(
            "autocast_bf16 is set, but this CPU has no instructions for bfloat16 and would be many times slower:"
            " set config.autocast_bf16=False"
        )
    length = rollout_length(sampling, world.spec)
    if length not in world.spec.chunk_lengths:
        raise UnfitInputs(
            f"chunk_length is {length}, but {world.spec.name} was trained for {world.spec.chunk_lengths}:"
            " set one of these"
        )
    for critic in critics:
        if why := misfit(critic, world.spec.actions):
            raise UnfitInputs(f"the critic {critic.name} {why}: leave it out")
        if isinstance(critic, Fitted) and (why := critic.misfit(world.spec)):
            raise UnfitInputs(f"the critic {critic.name} {why}")
        if "truth" in needs_of(critic) and all(s.truth is None for s in scenarios):
            raise UnfitInputs(
                f"the critic {critic.name} needs the engine's continuation, which no scenario has: leave it out"
            )
    check_truth(parts, length)
    for scenario in scenarios:
        try:
            world.spec.actions.check(scenario.actions)
        except ValueError as why:
            raise UnfitInputs(
                f"the actions of scenario {scenario.id} do not fit {world.spec.name}: {why}"
            ) from why
    if len({s.id for s in scenarios}) < len(scenarios):
        raise UnfitInputs("scenario ids must differ, as the noise derives from them")
    if sampling.prompts_per_step > len(scenarios):
        raise UnfitInputs(
            f"prompts_per_step is {sampling.prompts_per_step}, expected at most the {len(scenarios)} scenarios"
        )
    needed = chunks_needed(sampling) * length
    short = [s.id for s in scenarios if len(s.actions) < needed]
    if short:
        raise UnfitInputs(
            f"chunk {sampling.last_chunk} needs {needed} latents, scenario {short[0]} is shorter: lower last_chunk"
            + (" or clip_chunks" if sampling.clip_chunks > 1 else "")
        )
    learning = config.learning
    if learning.noise_levels > trainable_steps(
        learning, len(world.spec.sigmas(sampling.denoising_steps)) - 1
    ):
        raise UnfitInputs(_too_many_levels(learning, len(world.spec.sigmas(sampling.denoising_steps)) - 1))
    # Critics in other processes are checked when they connect.
    try_critics(
        world,
        [c for c in critics if not isinstance(c, Elsewhere)],
        scenarios[0],
        length * sampling.clip_chunks,
    )
    if sampling.play_share:
        check_play(parts, length)


def trainable_steps(learning: Learning, steps: int) -> int:
    """The denoising steps of a rollout that can be trained on: those with noise ``along_path``, else all."""
    return steps - 1 if learning.draw is along_path else steps


def _too_many_levels(learning: Learning, steps: int) -> str:
    if learning.draw is along_path:
        return (
            f"noise_levels is {learning.noise_levels}, expected at most {steps - 1}: of the {steps} steps of a"
            " stochastic rollout the last has no noise; lower noise_levels or raise denoising_steps"
        )
    return f"noise_levels is {learning.noise_levels}, expected at most the {steps} steps of a rollout"


def check_play(parts: Parts, length: int) -> None:
    """Check that steps in the way ``play`` fit the curriculum, the loss and the critics.

    Args:
        parts: of the run.
        length: latents of a chunk in the way ``rollout``.

    Raises:
        UnfitInputs: for the first mismatch.
    """
    spec, sampling, learning = parts.world.spec, parts.config.sampling, parts.config.learning
    play, said = spec.ways[PLAY], f"play_share is {sampling.play_share}"
    if length % play.chunk_length:
        raise UnfitInputs(
            f"{said}, but {spec.name} plays in chunks of {play.chunk_length} latents, which do not divide the"
            f" rollout's {length}: set play_share=0 or another chunk_length"
        )
    if learning.noise_levels > trainable_steps(learning, play.num_steps):
        raise UnfitInputs(
            f"{said}, but noise_levels is {learning.noise_levels} and {spec.name} plays with {play.num_steps}"
            " denoising steps: lower noise_levels or set play_share=0"
        )
    here = [critic for critic in parts.critics if not isinstance(critic, Elsewhere)]
    try_critics(parts.world, here, parts.scenarios[0], play.chunk_length)


def check_truth(parts: Parts, length: int) -> None:
    """Check that true pasts and reachable truth, if a setting or a critic needs them, can be made.

    Raises:
        UnfitInputs: when the world cannot encode, or a scenario lacks the engine's continuation.
    """
    sampling, learning = parts.config.sampling, parts.config.learning
    who = [f"the critic {c.name}" for c in parts.critics if "reachable" in needs_of(c)]
    who += [f"true_pasts={sampling.true_pasts}"] if sampling.true_pasts else []
    who += [f"teacher={learning.teacher}"] if learning.teacher == "recordings" else []
    who += [f"data_share={learning.data_share}"] if learning.data_share else []
    if not who:
        return
    if not isinstance(parts.world, Encoder):
        raise UnfitInputs(f"{who[0]} needs a method encode(frames), which {parts.world.spec.name} lacks")
    needed = parts.world.spec.num_frames(0, chunks_needed(sampling) * length)
    for scenario in parts.scenarios:
        known = 0 if scenario.truth is None else len(scenario.truth.frames_F3hw)
        if known < needed:
            raise UnfitInputs(
                f"{who[0]} needs {needed} frames of the engine's continuation, scenario {scenario.id} has {known}:"
                " make scenarios with truth, or lower last_chunk"
            )


def try_critics(
    world: WorldModel[Any], critics: Sequence[Critic], scenario: Scenario, clip_length: int
) -> None:
    """Let every critic score two grey futures of the second clip, before any imagination.

    Raises:
        UnfitInputs: when a critic cannot score this world's chunks, or does not return one score per candidate.
    """
    spec, stop = world.spec, min(2 * clip_length, len(scenario.actions))
    start = max(0, stop - clip_length)
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
