"""Training rows of scored futures: the extremes of every group, noise levels and micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from inspect import unwrap
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from worldcompass.noise import StochasticStep, corrupt
from worldcompass.parallel.team import Team
from worldcompass.rollout import Futures, Path
from worldcompass.seeding import Key, generator_for
from worldcompass.settings import Rule, enforce, named
from worldcompass.training.advantages import Advantages, keep_extremes
from worldcompass.training.objective import (
    Anchors,
    Objective,
    advantage_weighted_loss,
    imitation_loss,
    nft_loss,
    positive_only_loss,
    reward_weighted_loss,
)
from worldcompass.training.rivals import dpo_loss, flow_grpo_loss, flow_matching_loss
from worldcompass.types import Actions, Samples, Scenario

Pick = Literal["extremes", "random"]
Opponent = Literal["behaviour", "start"]
Teacher = Literal["rewards", "recordings"]
Credit = Literal["clip", "latents"]
WEIGHING = (nft_loss, positive_only_loss, advantage_weighted_loss, reward_weighted_loss)
"""Objectives that weigh errors, so that each latent may have a weight of its own."""


@dataclass(frozen=True)
class Chosen:
    """Samples, and the keys from which the randomness of their training rows derives."""

    samples: Samples
    row_keys: list[tuple[Key, ...]]
    path: Path | None = None
    """The way of the samples from noise, after a stochastic rollout."""

    @property
    def per_past(self) -> int:
        """Samples of one past, which lie side by side."""
        return len(self.row_keys) // self.samples.context.num_pasts


@dataclass(frozen=True)
class Drawn:
    """The L training rows of one sample."""

    target_LCKHW: Tensor
    """What the objective takes for the clean latents."""
    noisy_LCKHW: Tensor
    sigma_L: Tensor
    unit_L: Tensor | None = None
    """The length, in latents, that the objective counts as 1; 1 when None."""


Draw = Callable[[Chosen, int, int, Tensor], Drawn]
"""(chosen, row, L, sigmas) -> the training rows of a sample: ``at_levels``, ``at_first``, ``in_pairs`` or
``along_path``."""


def at_levels(chosen: Chosen, row: int, num_levels: int, sigmas: Tensor) -> Drawn:
    """A sample at noise levels drawn without replacement, never 0, with fresh noise for each."""
    generator = generator_for(*chosen.row_keys[row])
    return _noised(chosen.samples.clean_BCKHW[row], _some(sigmas, num_levels, generator), generator)


def at_first(chosen: Chosen, row: int, num_levels: int, sigmas: Tensor) -> Drawn:
    """A sample as noise alone, where sampling begins, as often as ``num_levels`` says.

    Where all is noise the guess comes from past and command, so what training changes is obedience. Later on it is
    mostly read off the noisy sample, and its gradient says little about the command.

    The samples of a past share this noise, so that the network guesses once for all of them, see ``Rows.alike``.
    """
    generator = generator_for(*chosen.row_keys[row - row % chosen.per_past])
    return _noised(chosen.samples.clean_BCKHW[row], sigmas[:1].expand(num_levels), generator)


def at_level(place: int) -> Draw:
    """A sample at one noise level of the rollout, by its place from 0."""

    def draw(chosen: Chosen, row: int, num_levels: int, sigmas: Tensor) -> Drawn:
        generator = generator_for(*chosen.row_keys[row])
        level = sigmas[place : place + 1].expand(num_levels)
        return _noised(chosen.samples.clean_BCKHW[row], level, generator)

    return draw


def in_pairs(chosen: Chosen, row: int, num_levels: int, sigmas: Tensor) -> Drawn:
    """The same with errors of the velocity; a winner and its loser, the next row, share levels and noise."""
    generator = generator_for(*chosen.row_keys[row - row % 2])
    drawn = _noised(chosen.samples.clean_BCKHW[row], _some(sigmas, num_levels, generator), generator)
    return replace(drawn, unit_L=drawn.sigma_L)


def along_path(chosen: Chosen, row: int, num_levels: int, sigmas: Tensor) -> Drawn:
    """Steps of the rollout itself, drawn without replacement from those with noise.

    The clean estimate of such a step is Gaussian around the target, with the unit as its deviation, so that the
    squared distance in units is minus twice the step's log-likelihood.
    """
    path = chosen.path
    assert path is not None, "only a stochastic rollout has a path"
    levels = [float(sigma) for sigma in path.sigmas]
    pairs = list(pairwise(levels))
    steps = [StochasticStep.between(*pair, path.size) for pair in pairs]
    with_noise = [place for place, step in enumerate(steps) if step.deviation]
    order = torch.randperm(len(with_noise), generator=generator_for(*chosen.row_keys[row]))
    places = [with_noise[int(i)] for i in order[:num_levels]]
    states = path.states_SBCKHW[:, row]
    return Drawn(
        torch.stack([steps[i].target(states[i], states[i + 1]) for i in places]),
        states[places],
        states.new_tensor([pairs[i][0] for i in places]),
        states.new_tensor([steps[i].unit for i in places]),
    )


@dataclass(frozen=True, kw_only=True)
class Learning:
    """Which futures are trained on, and the loss."""

    best: int = 3
    """Number of highest ranked candidates of each group to train on."""
    worst: int = 3
    """Number of lowest ranked candidates of each group to train on."""
    pick: Pick = "extremes"
    """``extremes``, or as many ``random`` candidates for comparison."""
    credit: Credit = "clip"
    """What an advantage belongs to: the ``clip``, or each of its ``latents`` where critics score them alone."""
    noise_levels: int = 5
    """Levels per selected candidate, drawn without replacement from those of the rollout."""
    updates_per_rollout: int = 1
    """Optimiser updates that share the rows (candidates x levels) of a rollout."""
    micro_rows: int = 64
    """Rows of one forward pass in the update; gradients accumulate, so it changes memory and not results."""
    objective: Objective = field(
        default=nft_loss,
        metadata=named(
            nft_loss,
            positive_only_loss,
            advantage_weighted_loss,
            reward_weighted_loss,
            imitation_loss,
            dpo_loss,
            flow_grpo_loss,
            flow_matching_loss,
        ),
    )
    """``nft_loss`` or another function of ``worldcompass.training.objective`` or ``rivals``."""
    teacher: Teacher = "rewards"
    """What the update follows: the rewards of imagined futures, or the engine's own video (``continued.py``)."""
    draw: Draw = field(default=at_levels, metadata=named(at_levels, at_first, in_pairs, along_path))
    """Where a candidate is trained: ``at_levels``, ``at_first``, ``in_pairs`` for ``dpo_loss``, ``along_path`` for
    ``flow_grpo_loss``."""
    opponent: Opponent = "behaviour"
    """The weights that the objective compares its estimates with: those that imagined, or those before training."""
    beta: float = 1.0
    """The objective's own constant; of ``nft_loss``, how far its good and bad policies are from the behaviour."""
    kl_weight: float = 0.0
    """Weight of the KL to the start weights; 0 in the paper."""
    mean_weight: float = 0.0
    """Weight of ``mean_shift``, which keeps the colours of long videos close to those of the start weights."""
    norm_weight: float = 0.0
    """Weight of the hinge on the velocity's norm above that of the start weights, ``objective.velocity_ratio``."""
    contrast_weight: float = 0.0
    """Weight of ``(ratio - 1)^2``, the ratio of the latents' contrast to the start weights', on both sides."""
    data_share: float = 0.0
    """Size of the gradient towards recorded video after true pasts, as a share of the rest's; 0 for none."""

    def __post_init__(self) -> None:
        rows = (self.best + self.worst) * self.noise_levels
        objective = unwrap(self.objective)  # it may be wrapped to be timed
        enforce(
            vars(self),
            [
                Rule(
                    ("noise_levels", "micro_rows"),
                    min(self.noise_levels, self.micro_rows) >= 1,
                    "noise_levels and micro_rows must be at least 1",
                ),
                Rule(
                    ("best", "worst"), min(self.best, self.worst) >= 0, "best and worst must not be negative"
                ),
                Rule(
                    ("updates_per_rollout",),
                    1 <= self.updates_per_rollout <= max(rows, 1),
                    f"updates_per_rollout must be between 1 and {rows}",
                ),
                Rule(
                    ("updates_per_rollout", "noise_levels", "draw"),
                    self.draw is not at_first or self.updates_per_rollout <= self.noise_levels,
                    "draw=at_first needs updates_per_rollout of at most noise_levels, as samples share their noise",
                ),
                Rule(("beta",), self.beta > 0, "beta must be positive"),
                Rule(
                    ("teacher", "objective", "draw"),
                    (self.teacher == "recordings") == (objective is flow_matching_loss)
                    and (self.teacher == "rewards" or self.draw is at_levels),
                    "teacher=recordings and flow_matching_loss need each other, and draw=at_levels",
                ),
                Rule(
                    ("teacher", "data_share"),
                    self.teacher == "rewards" or not self.data_share,
                    "teacher=recordings needs data_share=0: there is nothing but data",
                ),
                Rule(
                    ("objective", "draw"),
                    (objective is flow_grpo_loss) == (self.draw is along_path)
                    and (objective is dpo_loss) == (self.draw is in_pairs),
                    "flow_grpo_loss and draw=along_path need each other, as do dpo_loss and draw=in_pairs",
                ),
                Rule(
                    ("best", "worst", "draw"),
                    self.draw is not in_pairs or self.best == self.worst,
                    "draw=in_pairs needs as many of the worst as of the best",
                ),
                Rule(
                    ("credit", "objective"),
                    self.credit == "clip" or objective in WEIGHING,
                    "credit=latents needs an objective that weighs errors: "
                    + ", ".join(each.__name__ for each in WEIGHING),
                ),
                Rule(
                    ("pick", "draw"),
                    self.draw is not in_pairs or self.pick == "extremes",
                    "draw=in_pairs needs pick=extremes",
                ),
                Rule(
                    ("kl_weight", "mean_weight"),
                    min(self.kl_weight, self.mean_weight) >= 0,
                    "kl_weight and mean_weight must not be negative",
                ),
                Rule(
                    ("norm_weight", "contrast_weight", "data_share"),
                    min(self.norm_weight, self.contrast_weight, self.data_share) >= 0,
                    "norm_weight, contrast_weight and data_share must not be negative",
                ),
            ],
        )

    @property
    def predicted_rows(self) -> int:
        """Rows that the network predicts for a group with one past: at each level all, or one if they are alike."""
        return self.noise_levels * (1 if self.draw is at_first else self.best + self.worst)

    @property
    def anchors(self) -> Anchors:
        """Weights of the terms that hold the policy near the start weights."""
        return Anchors(self.kl_weight, self.mean_weight, self.norm_weight, self.contrast_weight)


