"""The parts of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from worldcompass.critic import Critic, Learner
from worldcompass.devices.autocast import in_bf16
from worldcompass.parallel.team import Team
from worldcompass.rollout import device_of
from worldcompass.training.config import Config
from worldcompass.training.policy import Policy
from worldcompass.types import Scenario
from worldcompass.world import WorldModel


@dataclass(frozen=True)
class Parts:
    """The inputs of training, which a recipe puts together."""

    world: WorldModel[Any]
    critics: Sequence[Critic]
    scenarios: Sequence[Scenario]
    config: Config


@dataclass(frozen=True)
class Run:
    """The state that training steps share."""

    world: WorldModel[Any]
    critics: Sequence[Critic]
    scenarios: Sequence[Scenario]
    config: Config
    policy: Policy
    optimizer: torch.optim.Optimizer
    team: Team = field(default_factory=Team.current)
    """The processes that share each step; a single one by default."""

    @property
    def learners(self) -> list[Learner]:
        """The critics that learn along with the policy."""
        return [critic for critic in self.critics if isinstance(critic, Learner)]

    def autocast(self) -> torch.autocast:
        """A context that runs the network in bfloat16 if configured."""
        return in_bf16(device_of(self.world).type, self.config.optimiser.autocast_bf16)
