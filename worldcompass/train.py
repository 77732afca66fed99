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

from worldcompass.advantages import NonFiniteScore, Scale, all_groups, group_advantages
from worldcompass.balance import Balance, History, fixed
from worldcompass.curriculum import chunk_of_step, scenarios_of_step
from worldcompass.distributed import Team, shard
from worldcompass.doctor.guard import Guard, OnDisease
from worldcompass.errors import UnfitInputs
from worldcompass.held_out import HeldOut, due, probe
from worldcompass.interrupt import Interrupted, finishing_the_step
from worldcompass.log import METRICS, LiveTable, MetricsLog, Stopwatch
from worldcompass.objective import Objective, kl_velocity, mean_shift, nft_loss
from worldcompass.optim import MakeOptimizer, NonFiniteUpdate, clip_gradients, muon, set_learning_rate
from worldcompass.policy import Decay, Lora, Policy, inject_lora
from worldcompass.resume import begin, restore, roll_back, save
from worldcompass.rewards import Critic
from worldcompass.rollout import (
    Rollout,
    computes_bf16,
    device_of,
    generator_for,
    imagine_groups,
    make_group,
)
from worldcompass.selection import Rows, choose, score, share_out
from worldcompass.trackers import Track, installed, tracking
from worldcompass.types import Scenario
from worldcompass.vitals import reward_vitals, step_vitals, without_gradient
from worldcompass.world import Guidable, WorldModel


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
    """Steps between looks of the held-out judge that ``train`` was given; 0 is never."""
    on_disease: OnDisease = "warn"
    """When the doctor finds one: ``warn``; ``stop`` after saving; ``rollback`` to the last healthy checkpoint."""
    track: Track = "none"
    """Where metrics go besides metrics.jsonl, offline: ``tensorboard``, ``wandb`` or ``trackio``."""
    shard: bool = False
    """Split parameters, averages and optimiser over the processes of the run (FSDP2); alone it changes nothing."""
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
            "best + worst must be between 1 and group_size": 1 <= self.best + self.worst <= self.group_size,
            "best and worst must not be negative": min(self.best, self.worst) >= 0,
            "need 0 <= first_chunk <= last_chunk": 0 <= self.first_chunk <= self.last_chunk,
            f"updates_per_rollout must be 1..{rows}": 1 <= self.updates_per_rollout <= rows,
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
    # 1. Scenarios to imagine and the chunk to train, both a function of the step.
    chunk = chunk_of_step(config, step)
    scenarios = team.share(scenarios_of_step(run.scenarios, config, step))
    # 2. The behaviour weights imagine the past once, then G futures of the chunk.
    with run.policy.behaviour(), run.autocast():
        futures = config.rollout(
            world, scenarios, chunk, run.chunk_length, config.group_size, keys, sigmas, config.explore,
            config.shared_noise,
        )  # fmt: skip
    clock.lap("imagine")
    # 3. Critics score pixels.
    scored = score(run.critics, [group for part in futures for group in part.groups])
    scores_NGR, valid_NGR = (team.gather(part) for part in scored)
    clock.lap("score")
    # 4. Each candidate against its siblings.
    weights_R = config.balance(history, [critic.name for critic in run.critics], config.weights)
    advantages = group_advantages(
        scores_NGR, valid_NGR, weights_R, config.scale, config.advantage_clip, config.reward_clip
    )
    # 5. The best and the worst, at noise levels, with what behaviour and reference predict there.
    own = advantages.of_groups(team.rank * len(scenarios), (team.rank + 1) * len(scenarios))
    chosen = choose(futures, scenarios, own, config.best, config.worst, keys)
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
    team = Team.current()
    team.check_divides(config.prompts_per_step)
    if config.shard and team.size > 1:
        shard(world.net, device_of(world).type)
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

    Args:
        resume: go on from the newest checkpoint in ``out_dir``, bit by bit as if never stopped.
        on_step: called after every step with (step, metrics, policy).
        live: show a table of the last steps where the output is a terminal, and what the doctor warns of.
        held_out: a judge that is no reward, and what it looks at every ``config.probe_every`` steps.

    Returns:
        The policy; ``with policy.checkpoint():`` swaps the weights to evaluate into ``world.net``.

    Raises:
        UnfitInputs: when configuration, scenarios and critics do not fit together.
        UserError: when ``out_dir`` already holds a run, or holds another one than is to be resumed.
        NonFiniteUpdate, NonFiniteScore: before an update that is not finite; when a critic's score is not.
        StoppedRun, Interrupted: when the doctor, as ``config.on_disease`` allows, or a signal ends the run.
    """
    if config.probe_every and held_out is None:
        raise ValueError(f"probe_every is {config.probe_every}, but no held-out judge was given")
    run = prepare(world, critics, scenarios, config)
    policy, team = run.policy, run.team
    step = restore(run, out_dir) if resume else begin(out_dir)
    team.wait()  # what another rank still reads is not written
    log = MetricsLog(out_dir / METRICS, step, team.is_main)
    if team.is_main:
        (out_dir / "config.json").write_text(json.dumps(config.described(), indent=2) + "\n")
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
                    raise
                step = roll_back(run, guard, step, finding)
                continue
            if held_out is not None and due(config.probe_every, step):
                clip = out_dir / "samples" / f"step_{step:06d}.mp4"
                metrics["judge"] = probe(world, policy, held_out, config.seed, clip)
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
    return policy


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


def check_inputs(
    world: WorldModel[Any], critics: Sequence[Critic], scenarios: Sequence[Scenario], config: Config
) -> None:
    """Refuse what would fail later.

    Raises:
        UnfitInputs: one sentence saying what does not fit.
    """
    names = [critic.name for critic in critics]
    if not names or len(set(names)) < len(names):
        raise UnfitInputs(f"need at least one critic and different names, got {names}")
    if unknown := set(config.weights) - set(names):
        raise UnfitInputs(f"weights name no critic of this run: {sorted(unknown)}; critics are {names}")
    if not any(config.weights.get(name, 1.0) for name in names):
        raise UnfitInputs(
            f"the weights of all critics are zero ({', '.join(names)}): nothing would be learned"
        )
    if config.explore and not isinstance(world, Guidable):
        raise UnfitInputs(f"explore is {config.explore}, but {world.spec.name} has no method weaken(context)")
    if config.autocast_bf16 and not computes_bf16(device_of(world)):
        raise UnfitInputs(
            "autocast_bf16 is set, but this CPU has no instructions for bfloat16 and would take many times as long:"
            " set config.autocast_bf16=False"
        )
    length = config.chunk_length or world.spec.chunk_lengths[0]
    if length not in world.spec.chunk_lengths:
        raise UnfitInputs(
            f"{world.spec.name} was trained for chunks of {world.spec.chunk_lengths}, not {length}"
        )
    if len({s.id for s in scenarios}) < len(scenarios):
        raise UnfitInputs("scenario ids must differ: noise derives from them")
    if config.prompts_per_step > len(scenarios):
        raise UnfitInputs(
            f"prompts_per_step is {config.prompts_per_step}, there are {len(scenarios)} scenarios"
        )
    needed = (config.last_chunk + 1) * length
    short = [s.id for s in scenarios if len(s.actions) < needed]
    if short:
        raise UnfitInputs(f"chunk {config.last_chunk} needs {needed} latents, scenario {short[0]} is shorter")
    if config.noise_levels > (steps := config.denoising_steps or world.spec.num_steps):
        raise UnfitInputs(
            f"noise_levels is {config.noise_levels}, a rollout of {steps} steps has only so many"
        )


def try_critics(
    world: WorldModel[Any], critics: Sequence[Critic], scenario: Scenario, chunk_length: int
) -> None:
    """Let every critic score two grey futures of the second chunk: for recipes, before anything is imagined.

    Raises:
        UnfitInputs: when one cannot score frames and latents of this world, or does not return one score each.
    """
    spec, both = world.spec, 2 * chunk_length
    frames = torch.full((spec.num_frames(0, both), 3, *spec.frame_size), 128, dtype=torch.uint8)
    before = spec.num_frames(0, chunk_length)
    futures = frames[before:].expand(2, -1, -1, -1, -1).contiguous()
    group = make_group(world, scenario, futures, frames[:before], chunk_length, both)
    for critic in critics:
        try:
            scores = critic(group)
        except ValueError as why:
            raise UnfitInputs(f"critic {critic.name} cannot score the chunks of {spec.name}: {why}") from why
        if scores.values_G.shape != (2,) or scores.valid_G.shape != (2,):
            raise UnfitInputs(
                f"critic {critic.name} must return one score and one verdict for each candidate, 2 each, got"
                f" {tuple(scores.values_G.shape)} and {tuple(scores.valid_G.shape)}"
            )