@dataclass(frozen=True)
class Rows:
    """A micro-batch: selected futures at noise levels, with the predictions that stay fixed in the update."""

    clean_BCKHW: Tensor
    """What the objective takes for the clean latents, see ``Drawn``."""
    noisy_BCKHW: Tensor
    sigma_B: Tensor
    advantage_B: Tensor
    actions: Actions
    context: Any
    alike: int = 1
    """Neighbouring rows that are the same noise, so that the network predicts one for all of them."""
    behaviour_BCKHW: Tensor | None = None
    """By the weights that the objective compares with, see ``Learning.opponent``; None for recordings."""
    reference_BCKHW: Tensor | None = None
    unit_B: Tensor | None = None
    """The length, in latents, that the objective counts as 1; 1 when None."""


def choose(
    futures: Sequence[Futures],
    scenarios: Sequence[Scenario],
    advantages: Advantages,
    best: int,
    worst: int,
    keys: tuple[Key, ...],
    team: Team | None = None,
    pick: Pick = "extremes",
) -> list[Chosen]:
    """Select the extremes of every group, with their advantages and the contexts that they were imagined from.

    With ``pick`` random, as many candidates whatever their rank.

    Ranks of a ``team`` that share a group exchange its candidates, and each gets an equal part of the extremes.

    Raises:
        ValueError: when every latent of a chunk is given.
    """
    team = team or Team()
    ranking_NG = advantages.ranking_NG
    if pick == "random":
        ranking_NG = torch.stack([_any_order(scenario, ranking_NG.shape[1], keys) for scenario in scenarios])
    credited = advantages.advantage_NG if advantages.each_NGK is None else advantages.each_NGK
    kept_NS = interleave(keep_extremes(ranking_NG, best, worst))[:, team.rows_of_group()]
    result: list[Chosen] = []
    start = 0
    for part in futures:
        # Checked here, as a check in the objective would synchronise with the device at every row mean.
        if part.context.given_K is not None and bool(part.context.given_K.all()):
            raise ValueError("every latent of the chunk is given: there is nothing to train on")
        stop = start + len(part.groups)
        kept_PS, advantage_PG = kept_NS[start:stop], credited[start:stop]
        rows = (kept_PS + advantages.ranking_NG.shape[1] * torch.arange(len(part.groups))[:, None]).flatten()
        advantage_B = advantage_PG[torch.arange(len(kept_PS))[:, None], kept_PS].flatten(0, 1)
        advantage_B = advantage_B.to(part.clean_BCKHW)
        row_keys = [
            (*keys, "train", scenario.id, int(candidate))
            for scenario, kept in zip(scenarios[start:stop], kept_PS, strict=True)
            for candidate in kept
        ]
        clean_BCKHW = team.with_siblings(part.clean_BCKHW, len(part.groups))
        clean_BCKHW = clean_BCKHW[rows.to(clean_BCKHW.device)]
        if part.context.num_pasts == len(part.groups):
            path = None if part.path is None else part.path.rows(rows)
            samples = Samples(clean_BCKHW, advantage_B, part.actions, part.context)
            result.append(Chosen(samples, row_keys, path))
        else:  # one past per candidate
            for b, row in enumerate(map(int, rows)):
                actions, context = Actions.stack([part.actions.select(row)]), part.context.select(row)
                sample = Samples(clean_BCKHW[b : b + 1], advantage_B[b : b + 1], actions, context)
                result.append(Chosen(sample, row_keys[b : b + 1]))
        start = stop
    return result


