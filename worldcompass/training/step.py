"""One training step: the method on one screen."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

import torch
from torch import Tensor

from worldcompass.critic import Learner, needs_of
from worldcompass.reachable import with_reachable
from worldcompass.rollout import Futures, RolloutRequest, batches
from worldcompass.runs.metrics import StepMetrics
from worldcompass.seeding import Key, seed_globals
from worldcompass.statistics import mean_of
from worldcompass.training.advantages import (
    Advantages,
    group_advantages,
    latent_advantages,
    refuse_not_finite,
)
from worldcompass.training.balance import History
from worldcompass.training.curriculum import by_past, scenarios_of_step
from worldcompass.training.data_term import add_share, data_rows
from worldcompass.training.diagnostics import reward_vitals, step_vitals, without_gradient
from worldcompass.training.live import Stopwatch
from worldcompass.training.objective import anchored, normalised_error
from worldcompass.training.optim import clip_gradients, refuse_broken_weights, set_learning_rate
from worldcompass.training.run import Run
from worldcompass.training.scores import Verdicts
from worldcompass.training.selection import Chosen, Rows, choose, share_out
from worldcompass.training.stretch import Stretch, stretch_of_step
from worldcompass.types import Scenario

FORWARD_AND_BACKWARD = 3  # forward passes that a row of an update counts as
DISTANCES = ("kl_to_start", "mean_shift", "velocity_norm", "contrast")  # from the start weights


def train_step(run: Run, step: int, history: History = ()) -> StepMetrics:
    """Run one step of the method, counted from 1, and return its metrics; ``history`` holds the earlier steps'."""
    config, world, team, clock = run.config, run.world, run.team, Stopwatch()
    learning = config.learning
    # 1. Scenarios to imagine and the chunk to train, both a function of the step.
    # 2. The behaviour weights imagine the past once, then G futures of the chunk.
    # 3. Critics score the pixels.
    scored = imagine_and_score(run, step, history, clock)
    futures, scenarios, request = scored.futures, scored.scenarios, scored.request
    # 4. Compare each candidate with its group.
    weights_R = config.rewards.balance(
        history, [critic.name for critic in run.critics], config.rewards.weights
    )
    advantages = compare(run, scored, weights_R)
    # 5. Select the best and worst, add noise, and predict with the behaviour and the reference weights.
    chosen = select(run, scored, advantages)
    shares = share_out(
        chosen, request.sigmas, learning.noise_levels, learning.updates_per_rollout, learning.micro_rows,
        learning.draw,
    )  # fmt: skip
    updates = cache_targets(run, shares)
    true_rows = data_rows(world, futures, scenarios, request, len(updates)) if learning.data_share else []
    clock.lap("targets")
    # 6. Update the weights, then their averages.
    rate, done = config.optimiser, (step - 1) / max(1, config.steps - 1)
    set_learning_rate(run.optimizer, rate.lr, rate.lr_end, done)
    updated = mean_of([update(run, *rows) for rows in zip_longest(updates, true_rows, fillvalue=())])
    missing = without_gradient(run.policy)
    run.optimizer.zero_grad(set_to_none=True)
    run.policy.follow(step)
    clock.lap("update")
    # 7. Measurements for the doctor.
    signal = reward_vitals(run.critics, scored.scores_NGR, scored.valid_NGR, weights_R, advantages)
    vitals = step_vitals(futures, missing, run.policy)
    learned = {critic.name: teach(run, critic, futures, request.keys) for critic in run.learners}
    clock.lap("vitals")
    return StepMetrics(
        step=step,
        chunk=request.chunk,
        way=scored.way,
        **vars(signal),
        objective=updated.objective,
        loss=updated.loss,
        **(updated.from_start or {}),
        data_loss=updated.data_loss,
        grad_norm=updated.grad_norm,
        applied=updated.applied,
        **vars(team.mean(vitals)),
        learners=learned or None,
        failed_tries=team.mean(scored.failed) if scored.failed else None,
        forward_passes=team.size * team.mean(sum(part.forward_passes for part in futures)),
        update_passes=team.size * team.mean(passes_of_updates(updates, true_rows)),
        seconds=team.mean(clock.laps),
    )


