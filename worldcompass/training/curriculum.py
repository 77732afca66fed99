"""Scenarios and chunk of a training step, as functions of its number so that resumed runs repeat them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from inspect import unwrap
from typing import Any, Literal

import torch
from torch import Tensor

from worldcompass.reachable import true_past
from worldcompass.rollout import Past, PastMaker, Rollout, imagine_groups, imagine_past, imagine_whole_videos
from worldcompass.seeding import Key, generator_for
from worldcompass.settings import Rule, enforce, named
from worldcompass.training.balance import History
from worldcompass.training.learning_progress import chunk_by_progress
from worldcompass.types import Scenario
from worldcompass.world import WorldModel

Order = Literal["up", "down", "random", "adaptive"]


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
    clip_chunks: int = 1
    """Chunks that critics see of a candidate: the trained one, and those that follow from it. More than one for
    worlds whose chunks are too short to judge, such as a frame."""
    order: Order = "up"
    """Of the chunks in a pass of the curriculum: ``up`` from short to long pasts, ``down``, or ``random``.
    ``adaptive`` has no passes and follows ``learning_progress``."""
    denoising_steps: int | None = None
    """Denoising steps of the rollout; the world's default when None."""
    play_share: float = 0.0
    """Share of steps that imagine in the world's way ``play``, as people walk: short chunks, few steps."""
    play_group_size: int | None = None
    """Candidates of a group in such steps, whose chunks are shorter; ``group_size`` when None."""
    explore: float = 0.0
    """Largest guidance of a group's candidates, spread evenly from 0; above 0 needs a ``Guidable`` world."""
    shared_noise: bool = False
    """Start the candidates of a group from the same noise, so that only guidance differs; needs ``explore``."""
    projected: float = 0.0
    """Share of the guided candidates that are guided at right angles to their own estimate; needs ``explore``."""
    free_noises: int = 0
    """Candidates of a group without guidance and with noise of their own; needs ``shared_noise``."""
    temperature: float | None = None
    """At which candidates are imagined, above 0; the world's own when None. Needs a ``Tempered`` world: one whose
    videos show what is likeliest has candidates that are all alike."""
    stochastic: float = 0.0
    """Size of the noise in the candidates' denoising steps, see ``noise.StochasticStep``; 0.7 in Flow-GRPO, 0 for
    the world's own sampler."""
    true_pasts: float = 0.0
    """Share of a step's groups whose past is the engine's own video; needs scenarios with the engine's
    continuation, and a world with ``encode``."""
    rollout: Rollout = field(default=imagine_groups, metadata=named(imagine_groups, imagine_whole_videos))
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
                Rule(("clip_chunks",), self.clip_chunks >= 1, "clip_chunks must be at least 1"),
                Rule(
                    ("clip_chunks", "play_share", "rollout"),
                    self.clip_chunks == 1 or (not self.play_share and shares_pasts(self.rollout)),
                    "clip_chunks above 1 needs play_share=0, and candidates that share a past, as imagine_groups"
                    " makes",
                ),
                Rule(
                    ("play_share",), 0 <= self.play_share <= 1, "play_share must be a share between 0 and 1"
                ),
                Rule(
                    ("play_group_size", "group_size"),
                    self.play_group_size is None
                    or (
                        self.play_group_size >= self.group_size
                        and self.play_group_size % self.group_size == 0
                    ),
                    "play_group_size must be a multiple of group_size",
                ),
                Rule(("explore",), self.explore >= 0, "explore must not be negative"),
                Rule(
                    ("explore", "shared_noise"),
                    self.explore > 0 or not self.shared_noise,
                    "shared_noise without explore makes all candidates the same",
                ),
                Rule(
                    ("projected", "explore"),
                    0 <= self.projected <= 1 and (self.explore > 0 or not self.projected),
                    "projected must be a share between 0 and 1, and needs explore",
                ),
                Rule(
                    ("free_noises", "group_size", "shared_noise"),
                    self.free_noises == 0 or (self.shared_noise and 0 < self.free_noises < self.group_size),
                    "free_noises must be fewer than group_size, and needs shared_noise",
                ),
                Rule(
                    ("order", "play_share"),
                    self.order != "adaptive" or not self.play_share,
                    "order=adaptive needs play_share=0",
                ),
                Rule(
                    ("temperature",),
                    self.temperature is None or self.temperature > 0,
                    "temperature must be above 0",
                ),
                Rule(("stochastic",), self.stochastic >= 0, "stochastic must not be negative"),
                Rule(
                    ("stochastic", "rollout"),
                    not self.stochastic or shares_pasts(self.rollout),
                    "stochastic needs candidates that share a past, as imagine_groups makes",
                ),
                Rule(
                    ("true_pasts",), 0 <= self.true_pasts <= 1, "true_pasts must be a share between 0 and 1"
                ),
                Rule(
                    ("true_pasts", "free_noises", "rollout"),
                    not (self.true_pasts or self.free_noises) or shares_pasts(self.rollout),
                    "true_pasts and free_noises need candidates that share a past, as imagine_groups makes",
                ),
            ],
        )


def shares_pasts(rollout: Rollout) -> bool:
    """Whether the candidates of a group share a past; a rollout that is wrapped, to be timed, counts as itself."""
    return unwrap(rollout) is unwrap(imagine_groups)


def chunks_needed(sampling: Sampling) -> int:
    """Chunks of a scenario that some step imagines."""
    return sampling.last_chunk + sampling.clip_chunks


def chunk_of_step(sampling: Sampling, step: int, history: History = ()) -> int:
    """The chunk of a step; the curriculum repeats short to long pasts (the paper's min2max), or another order.

    ``history`` holds the metrics of the earlier steps, which only ``adaptive`` reads.
    """
    if sampling.order == "adaptive":
        chunks = range(sampling.first_chunk, sampling.last_chunk + 1)
        return chunk_by_progress([row for row in history if row.step < step], chunks, (step,))
    count = sampling.last_chunk - sampling.first_chunk + 1
    passes, place = divmod(step - 1, count)
    if sampling.order == "down":
        place = count - 1 - place
    elif sampling.order == "random":
        place = int(torch.randperm(count, generator=generator_for("curriculum", passes))[place])
    return sampling.first_chunk + place


def by_past(scenarios: Sequence[Scenario], share: float) -> list[tuple[PastMaker, Sequence[Scenario]]]:
    """A step's scenarios in their order, divided by what makes their past: imagination, or the engine."""
    imagined = len(scenarios) - round(share * len(scenarios))
    parts = [(imagine_past, scenarios[:imagined]), (after_truth, scenarios[imagined:])]
    return [(past_of, part) for past_of, part in parts if part]


def after_truth(
    world: WorldModel[Any], scenarios: Sequence[Scenario], num_chunks: int, chunk_length: int,
    row_keys: Sequence[tuple[Key, ...]], sigmas: Tensor,
) -> Past:  # fmt: skip
    """``true_past`` as a ``PastMaker``; nothing is imagined, so the noise levels are not read."""
    return true_past(world, scenarios, num_chunks, chunk_length, row_keys)


def scenarios_of_step(scenarios: Sequence[Scenario], per_step: int, seed: int, step: int) -> list[Scenario]:
    """N different scenarios; each epoch shuffles all of them and drops an incomplete last step."""
    epoch, place = divmod(step - 1, len(scenarios) // per_step)
    order = torch.randperm(len(scenarios), generator=generator_for(seed, "order", epoch))
    return [scenarios[int(i)] for i in order[place * per_step : (place + 1) * per_step]]
