"""The training loop: run steps, save, probe, monitor and stop. ``train_step`` holds the method itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from worldcompass.critic import Critic
from worldcompass.doctor.guard import Guard
from worldcompass.errors import LostCritic
from worldcompass.parallel.signals import Interrupted, finishing_the_step
from worldcompass.parallel.team import Team
from worldcompass.runs.atomic import write_json
from worldcompass.runs.final import keep_record
from worldcompass.runs.folder import RunFolder, exclusive, writable
from worldcompass.runs.metrics import MetricsLog, StepMetrics
from worldcompass.runs.trackers import tracking
from worldcompass.training.advantages import NonFiniteScore
from worldcompass.training.balance import History
from worldcompass.training.config import Config
from worldcompass.training.continued import pretrain_step
from worldcompass.training.live import LiveTable
from worldcompass.training.optim import NonFiniteUpdate
from worldcompass.training.policy import Policy
from worldcompass.training.preflight import prepare
from worldcompass.training.probe import HeldOut, due, probe, unscored_clips
from worldcompass.training.resume import begin, restore, roll_back, save
from worldcompass.training.run import Parts, Run
from worldcompass.training.step import train_step
from worldcompass.types import Scenario
from worldcompass.world import WorldModel


def train(
    world: WorldModel[Any],
    critics: Sequence[Critic],
    scenarios: Sequence[Scenario],
    config: Config,
    out_dir: Path,
    resume: bool = False,
    on_step: Callable[[int, StepMetrics, Policy], None] | None = None,
    live: bool = True,
    held_out: HeldOut | None = None,
) -> Policy:
    """Post-train ``world.net`` in place; write config.json, metrics.jsonl and checkpoints/ to ``out_dir``.

    All processes of a team (``joined``) call it with the same arguments and share every step; the main one writes.
    On Ctrl-C, SIGTERM or SIGUSR1 it finishes and saves the current step, then raises ``Interrupted``.
    Every step seeds the global random generators, see ``seed_globals``.

    Args:
        resume: continue from the newest checkpoint in ``out_dir``, with the results of an uninterrupted run.
        on_step: called after every step with (step, metrics, policy).
        live: show a table of the last steps if the output is a terminal, the doctor's warnings, and a notice when
            an earlier run is resumed.
        held_out: a judge that is not a reward, and its scenarios, used every ``probe_every`` steps. Without it,
        these
            steps save clips of the first training scenarios, unscored.

    Returns:
        The policy; ``with policy.checkpoint():`` swaps the weights to evaluate into ``world.net``.

    Raises:
        UnfitInputs: when configuration, scenarios and critics do not fit together.
        UserError: when ``out_dir`` already holds a run, holds a different run than the one to resume, or is used by
            another process.
        LostCritic: when a critic fails or can no longer be reached; earlier steps are saved.
        NonFiniteUpdate: when an update is not finite, before it is applied, or made a weight that is not finite.
            Neither is saved.
        NonFiniteScore: when a critic returns a score that is not finite.
        StoppedRun: when the doctor finds a disease and ``on_disease`` says to stop.
        Interrupted: after a signal.
    """
    parts = Parts(world, critics, scenarios, config)
    return train_parts(parts, out_dir, resume, on_step, live, held_out)


def train_parts(
    parts: Parts,
    out_dir: Path,
    resume: bool = False,
    on_step: Callable[[int, StepMetrics, Policy], None] | None = None,
    live: bool = True,
    held_out: HeldOut | None = None,
) -> Policy:
    """``train`` for the ``Parts`` of a recipe."""
    held_out = held_out or unscored_clips(parts.scenarios)
    Team.current().on_main(lambda: writable(out_dir))
    run = prepare(parts)
    folder = RunFolder(out_dir)
    with exclusive(out_dir, run.team):
        step = restore(run, folder) if resume else run.team.on_main(lambda: begin(folder))
        if step and live and run.team.is_main:
            _announce(out_dir, step)
        run.team.wait()  # until every rank has read the files that the main one writes next
        _train_from(step, run, folder, on_step, live, held_out)
    return run.policy


def _announce(out_dir: Path, step: int) -> None:
    words = f"{out_dir} holds a run: resuming after step {step}; for a new run choose another folder"
    print(words, flush=True)


def _train_from(
    step: int,
    run: Run,
    folder: RunFolder,
    on_step: Callable[[int, StepMetrics, Policy], None] | None,
    live: bool,
    held_out: HeldOut,
) -> None:
    """Run the steps after ``step``; the other arguments are those of ``train``."""
    config, policy, team = run.config, run.policy, run.team
    log = MetricsLog(folder.metrics, step, team.is_main)
    if team.is_main:
        keep_record(folder)
        write_json(folder.config, config.described(), indent=2)
    team.wait()
    guard = Guard(folder, config.steps, config.rewards.weights, config.keeping.on_disease, team.is_main)
    with (
        LiveTable(config.steps, step, live and team.is_main) as table,
        tracking(config.keeping.track if team.is_main else "none", folder, step, config.described()) as send,
        finishing_the_step() as interrupted,
    ):
        while step < config.steps:
            step += 1
            match _attempt(run, step, guard.rows):
                case LostCritic() as failure:
                    _save_before(run, guard, step)
                    raise failure
                case NonFiniteScore() | NonFiniteUpdate() as failure:
                    disease, end = guard.refused(step, failure), failure
                    if isinstance(failure, NonFiniteScore) and not guard.may_roll_back(disease):
                        _save_before(run, guard, step)
                case metrics:
                    if due(config.keeping.probe_every, step):
                        judged = probe(run, held_out, folder, step)
                        metrics = replace(metrics, judge=judged)
                    log.append(metrics)
                    send(metrics)
                    diagnosis = guard.examine(metrics)
                    disease, end = guard.disease(diagnosis), None
                    table.show(metrics, diagnosis.warnings(), diagnosis.answer)
                    signal = team.most(interrupted() or 0)
                    if step % config.keeping.save_every == 0 or step == config.steps or signal or disease:
                        save(run, guard, step)
                    if on_step is not None:
                        on_step(step, metrics, policy)
                    if signal:
                        raise Interrupted(
                            signal, f"stopped after step {step}, which is saved in {folder.path}"
                        )
            if disease is not None:
                if not guard.may_roll_back(disease):
                    raise end or guard.stop(step, disease)
                step = roll_back(run, guard, step, disease)


def _attempt(
    run: Run, step: int, history: History
) -> StepMetrics | LostCritic | NonFiniteScore | NonFiniteUpdate:
    """The metrics of a step, or the failure that ended it.

    ``LostCritic`` and ``NonFiniteScore`` come before any update of the step. ``NonFiniteUpdate`` may come after
    other updates of the same step.
    """
    try:
        return take_step(run, step, history)
    except (LostCritic, NonFiniteScore, NonFiniteUpdate) as failure:
        return failure


def take_step(run: Run, step: int, history: History = ()) -> StepMetrics:
    """The step of the run's teacher: ``train_step`` by rewards, ``pretrain_step`` by recordings."""
    take = pretrain_step if run.config.learning.teacher == "recordings" else train_step
    return take(run, step, history)


def _save_before(run: Run, guard: Guard, step: int) -> None:
    """Save the state before ``step``, which must not have changed the weights; nothing at the first step."""
    if step > 1:
        save(run, guard, step - 1)
