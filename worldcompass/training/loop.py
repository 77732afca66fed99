"""The training loop: imagine, score, compare, choose, update. ``train_step`` is the method on one screen."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from worldcompass.critic import Critic
from worldcompass.doctor.guard import Guard, OnDisease
from worldcompass.errors import LostCritic
from worldcompass.parallel.signals import Interrupted, finishing_the_step
from worldcompass.parallel.team import Team, shard
from worldcompass.rollout import (
    Rollout,
    batches,
    device_of,
    generator_for,
    imagine_groups,
    imagine_whole_videos,
    seed_globals,
)
from worldcompass.runs.metrics import METRICS, LiveTable, MetricsLog, Stopwatch, replace_file
from worldcompass.runs.trackers import Track, installed, tracking
from worldcompass.training.advantages import (
    NonFiniteScore,
    Scale,
    all_groups,
    group_advantages,
    refuse_not_finite,
)
from worldcompass.training.balance import Balance, History, fixed
from worldcompass.training.curriculum import chunk_of_step, scenarios_of_step
from worldcompass.training.diagnostics import reward_vitals, step_vitals, without_gradient
from worldcompass.training.objective import Objective, kl_velocity, mean_shift, nft_loss
from worldcompass.training.optim import (
    MakeOptimizer,
    NonFiniteUpdate,
    clip_gradients,
    muon,
    set_learning_rate,
)
from worldcompass.training.policy import Decay, Lora, Policy, inject_lora
from worldcompass.training.preflight import check_inputs
from worldcompass.training.probe import HeldOut, due, only_looked_at, probe
from worldcompass.training.resume import alone_in, begin, restore, roll_back, save, writable
from worldcompass.training.scores import Verdicts
from worldcompass.training.selection import Rows, choose, share_out
from worldcompass.types import Scenario
from worldcompass.world import WorldModel


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that a run depends on besides its world, critics and scenarios."""

    steps: int = 100
    """Training steps; each is one rollout and ``updates_per_rollout`` optimiser updates."""
    seed: int = 0
    prompts_per_step: int = 6
    """N: scenarios imagined in one step, each a group."""
    group_size: int = 12
    """G: candidate futures of one chunk."""
    groups_at_once: int | None = None
    """Groups imagined in one batch, all that the world can when None; fewer let critics in other processes score
    the first ones while the next are imagined, and need less memory."""
    best: int = 3
    """Highest ranked candidates of each group that are trained on."""
    worst: int = 3
    """Lowest ranked candidates of each group that are trained on."""
    chunk_length: int | None = None
    """Latents per chunk; the world's default when None."""
    first_chunk: int = 0
    """The curriculum goes through ``first_chunk`` .. ``last_chunk``, one per step, and starts again."""
    last_chunk: int = 7
    """Index from 0, inclusive."""
    denoising_steps: int | None = None
    """Steps of the rollout; the world's default when None."""
    explore: float = 0.0
    """Guidance of a group's candidates, evenly spread from 0 to this; 0 needs no ``Guidable`` world."""
    shared_noise: bool = False
    """The candidates of a group start from the same noise and differ by their guidance alone; needs ``explore``."""
    noise_levels: int = 5
    """Levels per chosen candidate, drawn without replacement from the rollout's own."""
    updates_per_rollout: int = 1
    """Optimiser updates among which a rollout's rows (candidates x levels) are shared out."""
    micro_rows: int = 64
    """Rows of one forward pass in the update; gradients add up, so it changes memory, not results."""
    beta: float = 1.0
    """How far the implicit good and bad policies stand apart from the behaviour's."""
    advantage_clip: float = 2.0
    """Advantages are clipped to +-this and divided by it."""
    reward_clip: float | None = None
    """Before they are weighed, the advantages of each reward are clipped to +-this; None, as in the paper: not."""
    weights: dict[str, float] = field(default_factory=dict)
    """Weight of each reward by its critic's name; 1 where not named."""
    kl_weight: float = 0.0
    """Weight of the pull towards the start weights; the paper's recipe has none."""
    mean_weight: float = 0.0
    """Weight of the pull of each latent's means towards the start weights': long videos keep their colours."""
    lr: float = 1e-5
    lr_end: float = 1.0
    """Learning rate of the last step as a share of ``lr``; linear in between."""
    weight_decay: float = 1e-4
    max_grad_norm: float = 2.0
    behaviour_decay: Decay = field(default_factory=Decay)
    """How the weights that imagine follow the trained ones, once per training step."""
    checkpoint_decay: float = 0.9
    """Decay of the average that is evaluated and shipped, once per training step."""
    lora: Lora | None = None
    """Train low-rank adapters instead of the whole network."""
    autocast_bf16: bool = False
    """Run the network in bfloat16; latents, losses and weights stay float32. Refused on a CPU that lacks it."""
    save_every: int = 5
    """Steps between checkpoints; the last step is always saved."""
    keep_checkpoints: int = 2
    """Newest ones that stay; more while ``on_disease`` is ``rollback``, which goes back some steps."""
    probe_every: int = 0
    """Steps between looks: clips before training and now, scored where there is a held-out judge; 0 is never."""
    on_disease: OnDisease = "warn"
    """When the doctor finds one: ``warn``; ``stop`` after saving; ``rollback`` to the last healthy checkpoint."""
    accept_changes: bool = False
    """Go on with a run whose other settings were not these; without it they are shown and refused."""
    recipe: str = ""
    """What the configuration was made by, for those who read a run later."""
    track: Track = "none"
    """Where metrics go besides metrics.jsonl, offline: ``tensorboard``, ``wandb`` or ``trackio``."""
    ranks_per_group: int = 1
    """Processes that share the candidates of a group, each on the same past; alone it changes nothing."""
    shard: bool = False
    """Split parameters, averages and optimiser over the processes of the run (FSDP2); alone it changes nothing."""
    gather_bf16: bool = False
    """Gather what is sharded in bfloat16, half the traffic; master weights and reductions stay float32. Rounds what
    autocast alone does not, such as the scales of norms."""
    shard_within: int = 0
    """Split over so many processes only, those of one node, and copy over the nodes; 0 splits over all."""
    offload: bool = False
    """Keep what is sharded in the CPU's memory between uses."""
    scale: Scale = all_groups
    """``own_group``, ``all_groups``, ``largest_group``, or ``damped``, which is between the first two."""
    balance: Balance = fixed
    """``fixed``, or ``soft_minimum``: weights that follow each reward's progress."""
    objective: Objective = nft_loss
    """``nft_loss`` or one of its rivals."""
    rollout: Rollout = imagine_groups
    """``imagine_groups``, or the baseline ``imagine_whole_videos``."""
    make_optimizer: MakeOptimizer = muon
    """``muon`` or ``adamw``."""

    def __post_init__(self) -> None:
        rows = (self.best + self.worst) * self.noise_levels
        rules = {
            "steps, prompts_per_step, noise_levels, micro_rows, save_every must be at least 1": min(
                self.steps, self.prompts_per_step, self.noise_levels, self.micro_rows, self.save_every
            )
            >= 1,
            "group_size must be at least 2": self.group_size >= 2,
            "groups_at_once must be at least 1": self.groups_at_once is None or self.groups_at_once >= 1,
            "best + worst must be between 1 and group_size": 1 <= self.best + self.worst <= self.group_size,
            "best and worst must not be negative": min(self.best, self.worst) >= 0,
            "need 0 <= first_chunk <= last_chunk": 0 <= self.first_chunk <= self.last_chunk,
            f"updates_per_rollout must be 1..{rows}": 1 <= self.updates_per_rollout <= rows,
            "shard_within must not be negative; it, offload and gather_bf16 need shard=true": self.shard_within
            >= 0
            and (self.shard or not (self.shard_within or self.offload or self.gather_bf16)),
            "gather_bf16 needs autocast_bf16=true": self.autocast_bf16 or not self.gather_bf16,
            **self._rules_of_shared_groups(rows),
            "beta, advantage_clip, lr, max_grad_norm must be positive": all(
                value > 0 for value in (self.beta, self.advantage_clip, self.lr, self.max_grad_norm)
            ),
            "reward_clip must be positive or None": self.reward_clip is None or self.reward_clip > 0,
            "kl_weight, mean_weight, explore, lr_end and probe_every must not be negative": all(
                value >= 0
                for value in (self.kl_weight, self.mean_weight, self.explore, self.lr_end, self.probe_every)
            ),
            "weights must be finite and not negative": all(
                math.isfinite(weight) and weight >= 0 for weight in self.weights.values()
            ),
            "shared_noise without explore makes all candidates the same": self.explore > 0
            or not self.shared_noise,
            f"on_disease must be one of {', '.join(get_args(OnDisease))}": self.on_disease
            in get_args(OnDisease),
            f"track needs the package {self.track}: pip install 'worldcompass[track]'": installed(self.track),
        }
        for rule, holds in rules.items():
            if not holds:
                named = [f.name for f in dataclasses.fields(self) if re.search(rf"\b{f.name}\b", rule)]
                got = ", ".join(f"{name}={getattr(self, name)}" for name in named)
                raise ValueError(f"{rule}; got {got}")

    def _rules_of_shared_groups(self, rows: int) -> dict[str, bool]:
        ranks = self.ranks_per_group
        return {
            "ranks_per_group must be at least 1": ranks >= 1,
            "ranks_per_group needs candidates that share a past, as imagine_groups makes": ranks == 1
            or self.rollout is not imagine_whole_videos,
            "group_size, best + worst and the rows of each update must be multiples of ranks_per_group, with 2 "
            "candidates or more for each": ranks <= 1
            or (
                self.group_size % ranks == (self.best + self.worst) % ranks == 0
                and self.group_size >= 2 * ranks
                and rows % (self.updates_per_rollout * ranks) == 0
            ),
        }

    def described(self) -> dict[str, Any]:
        """The configuration as json can hold it, functions by their full names."""
        values = dataclasses.asdict(self)
        return {k: f"{v.__module__}.{v.__qualname__}" if callable(v) else v for k, v in values.items()}


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