def _any_order(scenario: Scenario, candidates: int, keys: tuple[Key, ...]) -> Tensor:
    """A ranking of a group's candidates that depends on the scenario and the step alone; (G,)."""
    return torch.rand(candidates, generator=generator_for(*keys, "pick", scenario.id))


def interleave(kept_NS: Tensor) -> Tensor:
    """Order as best, worst, second best, second worst, ..., so that any part of the rows holds both."""
    size = kept_NS.shape[1]
    order = torch.stack([torch.arange(size), torch.arange(size).flip(0)], 1).flatten()[:size]
    return kept_NS[:, order]


def share_out(
    chosen: Sequence[Chosen],
    sigmas: Tensor,
    num_levels: int,
    num_updates: int,
    micro_rows: int,
    draw: Draw = at_levels,
) -> list[list[Rows]]:
    """Divide the rows (candidates x noise levels) among the updates and into micro-batches.

    Rows ``in_pairs`` stay next to one another, and so do rows of noise alone that are alike.
    """
    updates: list[list[Rows]] = [[] for _ in range(num_updates)]
    for part in chosen:
        alike = part.per_past if draw is at_first and float(sigmas[0]) == 1 else 1
        together = 2 if draw is in_pairs else alike
        samples, num_pasts = part.samples, part.samples.context.num_pasts
        drawn = [draw(part, row, num_levels, sigmas) for row in range(len(part.row_keys))]
        units = [one.unit_L for one in drawn if one.unit_L is not None]
        target_PQ, noisy_PQ, sigma_PQ = (
            _past_by_row(torch.stack(values), num_pasts)
            for values in (
                [one.target_LCKHW for one in drawn],
                [one.noisy_LCKHW for one in drawn],
                [one.sigma_L for one in drawn],
            )
        )
        unit_PQ = _past_by_row(torch.stack(units), num_pasts) if units else None
        levels = sigma_PQ.shape[1] * num_pasts // len(drawn)
        advantage_PS = torch.unflatten(samples.advantage_B, 0, (num_pasts, -1))
        advantage_PQ = torch.cat([advantage_PS] * levels, 1)
        per_past = max(1, micro_rows // num_pasts * alike // together)
        every = torch.arange(sigma_PQ.shape[1]).view(-1, together)
        for rows, share in zip(updates, every.tensor_split(num_updates), strict=True):
            for piece in torch.split(share, per_past) if len(share) else ():
                q = slice(int(piece[0, 0]), int(piece[-1, -1]) + 1)
                target, noisy = target_PQ[:, q].flatten(0, 1), noisy_PQ[:, q].flatten(0, 1)
                sigma, advantage = sigma_PQ[:, q].flatten(), advantage_PQ[:, q].flatten(0, 1)
                unit = None if unit_PQ is None else unit_PQ[:, q].flatten()
                rows.append(
                    Rows(
                        target, noisy, sigma, advantage, samples.actions, samples.context, alike, unit_B=unit
                    )
                )
    return [rows for rows in updates if rows]


def _some(sigmas: Tensor, num_levels: int, generator: torch.Generator) -> Tensor:
    """Noise levels drawn without replacement, never the last one, which is 0."""
    return sigmas[torch.randperm(len(sigmas) - 1, generator=generator)[:num_levels]]


def _noised(clean_CKHW: Tensor, sigmas: Tensor, generator: torch.Generator) -> Drawn:
    """One sample at some noise levels, each with noise of its own."""
    noise = torch.randn((len(sigmas), *clean_CKHW.shape), generator=generator).to(clean_CKHW)
    clean, sigma = clean_CKHW.expand_as(noise), sigmas.to(clean_CKHW)
    return Drawn(clean, corrupt(clean, noise, sigma), sigma)


def _past_by_row(values_BL: Tensor, num_pasts: int) -> Tensor:
    """(P * S, L, ...) -> (P, L * S, ...), levels first so that any part holds every candidate."""
    return torch.unflatten(values_BL, 0, (num_pasts, -1)).transpose(1, 2).flatten(1, 2)