@dataclass(frozen=True)
class Scored:
    """What a step imagined, with the scores of all N groups of all processes."""

    futures: Sequence[Futures]
    """This process's."""
    scenarios: Sequence[Scenario]
    """This process's, in the order of its groups."""
    request: RolloutRequest
    way: str
    """Of walking, see ``StepMetrics.way``."""
    scores_NGR: Tensor
    valid_NGR: Tensor
    each_NGKR: Tensor
    """Of the latents of the chunk that is trained."""
    failed: Mapping[str, float]
    """Share of failed tries of each critic that retries."""


def imagine_and_score(run: Run, step: int, history: History = (), clock: Stopwatch | None = None) -> Scored:
    """Imagine the futures of a step with the behaviour weights and score them.

    Remote critics score one batch while the next is imagined.

    Raises:
        LostCritic: when a critic fails.
        NonFiniteScore: when a score is not finite.
    """
    config, world, team, clock = run.config, run.world, run.team, clock or Stopwatch()
    sampling = config.sampling
    seed_globals(config.seed, step, team.rank)
    every = scenarios_of_step(run.scenarios, sampling.prompts_per_step, config.seed, step)
    parts_of_step = [(past_of, team.share(some)) for past_of, some in by_past(every, sampling.true_pasts)]
    scenarios = [scenario for _, some in parts_of_step for scenario in some]
    stretch = stretch_of_step(sampling, world.spec, step, history)
    request = request_of_step(run, step, scenarios, stretch)
    futures: list[Futures] = []
    verdicts = Verdicts(run.critics)
    with run.policy.behaviour(), run.autocast():
        for past_of, some in parts_of_step:
            for batch in batches(world, some, sampling.groups_at_once):
                known = with_truth(run, batch, request)
                parts = sampling.rollout(
                    world, dataclasses.replace(request, scenarios=known, past_of=past_of)
                )
                verdicts.ask(group for part in parts for group in part.groups)
                futures += parts
    clock.lap("imagine")
    scores_NGR, valid_NGR, each_NGLR = (team.gather(part) for part in team.all_or_none(verdicts.collect))
    refuse_not_finite(scores_NGR, valid_NGR, [critic.name for critic in run.critics])
    clock.lap("score")
    first = trained_latent(futures[0], request)
    each_NGKR = each_NGLR[:, :, first : first + request.chunk_length]
    return Scored(
        futures, scenarios, request, stretch.way, scores_NGR, valid_NGR, each_NGKR, verdicts.failed()
    )


def trained_latent(futures: Futures, request: RolloutRequest) -> int:
    """Where the chunk begins among the latents that critics see: before those that follow, or after a video's."""
    past = futures.groups[0].past_actions
    return request.span[0] - (0 if past is None else len(past))


def compare(run: Run, scored: Scored, weights_R: Tensor) -> Advantages:
    """Each candidate against its group, with these weights of the rewards."""
    rewards = run.config.rewards
    how = (scored.valid_NGR, weights_R, rewards.scale, rewards.advantage_clip, rewards.reward_clip)
    advantages = group_advantages(scored.scores_NGR, *how)
    if run.config.learning.credit == "clip":
        return advantages
    return dataclasses.replace(advantages, each_NGK=latent_advantages(scored.each_NGKR, *how))


def select(run: Run, scored: Scored, advantages: Advantages) -> list[Chosen]:
    """The best and worst of this process's groups; of larger groups in proportion more."""
    learning, team = run.config.learning, run.team
    times = scored.request.group_size // run.config.sampling.group_size
    first = team.share(range(len(scored.scores_NGR)))[0]
    own = advantages.of_groups(first, first + len(scored.scenarios))
    return choose(
        scored.futures, scored.scenarios, own, times * learning.best, times * learning.worst, scored.request.keys,
        team, learning.pick,
    )  # fmt: skip


