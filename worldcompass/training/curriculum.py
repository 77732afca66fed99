"""Scenarios and chunk of a training step, as functions of its number so that resumed runs repeat them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from worldcompass.rollout import Rollout, imagine_groups
from worldcompass.seeding import generator_for
from worldcompass.settings import Rule, enforce
from worldcompass.types import Scenario


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which futures a step imagines."""

    prompts_per_step: int = 6
    """N: scenarios imagined in one step, each a group."""
    group_size: int = 12
    """G: candidate futures of one chunk."""
    groups_at_once: int | None = None
    """Groups imagined in one batch; as many as the world can when None. Fewer need less memory, and critics in
    other processes score one batch while the next is imagined."""
    chunk_length: int | None = None
    """Latents per chunk; the world's default when None."""
    first_chunk: int = 0
    """The curriculum repeats ``first_chunk`` .. ``last_chunk``, one chunk per step."""
    last_chunk: int = 7
    """Inclusive, counted from 0."""
    denoising_steps: int | None = None
    """Denoising steps of the rollout; the world's default when None."""
    explore: float = 0.0
    """Largest guidance of a group's candidates, spread evenly from 0; above 0 needs a ``Guidable`` world."""
    shared_noise: bool = False
    """Start the candidates of a group from the same noise, so that only guidance differs; needs ``explore``."""
    rollout: Rollout = imagine_groups
    """``imagine_groups``, or the baseline ``imagine_whole_videos``."""

    def __post_init__(self) -> None:
        enforce(
            vars(self),
            [
                Rule(
                    ("prompts_per_step",), self.prompts_per_step >= 1, "prompts_per_step must be at least 1"
                ),
                Rule(("group_size",), self.group_size >= 2, "group_size must be at least 2"),
                Rule(
                    ("groups_at_once",),
                    self.groups_at_once is None or self.groups_at_once >= 1,
                    "groups_at_once must be at least 1",
                ),
                Rule(
                    ("first_chunk", "last_chunk"),
                    0 <= self.first_chunk <= self.last_chunk,
                    "need 0 <= first_chunk <= last_chunk",
                ),
                Rule(("explore",), self.explore >= 0, "explore must not be negative"),
                Rule(
                    ("explore", "shared_noise"),
                    self.explore > 0 or not self.shared_noise,
                    "shared_noise without explore makes all candidates the same",
                ),
            ],
        )


def chunk_of_step(sampling: Sampling, step: int) -> int:
    """The chunk of a step; the curriculum repeats short to long pasts (the paper's min2max)."""
    return sampling.first_chunk + (step - 1) % (sampling.last_chunk - sampling.first_chunk + 1)


def scenarios_of_step(scenarios: Sequence[Scenario], per_step: int, seed: int, step: int) -> list[Scenario]:
    """N different scenarios; each epoch shuffles all of them and drops an incomplete last step."""
    epoch, place = divmod(step - 1, len(scenarios) // per_step)
    order = torch.randperm(len(scenarios), generator=generator_for(seed, "order", epoch))
    return [scenarios[int(i)] for i in order[place * per_step : (place + 1) * per_step]]
