"""One training step: the method on one screen."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worldcompass.rollout import Futures, RolloutRequest, batches
from worldcompass.runs.metrics import StepMetrics
from worldcompass.seeding import seed_globals
from worldcompass.training.advantages import group_advantages, refuse_not_finite
from worldcompass.training.balance import History
from worldcompass.training.curriculum import chunk_of_step, scenarios_of_step
from worldcompass.training.diagnostics import mean_vitals, reward_vitals, step_vitals, without_gradient
from worldcompass.training.live import Stopwatch
from worldcompass.training.objective import kl_velocity, mean_shift
from worldcompass.training.optim import clip_gradients, set_learning_rate
from worldcompass.training.run import Run
from worldcompass.training.scores import Verdicts
from worldcompass.training.selection import Rows, choose, share_out
from worldcompass.types import Scenario


def train_step(run: Run, step: int, history: History = ()) -> StepMetrics:
    """Run one step of the method, counted from 1, and return its metrics; ``history`` holds the earlier steps'."""
    config, world, team, clock = run.config, run.world, run.team, Stopwatch()
    sampling, rewards, learning = config.sampling, config.rewards, config.learning
    seed_globals(config.seed, step, team.rank)
    # 1. Scenarios to imagine and the chunk to train, both a function of the step.
    scenarios = team.share(scenarios_of_step(run.scenarios, sampling.prompts_per_step, config.seed, step))
    request = request_of_step(run, step, scenarios)
    # 2. The behaviour weights imagine the past once, then G futures of the chunk; remote critics start to score.
    futures: list[Futures] = []
    verdicts = Verdicts(run.critics)
    with run.policy.behaviour(), run.autocast():
        for batch in batches(world, scenarios, sampling.groups_at_once):
            parts = sampling.rollout(world, dataclasses.replace(request, scenarios=batch))
            verdicts.ask(group for part in parts for group in part.groups)
            futures += parts
    clock.lap("imagine")
    # 3. Critics score the pixels.
    scores_NGR, valid_NGR = (team.gather(part) for part in team.all_or_none(verdicts.collect))
    names = [critic.name for critic in run.critics]
    refuse_not_finite(scores_NGR, valid_NGR, names)
    clock.lap("score")
    # 4. Compare each candidate with its group.
    weights_R = rewards.balance(history, names, rewards.weights)
    advantages = group_advantages(
        scores_NGR, valid_NGR, weights_R, rewards.scale, rewards.advantage_clip, rewards.reward_clip
    )
    # 5. Select the best and worst, add noise, and predict with the behaviour and the reference weights.
    first = team.share(range(len(scores_NGR)))[0]
    own = advantages.of_groups(first, first + len(scenarios))
    chosen = choose(futures, scenarios, own, learning.best, learning.worst, request.keys, team)
    shares = share_out(
        chosen, request.sigmas, learning.noise_levels, learning.updates_per_rollout, learning.micro_rows
    )
    updates = cache_targets(run, shares)
    clock.lap("targets")
    # 6. Update the weights, then their averages.
    rate, done = config.optimiser, (step - 1) / max(1, config.steps - 1)
    set_learning_rate(run.optimizer, rate.lr, rate.lr_end, done)
    updated = mean_update([update(run, micro_batches) for micro_batches in updates])
    missing = without_gradient(run.policy)
    run.optimizer.zero_grad(set_to_none=True)
    run.policy.follow(step)
    clock.lap("update")
    # 7. Measurements for the doctor.
    signal = reward_vitals(run.critics, scores_NGR, valid_NGR, weights_R, advantages)
    vitals = step_vitals(futures, missing, run.policy)
    clock.lap("vitals")
    return StepMetrics(
        step=step,
        chunk=request.chunk,
        **vars(signal),
        **vars(updated),
        **vars(mean_vitals(vitals, team)),
        failed_tries=team.mean(failed) if (failed := verdicts.failed()) else None,
        forward_passes=team.size * team.mean({"": sum(part.forward_passes for part in futures)})[""],
        seconds=team.mean(clock.laps),
    )


@dataclass(frozen=True)
class Updated:
    """Metrics of optimiser updates; fields as in ``StepMetrics``."""

    objective: Mapping[str, float]
    loss: float
    kl_to_start: float
    mean_shift: float
    grad_norm: float
    applied: float


def mean_update(updates: Sequence[Updated]) -> Updated:
    """The mean over the updates of a step."""

    def mean(of: Callable[[Updated], float]) -> float:
        return sum(of(update) for update in updates) / len(updates)

    names = updates[0].objective
    return Updated(
        {name: mean(lambda u, name=name: u.objective[name]) for name in names},
        mean(lambda u: u.loss),
        mean(lambda u: u.kl_to_start),
        mean(lambda u: u.mean_shift),
        mean(lambda u: u.grad_norm),
        mean(lambda u: u.applied),
    )