@dataclass(frozen=True)
class Updated:
    """Metrics of optimiser updates; fields as in ``StepMetrics``."""

    objective: Mapping[str, float]
    loss: float
    from_start: Mapping[str, float] | None
    """``DISTANCES`` from the start weights; None in an update without a reference prediction."""
    data_loss: float | None
    grad_norm: float
    applied: float


def request_of_step(
    run: Run, step: int, scenarios: Sequence[Scenario], stretch: Stretch | None = None
) -> RolloutRequest:
    """The rollout of a step; ``scenarios`` is this process's part of the step's scenarios.

    The stretch is that of a step without history when None.
    """
    sampling = run.config.sampling
    stretch = stretch or stretch_of_step(sampling, run.world.spec, step)
    return RolloutRequest(
        scenarios=scenarios,
        chunk=stretch.chunk,
        chunk_length=stretch.chunk_length,
        group_size=stretch.group_size,
        keys=(run.config.seed, step),
        sigmas=run.world.spec.sigmas(stretch.num_steps),
        explore=sampling.explore,
        shared_noise=sampling.shared_noise,
        projected=sampling.projected,
        free_noises=sampling.free_noises,
        clip_chunks=sampling.clip_chunks,
        temperature=sampling.temperature,
        stochastic=sampling.stochastic,
        candidates=run.team.candidates(stretch.group_size),
    )


def cache_targets(run: Run, updates: list[list[Rows]]) -> list[list[Rows]]:
    """Add the fixed predictions without gradient, with one swap per set of weights.

    The reference is predicted as ``with_reference`` says, to measure the distance.
    """
    learning, policy = run.config.learning, run.policy
    opponent = policy.behaviour if learning.opponent == "behaviour" else policy.reference
    with opponent(), torch.no_grad():
        updates = [
            [dataclasses.replace(rows, behaviour_BCKHW=predict(run, rows)) for rows in micro_batches]
            for micro_batches in updates
        ]
    return with_reference(run, updates)


def with_reference(run: Run, updates: list[list[Rows]]) -> list[list[Rows]]:
    """Add the reference's predictions, to all rows if the loss needs them, else to one micro-batch."""
    everywhere = run.config.learning.anchors.active
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
    noisy, sigma = rows.noisy_BCKHW[:: rows.alike], rows.sigma_B[:: rows.alike]
    with run.autocast():
        clean = run.world.predict_clean(noisy, sigma, rows.actions, rows.context).float()
    return clean if rows.alike == 1 else clean.repeat_interleave(rows.alike, 0)


def update(run: Run, micro_batches: Sequence[Rows], true_rows: Sequence[Rows] = ()) -> Updated:
    """Apply one optimiser update on the mean loss of all rows, unless every advantage is 0.

    ``true_rows`` are recorded video, towards which the update also goes, see ``add_share``.

    Without a signal the gradient is rounding, which Muon and Adam would both amplify to full size.

    Raises:
        NonFiniteUpdate: for a loss or gradient that is not finite, before the weights change; for a weight that
            is not finite, afterwards.
    """
    num_rows = sum(len(rows.sigma_B) for rows in micro_batches)
    sums = backward(run, micro_batches)
    data_loss = add_data(run, true_rows) if true_rows else None
    reference_rows = float(sums.pop("reference_rows", 0.0))
    measured = DISTANCES if reference_rows else ()
    distances = {name: float(sums.pop(name)) / reference_rows for name in measured}
    result = run.team.mean({**{n: float(t) / num_rows for n, t in sums.items()}, **distances})
    loss = result.pop("loss")
    from_start = {name: result.pop(name) for name in measured} or None
    grad_norm = clip_gradients(run.policy.parameters, loss, run.config.optimiser.max_grad_norm)
    applied = run.team.most(any(bool(rows.advantage_B.any()) for rows in micro_batches))
    if applied:
        run.optimizer.step()
        refuse_broken_weights(run.policy.parameters, run.team)
    return Updated(
        objective=result,
        loss=loss,
        from_start=from_start,
        data_loss=data_loss,
        grad_norm=grad_norm,
        applied=float(applied),
    )