def train_step(run: Run, step: int, history: History = ()) -> dict[str, Any]:
    """One step of the method, counted from 1; returns its metrics. ``history``: those of the steps before."""
    config, world, team, clock = run.config, run.world, run.team, Stopwatch()
    sigmas, keys = world.spec.sigmas(config.denoising_steps), (config.seed, step)
    seed_globals(*keys, team.rank)
    # 1. Scenarios to imagine and the chunk to train, both a function of the step.
    chunk = chunk_of_step(config, step)
    scenarios = team.share(scenarios_of_step(run.scenarios, config, step))
    # 2. The behaviour weights imagine the past once, then G futures of the chunk; who scores elsewhere begins.
    futures, verdicts, length = [], Verdicts(run.critics), run.chunk_length
    with run.policy.behaviour(), run.autocast():
        for batch in batches(world, scenarios, config.groups_at_once):
            parts = config.rollout(
                world, batch, chunk, length, config.group_size, keys, sigmas, config.explore,
                config.shared_noise, team.candidates(config.group_size),
            )  # fmt: skip
            verdicts.ask(group for part in parts for group in part.groups)
            futures += parts
    clock.lap("imagine")
    # 3. Critics score pixels.
    scores_NGR, valid_NGR = (team.gather(part) for part in team.all_or_none(verdicts.collect))
    names = [critic.name for critic in run.critics]
    refuse_not_finite(scores_NGR, valid_NGR, names)
    clock.lap("score")
    # 4. Each candidate against its siblings.
    weights_R = config.balance(history, names, config.weights)
    advantages = group_advantages(
        scores_NGR, valid_NGR, weights_R, config.scale, config.advantage_clip, config.reward_clip
    )
    # 5. The best and the worst, at noise levels, with what behaviour and reference predict there.
    first = team.share(range(len(scores_NGR)))[0]
    own = advantages.of_groups(first, first + len(scenarios))
    chosen = choose(futures, scenarios, own, config.best, config.worst, keys, team)
    shares = share_out(chosen, sigmas, config.noise_levels, config.updates_per_rollout, config.micro_rows)
    updates = cache_targets(run, shares)
    clock.lap("targets")
    # 6. Towards the good, away from the bad; then the averages follow.
    set_learning_rate(run.optimizer, config.lr, config.lr_end, (step - 1) / max(1, config.steps - 1))
    results = [update(run, micro_batches) for micro_batches in updates]
    missing = without_gradient(run.policy)
    run.optimizer.zero_grad(set_to_none=True)
    run.policy.follow(step)
    clock.lap("update")
    # 7. What the doctor will want to know.
    vitals = step_vitals(futures, missing, run.policy)
    clock.lap("vitals")
    return {
        "step": step,
        "chunk": chunk,
        **reward_vitals(run.critics, scores_NGR, valid_NGR, weights_R, advantages),
        **{name: sum(r[name] for r in results) / len(results) for name in results[0]},
        **team.mean(vitals),
        **({"failed_tries": team.mean(failed)} if (failed := verdicts.failed()) else {}),
        "forward_passes": team.size * team.mean({"": sum(part.forward_passes for part in futures)})[""],
        "seconds": team.mean(clock.laps),
    }


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


