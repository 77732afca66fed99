"""What a training step works on: a function of its number, so that a resumed run meets the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from worldcompass.seeding import generator_for
from worldcompass.types import Scenario

if TYPE_CHECKING:
    from worldcompass.training.config import Config


def chunk_of_step(config: Config, step: int) -> int:
    """The curriculum from short pasts to long ones, over and over (the paper's min2max)."""
    return config.first_chunk + (step - 1) % (config.last_chunk - config.first_chunk + 1)


def scenarios_of_step(scenarios: Sequence[Scenario], config: Config, step: int) -> list[Scenario]:
    """N different scenarios; every pass over all has its own order, an incomplete last step is dropped."""
    per_step = config.prompts_per_step
    epoch, place = divmod(step - 1, len(scenarios) // per_step)
    order = torch.randperm(len(scenarios), generator=generator_for(config.seed, "order", epoch))
    return [scenarios[i] for i in order[place * per_step : (place + 1) * per_step].tolist()]
