"""Continued pretraining: a step towards recorded video instead of rewards, to tell learning from more training.

The scenarios, the chunk, the number of rows, the optimiser, its rates and the averages of the weights are those of
``train_step``. Nothing is imagined or scored.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from worldcompass.reachable import true_frames, true_past
from worldcompass.rollout import RolloutRequest, batches, chunk_actions, past_generators, prefix_passes
from worldcompass.runs.metrics import StepMetrics
from worldcompass.seeding import seed_globals
from worldcompass.statistics import mean_of
from worldcompass.training.balance import History
from worldcompass.training.curriculum import scenarios_of_step
from worldcompass.training.data_term import noised
from worldcompass.training.diagnostics import behaviour_lag, unreached, without_gradient
from worldcompass.training.live import Stopwatch
from worldcompass.training.optim import set_learning_rate
from worldcompass.training.run import Run
from worldcompass.training.selection import Rows
from worldcompass.training.step import passes_of_updates, request_of_step, update, with_reference
from worldcompass.training.stretch import stretch_of_step
from worldcompass.world import Encoder, WorldModel


def pretrain_step(run: Run, step: int, history: History = ()) -> StepMetrics:
    """Run one step towards recorded video, counted from 1, and return its metrics, without rewards."""
    config, team, clock = run.config, run.team, Stopwatch()
    learning, rate = config.learning, config.optimiser
    seed_globals(config.seed, step, team.rank)
    every = scenarios_of_step(run.scenarios, config.sampling.prompts_per_step, config.seed, step)
    stretch = stretch_of_step(config.sampling, run.world.spec, step, history)
    request = request_of_step(run, step, team.share(every), stretch)
    rows = (learning.best + learning.worst) * learning.noise_levels
    with run.autocast():
        updates, passes = recorded_rows(
            run.world, request, rows, learning.updates_per_rollout, learning.micro_rows
        )
    updates = with_reference(run, updates)
    clock.lap("targets")
    set_learning_rate(run.optimizer, rate.lr, rate.lr_end, (step - 1) / max(1, config.steps - 1))
    updated = mean_of([update(run, part) for part in updates])
    distances, missing = updated.from_start or {}, without_gradient(run.policy)
    run.optimizer.zero_grad(set_to_none=True)
    run.policy.follow(step)
    clock.lap("update")
    return StepMetrics(
        step=step,
        chunk=request.chunk,
        way=stretch.way,
        objective=updated.objective,
        loss=updated.loss,
        kl_to_start=distances.get("kl_to_start"),
        mean_shift=distances.get("mean_shift"),
        velocity_norm=distances.get("velocity_norm"),
        contrast=distances.get("contrast"),
        grad_norm=updated.grad_norm,
        applied=updated.applied,
        no_gradient=unreached(run.policy, missing),
        behaviour_lag=behaviour_lag(run.policy),
        forward_passes=team.size * team.mean(passes),
        update_passes=team.size * team.mean(passes_of_updates(updates)),
        seconds=team.mean(clock.laps),
    )


@torch.no_grad()
def recorded_rows(
    world: WorldModel[Any], request: RolloutRequest, num_rows: int, num_updates: int, micro_rows: int
) -> tuple[list[list[Rows]], int]:
    """Rows of the recorded chunk after its recorded past, for every update, and the forward passes of the pasts.

    Args:
        world: an ``Encoder``.
        request: of the step; its scenarios have the engine's continuation.
        num_rows: of every scenario, each with a level and noise of its own.
        num_updates: that share the rows.
        micro_rows: of one forward pass.
    """
    assert isinstance(world, Encoder)
    updates: list[list[Rows]] = [[] for _ in range(num_updates)]
    start, stop = request.span
    passes = 0
    for batch in batches(world, request.scenarios):
        keys = [(*request.keys, "past", s.id) for s in batch]
        past = true_past(world, batch, request.chunk, request.chunk_length, keys)
        actions = chunk_actions(world, batch, request.chunk, request.chunk_length)
        attended = world.attend(past.context, actions, past_generators(keys, request.chunk))
        passes += past.forward_passes + prefix_passes(past.context)
        clean: Tensor = world.encode(true_frames(world, batch, stop))[:, :, start:stop].float()
        for own, share in zip(updates, torch.arange(num_rows).tensor_split(num_updates), strict=True):
            for part in torch.split(share, max(1, micro_rows // len(batch))) if len(share) else ():
                numbers = [int(number) for number in part]
                noisy, sigma = noised(world, clean, batch, request, numbers)
                target = clean.repeat_interleave(len(numbers), 0)
                own.append(
                    Rows(target, noisy, sigma, torch.ones_like(sigma), actions, attended, unit_B=sigma)
                )
    return [rows for rows in updates if rows], passes