def train(
    world: WorldModel[Any],
    critics: Sequence[Critic],
    scenarios: Sequence[Scenario],
    config: Config,
    out_dir: Path,
    resume: bool = False,
    on_step: Callable[[int, dict[str, Any], Policy], None] | None = None,
    live: bool = True,
    held_out: HeldOut | None = None,
) -> Policy:
    """Post-train ``world.net`` in place; writes config.json, metrics.jsonl and checkpoints/ to ``out_dir``.

    Several processes that ``joined`` call it alike and share every step; the main one writes.
    Ctrl-C, SIGTERM and SIGUSR1 end the step that is running, save it and then raise, see ``interrupt``.
    Every step sets the global random generators, see ``seed_globals``.

    Args:
        resume: go on from the newest checkpoint in ``out_dir``, bit by bit as if never stopped.
        on_step: called after every step with (step, metrics, policy).
        live: show a table of the last steps where the output is a terminal, and what the doctor warns of.
        held_out: a judge that is no reward, and what it looks at every ``config.probe_every`` steps; without one
            these steps leave clips of the first scenarios, before training and now.

    Returns:
        The policy; ``with policy.checkpoint():`` swaps the weights to evaluate into ``world.net``.

    Raises:
        UnfitInputs: when configuration, scenarios and critics do not fit together.
        UserError: when ``out_dir`` already holds a run, or holds another one than is to be resumed, or another
            process trains into it.
        LostCritic: when one fails, or gives no scores from another process; the steps before are saved.
        NonFiniteUpdate, NonFiniteScore: before an update that is not finite; when a critic's score is not.
        StoppedRun, Interrupted: when the doctor, as ``config.on_disease`` allows, or a signal ends the run.
    """
    held_out = held_out or only_looked_at(scenarios)
    Team.current().on_main(lambda: writable(out_dir))
    run = prepare(world, critics, scenarios, config)
    with alone_in(out_dir, run.team):
        step = restore(run, out_dir) if resume else run.team.on_main(lambda: begin(out_dir))
        run.team.wait()  # what another rank still reads is not written
        _train_from(step, run, out_dir, on_step, live, held_out)
    return run.policy


