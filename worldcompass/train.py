"""The training loop: imagine, score, compare, choose, update. ``train_step`` is the method on one screen."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from worldcompass.advantages import NonFiniteScore, Scale, all_groups, group_advantages
from worldcompass.balance import Balance, History, fixed
from worldcompass.checkpoint import (
    delete_after,
    latest_checkpoint,
    load_checkpoint,
    pack_optimizer,
    save_checkpoint,
    unpack_optimizer,
)
from worldcompass.doctor.guard import LOOK_BACK, LR_AFTER_ROLLBACK, Guard, OnDisease
from worldcompass.doctor.record import Finding
from worldcompass.errors import UserError
from worldcompass.held_out import HeldOut, due, probe
from worldcompass.interrupt import finishing_the_step
from worldcompass.log import LiveTable, MetricsLog, Stopwatch
from worldcompass.objective import Objective, kl_velocity, mean_shift, nft_loss
from worldcompass.optim import MakeOptimizer, NonFiniteUpdate, clip_gradients, muon, set_learning_rate
from worldcompass.policy import Decay, Lora, Policy, inject_lora
from worldcompass.rewards import Critic
from worldcompass.rollout import Rollout, device_of, generator_for, imagine_groups
from worldcompass.selection import Rows, choose, share_out
from worldcompass.types import Group, Scenario
from worldcompass.vitals import reward_vitals, step_vitals, without_gradient
from worldcompass.world import Guidable, WorldModel

# Without making it another run.
MAY_CHANGE = ("steps", "save_every", "keep_checkpoints", "micro_rows", "probe_every", "on_disease")


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
    """Run the network in bfloat16; latents, losses and weights stay float32."""
    save_every: int = 5
    """Steps between checkpoints; the last step is always saved."""
    keep_checkpoints: int = 2
    """Newest ones that stay; more while ``on_disease`` is ``rollback``, which goes back some steps."""
    probe_every: int = 0
    """Steps between looks of the held-out judge that ``train`` was given; 0 is never."""
    on_disease: OnDisease = "warn"
    """When the doctor finds one: ``warn``; ``stop`` after saving; ``rollback`` to the last healthy checkpoint."""
    scale: Scale = all_groups
    """``own_group``, ``all_groups`` or ``largest_group``."""
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
            "beta, advantage_clip, lr, max_grad_norm must be positive": min(
                self.beta, self.advantage_clip, self.lr, self.max_grad_norm
            )
            > 0,
            "kl_weight, mean_weight, explore, lr_end and probe_every must not be negative": min(
                self.kl_weight, self.mean_weight, self.explore, self.lr_end, self.probe_every
            )
            >= 0,
            f"on_disease must be one of {', '.join(get_args(OnDisease))}": self.on_disease
            in get_args(OnDisease),
        }
        for rule, holds in rules.items():
            if not holds:
                raise ValueError(f"{rule}; got {self}")

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
    config, world, clock = run.config, run.world, Stopwatch()
    sigmas, keys = world.spec.sigmas(config.denoising_steps), (config.seed, step)
    # 1. Scenarios to imagine and the chunk to train, both a function of the step.
    scenarios, chunk = scenarios_of_step(run, step), chunk_of_step(config, step)
    # 2. The behaviour weights imagine the past once, then G futures of the chunk.
    with run.policy.behaviour(), run.autocast():
        futures = config.rollout(
            world, scenarios, chunk, run.chunk_length, config.group_size, keys, sigmas, config.explore
        )
    clock.lap("imagine")
    # 3. Critics score pixels.
    scores_NGR, valid_NGR = score(run.critics, [group for part in futures for group in part.groups])
    clock.lap("score")
    # 4. Each candidate against its siblings.
    weights_R = config.balance(history, [critic.name for critic in run.critics], config.weights)
    advantages = group_advantages(scores_NGR, valid_NGR, weights_R, config.scale, config.advantage_clip)
    # 5. The best and the worst, at noise levels, with what behaviour and reference predict there.
    chosen = choose(futures, scenarios, advantages, config.best, config.worst, keys)
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
        **vitals,
        "forward_passes": sum(part.forward_passes for part in futures),
        "seconds": clock.laps,
    }


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

    Ctrl-C ends the step that is running, saves it and then raises; a second one stops at once.

    Args:
        resume: go on from the newest checkpoint in ``out_dir``, bit by bit as if never stopped.
        on_step: called after every step with (step, metrics, policy).
        live: show a table of the last steps where the output is a terminal, and what the doctor warns of.
        held_out: a judge that is no reward, and what it looks at every ``config.probe_every`` steps.

    Returns:
        The policy; ``with policy.checkpoint():`` swaps the weights to evaluate into ``world.net``.

    Raises:
        ValueError: when configuration, scenarios and critics do not fit together.
        UserError: when ``out_dir`` already holds a run, or holds another one than is to be resumed.
        NonFiniteUpdate: before a non-finite update would be applied.
        NonFiniteScore: when a critic returns a score that is not finite.
        StoppedRun: when the doctor ends the run, as ``config.on_disease`` allows.
    """
    check_inputs(world, critics, scenarios, config)
    if config.probe_every and held_out is None:
        raise ValueError(f"probe_every is {config.probe_every}, but no held-out judge was given")
    if config.lora is not None:
        inject_lora(world.net, config.lora, generator_for(config.seed, "lora"))
    policy = Policy(world.net, config.behaviour_decay, config.checkpoint_decay)
    optimizer = config.make_optimizer(policy.parameters, config.lr, config.weight_decay)
    run = Run(world, critics, scenarios, config, policy, optimizer)
    step = restore(run, out_dir) if resume else begin(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    (out_dir / "config.json").write_text(json.dumps(config.described(), indent=2) + "\n")
    log = MetricsLog(out_dir / "metrics.jsonl", step)
    guard = Guard(out_dir, config.steps, config.weights, config.on_disease)
    with LiveTable(config.steps, step, live) as table, finishing_the_step() as interrupted:
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
                metrics["judge"] = probe(world, policy, held_out, config.seed)
            log.append(metrics)
            diagnosis = guard.examine(metrics)
            disease = guard.disease(diagnosis)
            table.show(metrics, diagnosis.warnings())
            if step % config.save_every == 0 or step == config.steps or interrupted() or disease:
                save(run, out_dir, step)
            if on_step is not None:
                on_step(step, metrics, policy)
            if interrupted():
                raise KeyboardInterrupt(
                    f"stopped after step {step}, which is saved in {out_dir}: resume goes on"
                )
            if disease is not None:
                if not guard.may_roll_back(disease):
                    raise guard.stop(step, disease)
                step = roll_back(run, guard, step, disease)
    return policy


def roll_back(run: Run, guard: Guard, step: int, finding: Finding) -> int:
    """Go back to the newest checkpoint before a disease, or to the start, and go on with half the learning rate.

    Returns:
        The step gone back to. It is saved anew before anything later is deleted, so that a kill in between
        loses nothing.
    """
    root, lr = guard.out_dir / "checkpoints", LR_AFTER_ROLLBACK * run.optimizer.param_groups[0]["initial_lr"]
    folder = latest_checkpoint(root, before=finding.since)
    to = load(run, guard.out_dir, folder)
    for group in run.optimizer.param_groups:
        group["initial_lr"] = lr
    save(run, guard.out_dir, to)
    guard.rolled_back(step, to, finding, lr)
    MetricsLog(guard.out_dir / "metrics.jsonl", to)
    delete_after(root, to)
    return to


def chunk_of_step(config: Config, step: int) -> int:
    """The curriculum from short pasts to long ones, over and over (the paper's min2max)."""
    return config.first_chunk + (step - 1) % (config.last_chunk - config.first_chunk + 1)


def scenarios_of_step(run: Run, step: int) -> list[Scenario]:
    """N different scenarios; every pass over all has its own order, an incomplete last step is dropped."""
    per_step = run.config.prompts_per_step
    epoch, place = divmod(step - 1, len(run.scenarios) // per_step)
    order = torch.randperm(len(run.scenarios), generator=generator_for(run.config.seed, "order", epoch))
    return [run.scenarios[i] for i in order[place * per_step : (place + 1) * per_step].tolist()]


def score(critics: Sequence[Critic], groups: Sequence[Group]) -> tuple[Tensor, Tensor]:
    """Every critic's verdict on every group; (N, G, R) float32 and bool on the CPU."""
    verdicts = [[critic(group) for critic in critics] for group in groups]
    values = torch.stack([torch.stack([s.values_G for s in row], -1).cpu().float() for row in verdicts])
    valid = torch.stack([torch.stack([s.valid_G for s in row], -1).cpu() for row in verdicts])
    return values, valid


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
    reference_rows = max(float(sums.pop("reference_rows", 0.0)), 1.0)
    distances = {name: float(sums.pop(name, 0.0)) / reference_rows for name in ("kl_to_start", "mean_shift")}
    result = {name: float(total) / num_rows for name, total in sums.items()}
    grad_norm = clip_gradients(run.policy.parameters, result["loss"], config.max_grad_norm)
    applied = any(bool(rows.advantage_B.any()) for rows in micro_batches)
    if applied:
        run.optimizer.step()
    return {**result, "grad_norm": grad_norm, **distances, "applied": float(applied)}


def check_inputs(
    world: WorldModel[Any], critics: Sequence[Critic], scenarios: Sequence[Scenario], config: Config
) -> None:
    """Refuse what would fail later.

    Raises:
        ValueError: one sentence saying what does not fit.
    """
    names = [critic.name for critic in critics]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"need at least one critic and different names, got {names}")
    if unknown := set(config.weights) - set(names):
        raise ValueError(f"weights name no critic of this run: {sorted(unknown)}; critics are {names}")
    if config.explore and not isinstance(world, Guidable):
        raise ValueError(f"explore is {config.explore}, but {world.spec.name} has no method weaken(context)")
    length = config.chunk_length or world.spec.chunk_lengths[0]
    if length not in world.spec.chunk_lengths:
        raise ValueError(
            f"{world.spec.name} was trained for chunks of {world.spec.chunk_lengths}, not {length}"
        )
    if len({s.id for s in scenarios}) < len(scenarios):
        raise ValueError("scenario ids must differ: noise derives from them")
    if config.prompts_per_step > len(scenarios):
        raise ValueError(
            f"prompts_per_step is {config.prompts_per_step}, there are {len(scenarios)} scenarios"
        )
    needed = (config.last_chunk + 1) * length
    short = [s.id for s in scenarios if len(s.actions) < needed]
    if short:
        raise ValueError(f"chunk {config.last_chunk} needs {needed} latents, scenario {short[0]} is shorter")
    if config.noise_levels > (steps := config.denoising_steps or world.spec.num_steps):
        raise ValueError(
            f"noise_levels is {config.noise_levels}, a rollout of {steps} steps has only so many"
        )


def begin(out_dir: Path) -> int:
    """Step 0 of a new run.

    Raises:
        UserError: when the folder already holds one.
    """
    if latest_checkpoint(out_dir / "checkpoints") is not None:
        raise UserError(f"{out_dir} already holds a run: resume it or choose another folder")
    return 0


def identity(run: Run) -> dict[str, Any]:
    """What must agree for a checkpoint to be continued."""
    config = {k: v for k, v in run.config.described().items() if k not in MAY_CHANGE}
    ids = hashlib.sha256(json.dumps([s.id for s in run.scenarios]).encode()).hexdigest()
    critics = [critic.name for critic in run.critics]
    return {**config, "world": run.world.spec.name, "critics": critics, "scenarios": ids}


def save(run: Run, out_dir: Path, step: int) -> Path:
    """Checkpoint after a step: all weights, averages and the optimiser; randomness derives from the step."""
    tensors, plain = pack_optimizer(run.optimizer)
    tensors = {f"optimizer/{name}": t for name, t in tensors.items()}
    state = {"optimizer": plain, "run": identity(run)}
    every = {**tensors, **{f"policy/{name}": t for name, t in run.policy.state().items()}}
    keep = run.config.keep_checkpoints
    if run.config.on_disease == "rollback":
        keep = max(keep, 2 + LOOK_BACK // run.config.save_every)
    return save_checkpoint(out_dir / "checkpoints", step, every, state, keep)


def restore(run: Run, out_dir: Path) -> int:
    """The step of the newest checkpoint after loading it; 0 when nothing was saved yet.

    Raises:
        UserError: when it belongs to another run.
    """
    return load(run, out_dir, latest_checkpoint(out_dir / "checkpoints"))


def load(run: Run, out_dir: Path, folder: Path | None) -> int:
    """Set a run to one of its checkpoints, or to its start for None; the step.

    Raises:
        UserError: when it belongs to another run.
    """
    if folder is None:
        run.policy.start_over()
        run.optimizer.state.clear()
        return 0
    tensors, state = load_checkpoint(folder)
    own = json.loads(json.dumps(identity(run)))
    if differing := sorted(k for k in own.keys() | state["run"].keys() if own.get(k) != state["run"].get(k)):
        raise UserError(f"{out_dir} holds another run: it differs in {', '.join(differing)}")
    parts: dict[str, dict[str, Tensor]] = {"policy": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        part, rest = name.split("/", 1)
        parts[part][rest] = tensor
    run.policy.load(parts["policy"])
    unpack_optimizer(run.optimizer, parts["optimizer"], state["optimizer"])
    return state["step"]