def backward(run: Run, micro_batches: Sequence[Rows]) -> dict[str, Tensor | float]:
    """The gradient of the mean loss of all rows, averaged over processes; sums of the objective's metrics."""
    learning, num_rows = run.config.learning, sum(len(rows.sigma_B) for rows in micro_batches)
    sums: dict[str, Tensor | float] = defaultdict(float)
    run.optimizer.zero_grad(set_to_none=True)
    for rows in micro_batches:
        clean_pred, given_K = predict(run, rows), rows.context.given_K
        opponent = clean_pred.detach() if rows.behaviour_BCKHW is None else rows.behaviour_BCKHW
        pred, behaviour, target = (
            in_units(clean, rows.unit_B) for clean in (clean_pred, opponent, rows.clean_BCKHW)
        )
        loss_B, metrics = learning.objective(
            pred, behaviour, target, rows.advantage_B, learning.beta, given_K
        )
        if rows.reference_BCKHW is not None:
            loss_B, distances = anchored(
                loss_B,
                clean_pred,
                rows.reference_BCKHW,
                rows.noisy_BCKHW,
                rows.sigma_B,
                learning.anchors,
                given_K,
            )
            for name, values_B in distances.items():
                sums[name] += values_B.sum()
            sums["reference_rows"] += len(loss_B)
        if loss_B.requires_grad:  # else no trainable parameter takes part, which the doctor reports
            torch.autograd.backward(loss_B.sum() / num_rows)
        for name, values_B in {**metrics, "loss": loss_B.detach()}.items():
            sums[name] += values_B.sum()
    run.team.average_gradients(run.policy.parameters)
    return sums


def in_units(clean_BCKHW: Tensor, unit_B: Tensor | None) -> Tensor:
    """Estimates in each row's own unit of length; as they are when None."""
    return clean_BCKHW if unit_B is None else clean_BCKHW / unit_B.view(-1, 1, 1, 1, 1)


def passes_of_updates(updates: Sequence[Sequence[Rows]], true_rows: Sequence[Sequence[Rows]] = ()) -> int:
    """Forward passes of targets and updates, a backward pass counting as two of them."""
    total = 0
    for rows in chain.from_iterable((*updates, *true_rows)):
        targets = (rows.behaviour_BCKHW is not None) + (rows.reference_BCKHW is not None)
        total += (targets + FORWARD_AND_BACKWARD) * len(rows.sigma_B) // rows.alike
    return total


def add_data(run: Run, true_rows: Sequence[Rows]) -> float:
    """Add the gradient towards recorded video, of the configured share, and return its mean loss."""

    def backward() -> float:
        total, count = 0.0, sum(len(rows.sigma_B) for rows in true_rows)
        for rows in true_rows:
            loss_B = normalised_error(predict(run, rows), rows.clean_BCKHW, rows.context.given_K)
            torch.autograd.backward(loss_B.sum() / count)
            total += float(loss_B.detach().sum()) / count
        run.team.average_gradients(run.policy.parameters)
        return run.team.mean(total)

    return add_share(run.policy.parameters, backward, run.config.learning.data_share)


def teach(
    run: Run, critic: Learner, futures: Sequence[Futures], keys: tuple[Key, ...]
) -> Mapping[str, float]:
    """Let a critic learn from the step's groups of all processes; they have been scored."""
    groups = [group for part in futures for group in part.groups]
    examples = run.team.gather_objects(critic.examples(groups, (*keys, run.team.rank)))
    return critic.learn(torch.cat([part for part in examples if len(part)] or examples[:1]), keys)


def with_truth(run: Run, scenarios: Sequence[Scenario], request: RolloutRequest) -> Sequence[Scenario]:
    """The scenarios with reachable truth until the step's chunk, if a critic compares with it."""
    if not any("reachable" in needs_of(critic) for critic in run.critics):
        return scenarios
    return with_reachable(run.world, scenarios, request.chunk_length, request.judged[1])