def _train_from(
    step: int,
    run: Run,
    out_dir: Path,
    on_step: Callable[[int, dict[str, Any], Policy], None] | None,
    live: bool,
    held_out: HeldOut,
) -> None:
    """The steps after one that was restored; the arguments are those of ``train``."""
    world, config, policy, team = run.world, run.config, run.policy, run.team
    log = MetricsLog(out_dir / METRICS, step, team.is_main)
    if team.is_main:
        replace_file(out_dir / "config.json", json.dumps(config.described(), indent=2) + "\n")
    team.wait()
    guard = Guard(out_dir, config.steps, config.weights, config.on_disease, team.is_main)
    with (
        LiveTable(config.steps, step, live and team.is_main) as table,
        tracking(config.track if team.is_main else "none", out_dir, step, config.described()) as send,
        finishing_the_step() as interrupted,
    ):
        while step < config.steps:
            step += 1
            try:
                metrics = train_step(run, step, guard.rows)
            except (NonFiniteUpdate, NonFiniteScore) as failure:
                finding = guard.refused(step, failure)
                if not guard.may_roll_back(finding):
                    if isinstance(failure, NonFiniteScore) and step > 1:  # no weight was touched yet
                        save(run, guard, step - 1)
                    raise
                step = roll_back(run, guard, step, finding)
                continue
            except LostCritic:  # before the weights were touched: what was learned so far is kept
                if step > 1:
                    save(run, guard, step - 1)
                raise
            if due(config.probe_every, step):
                clip = out_dir / "samples" / f"step_{step:06d}.mp4"
                judged = probe(world, policy, held_out, config.seed, clip, run.autocast)
                metrics |= {} if judged is None else {"judge": judged}
            log.append(metrics)
            send(metrics)
            diagnosis = guard.examine(metrics)
            disease = guard.disease(diagnosis)
            table.show(metrics, diagnosis.warnings(), diagnosis.answer)
            signal = team.most(interrupted() or 0)
            if step % config.save_every == 0 or step == config.steps or signal or disease:
                save(run, guard, step)
            if on_step is not None:
                on_step(step, metrics, policy)
            if signal:
                raise Interrupted(signal, f"stopped after step {step}, which is saved in {out_dir}")
            if disease is not None:
                if not guard.may_roll_back(disease):
                    raise guard.stop(step, disease)
                step = roll_back(run, guard, step, disease)