def request_of_step(run: Run, step: int, scenarios: Sequence[Scenario]) -> RolloutRequest:
    """The rollout of a step; ``scenarios`` is this process's part of the step's scenarios."""
    sampling = run.config.sampling
    return RolloutRequest(
        scenarios=scenarios,
        chunk=chunk_of_step(sampling, step),
        chunk_length=run.chunk_length,
        group_size=sampling.group_size,
        keys=(run.config.seed, step),
        sigmas=run.world.spec.sigmas(sampling.denoising_steps),
        explore=sampling.explore,
        shared_noise=sampling.shared_noise,
        candidates=run.team.candidates(sampling.group_size),
    )


def cache_targets(run: Run, updates: list[list[Rows]]) -> list[list[Rows]]:
    """Add the fixed predictions without gradient, with one swap per set of weights.

    The reference is predicted for all rows if the loss needs it, else for one micro-batch, to measure the distance.
    """
    with run.policy.behaviour(), torch.no_grad():
        updates = [
            [dataclasses.replace(rows, behaviour_BCKHW=predict(run, rows)) for rows in micro_batches]
            for micro_batches in updates
        ]
    learning = run.config.learning
    everywhere = max(learning.kl_weight, learning.mean_weight) > 0
    with run.policy.reference(), torch.no_grad():
        return [
            [
                dataclasses.replace(rows, reference_BCKHW=predict(run, rows))
                if everywhere or u == m == 0
                else rows
                for m, rows in enumerate(micro_batches)
            ]
            for u, micro_batches in enumerate(updates)
        ]


def predict(run: Run, rows: Rows) -> Tensor:
    """The network's clean estimate of a micro-batch, float32."""
    with run.autocast():
        return run.world.predict_clean(rows.noisy_BCKHW, rows.sigma_B, rows.actions, rows.context).float()


def update(run: Run, micro_batches: Sequence[Rows]) -> Updated:
    """Apply one optimiser update on the mean loss of all rows, unless every advantage is 0.

    Without a signal the gradient is rounding, which Muon and Adam would both amplify to full size.

    Raises:
        NonFiniteUpdate: for a loss or gradient that is not finite, before the weights change.
    """
    learning, num_rows = run.config.learning, sum(len(rows.sigma_B) for rows in micro_batches)
    sums: dict[str, Tensor | float] = defaultdict(float)
    run.optimizer.zero_grad(set_to_none=True)
    for rows in micro_batches:
        clean_pred, given_K = predict(run, rows), rows.context.given_K
        assert rows.behaviour_BCKHW is not None
        loss_B, metrics = learning.objective(
            clean_pred, rows.behaviour_BCKHW, rows.clean_BCKHW, rows.advantage_B, learning.beta, given_K
        )
        if rows.reference_BCKHW is not None:
            kl_B = kl_velocity(clean_pred, rows.reference_BCKHW, rows.sigma_B, given_K)
            shift_B = mean_shift(clean_pred, rows.reference_BCKHW, given_K)
            loss_B = loss_B + learning.kl_weight * kl_B + learning.mean_weight * shift_B
            sums["kl_to_start"] += kl_B.detach().sum()
            sums["mean_shift"] += shift_B.detach().sum()
            sums["reference_rows"] += len(kl_B)
        if loss_B.requires_grad:  # else no trainable parameter takes part, which the doctor reports
            torch.autograd.backward(loss_B.sum() / num_rows)
        for name, values_B in {**metrics, "loss": loss_B.detach()}.items():
            sums[name] += values_B.sum()
    run.team.average_gradients(run.policy.parameters)
    reference_rows = max(float(sums.pop("reference_rows", 0.0)), 1.0)
    distances = {name: float(sums.pop(name, 0.0)) / reference_rows for name in ("kl_to_start", "mean_shift")}
    result = run.team.mean({**{n: float(t) / num_rows for n, t in sums.items()}, **distances})
    loss, kl, shift = (result.pop(name) for name in ("loss", "kl_to_start", "mean_shift"))
    grad_norm = clip_gradients(run.policy.parameters, loss, run.config.optimiser.max_grad_norm)
    applied = run.team.most(any(bool(rows.advantage_B.any()) for rows in micro_batches))
    if applied:
        run.optimizer.step()
    return Updated(result, loss, kl, shift, grad_norm, float(applied))
