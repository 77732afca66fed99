"""What a run is made of, and how it is prepared before its first step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from worldcompass.critic import Critic
from worldcompass.parallel.sharding import shard
from worldcompass.parallel.team import Team
from worldcompass.rollout import device_of
from worldcompass.seeding import generator_for
from worldcompass.training.config import Config
from worldcompass.training.lora import inject_lora
from worldcompass.training.policy import Policy
from worldcompass.training.preflight import check_inputs
from worldcompass.types import Scenario
from worldcompass.world import WorldModel


@dataclass(frozen=True)
class Parts:
    """What a recipe trains with; nothing has been trained yet."""

    world: WorldModel[Any]
    critics: Sequence[Critic]
    scenarios: Sequence[Scenario]
    config: Config


@dataclass(frozen=True)
class Run:
    """What a training step works with."""

    world: WorldModel[Any]
    critics: Sequence[Critic]
    scenarios: Sequence[Scenario]
    config: Config
    policy: Policy
    optimizer: torch.optim.Optimizer
    team: Team = field(default_factory=Team.current)
    """The processes that share the step; one alone by default."""

    @property
    def chunk_length(self) -> int:
        """Latents per chunk."""
        return self.config.chunk_length or self.world.spec.chunk_lengths[0]

    def autocast(self) -> torch.autocast:
        """bfloat16 for the network when configured."""
        return torch.autocast(
            device_of(self.world).type, dtype=torch.bfloat16, enabled=self.config.autocast_bf16
        )


def prepare(
    world: WorldModel[Any],
    critics: Sequence[Critic],
    scenarios: Sequence[Scenario],
    config: Config,
) -> Run:
    """A run before its first step: adapters and shards of ``world.net`` where configured, averages, an optimiser.

    Raises:
        UnfitInputs: when configuration, scenarios and critics do not fit together.
    """
    check_inputs(world, critics, scenarios, config)
    if config.lora is not None:
        inject_lora(world.net, config.lora, generator_for(config.seed, "lora"))
    team = Team.current(config.ranks_per_group)
    team.check_divides(config.prompts_per_step)
    if config.shard and team.size > 1:
        device = device_of(world).type
        shard(world.net, device, config.shard_within, config.offload, bf16=config.gather_bf16)
    policy = Policy(world.net, config.behaviour_decay, config.checkpoint_decay)
    optimizer = config.make_optimizer(policy.parameters, config.lr, config.weight_decay)
    return Run(world, critics, scenarios, config, policy, optimizer, team)