def cache_targets(run: Run, updates: list[list[Rows]]) -> list[list[Rows]]:
    """Add the fixed predictions, without gradient and in one weight swap per kind of weights.

    The reference is predicted where the loss needs it; else for one micro-batch, to measure the distance.
    """
    with run.policy.behaviour(), torch.no_grad():
        updates = [
            [dataclasses.replace(rows, behaviour_BCKHW=predict(run, rows)) for rows in micro_batches]
            for micro_batches in updates
        ]
    everywhere = max(run.config.kl_weight, run.config.mean_weight) > 0
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


def update(run: Run, micro_batches: Sequence[Rows]) -> dict[str, float]:
    """One optimiser update on the mean loss of all rows; none when every advantage is 0.

    Without a signal the gradient is rounding, which both Muon and Adam would blow up to full size.

    Raises:
        NonFiniteUpdate: before the weights would be touched.
    """
    config, num_rows = run.config, sum(len(rows.sigma_B) for rows in micro_batches)
    sums: dict[str, Tensor | float] = defaultdict(float)
    run.optimizer.zero_grad(set_to_none=True)
    for rows in micro_batches:
        clean_pred, given_K = predict(run, rows), rows.context.given_K
        assert rows.behaviour_BCKHW is not None
        loss_B, metrics = config.objective(
            clean_pred, rows.behaviour_BCKHW, rows.clean_BCKHW, rows.advantage_B, config.beta, given_K
        )
        if rows.reference_BCKHW is not None:
            kl_B = kl_velocity(clean_pred, rows.reference_BCKHW, rows.sigma_B, given_K)
            shift_B = mean_shift(clean_pred, rows.reference_BCKHW, given_K)
            loss_B = loss_B + config.kl_weight * kl_B + config.mean_weight * shift_B
            sums["kl_to_start"] += kl_B.detach().sum()
            sums["mean_shift"] += shift_B.detach().sum()
            sums["reference_rows"] += len(kl_B)
        if loss_B.requires_grad:  # else nothing trainable takes part: the doctor's finding
            (loss_B.sum() / num_rows).backward()
        for name, values_B in {**metrics, "loss": loss_B.detach()}.items():
            sums[name] += values_B.sum()
    run.team.average_gradients(run.policy.parameters)
    reference_rows = max(float(sums.pop("reference_rows", 0.0)), 1.0)
    distances = {name: float(sums.pop(name, 0.0)) / reference_rows for name in ("kl_to_start", "mean_shift")}
    result = run.team.mean({**{n: float(t) / num_rows for n, t in sums.items()}, **distances})
    grad_norm = clip_gradients(run.policy.parameters, result["loss"], config.max_grad_norm)
    applied = run.team.most(any(bool(rows.advantage_B.any()) for rows in micro_batches))
    if applied:
        run.optimizer.step()
    return {**result, "grad_norm": grad_norm, "applied": float(applied)}
