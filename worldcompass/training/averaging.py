"""Average the weights of several short runs, and extrapolate from the start through their mean.

Runs of different seeds share the learned update and differ in noise, much of which the mean removes ("model soups",
arXiv 2203.05482). Extrapolation beyond the mean improves further ("model extrapolation", arXiv 2404.16792), unlike
more steps of one run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.parallel.team import Team
from worldcompass.runs.atomic import write_json
from worldcompass.runs.checkpoint import CheckpointState, latest_checkpoint, load_checkpoint, save_checkpoint
from worldcompass.runs.folder import RunFolder
from worldcompass.runs.metrics import StepMetrics, mean_metrics, read_metrics, write_metrics
from worldcompass.training.config import Config
from worldcompass.training.loop import train_parts
from worldcompass.training.policy import Policy
from worldcompass.training.probe import HeldOut
from worldcompass.training.run import Parts
from worldcompass.world import WorldModel


def check_members(members: object, extend: float) -> None:
    """Check the number of runs and the factor of extrapolation.

    Raises:
        UserError: when ``members`` is below 1, or ``extend`` is negative or not finite.
    """
    if isinstance(members, bool) or not isinstance(members, int) or members < 1:
        raise UserError(f"members must be a whole number of runs, 1 or more, got {members!r}")
    if not (math.isfinite(extend) and extend >= 0):
        raise UserError(f"extend must be finite and not below 0 (1: the mean of the members), got {extend}")


def extended_mean(
    start: Mapping[str, Tensor], members: Sequence[Mapping[str, Tensor]], extend: float = 1.0
) -> dict[str, Tensor]:
    """``w0 + extend (mean_m w_m - w0)``, tensor by tensor.

    Args:
        start: the weights that all members started from.
        members: one or more, with the names of ``start``.
        extend: 1 gives the mean; values above 1 extrapolate beyond it.
    """
    return {
        name: first + extend * (torch.stack([weights[name] for weights in members]).mean(0) - first)
        for name, first in start.items()
    }


def extend_checkpoint(policy: Policy, averages: Sequence[Mapping[str, Tensor]], extend: float) -> None:
    """Replace the policy's checkpoint average by ``extended_mean`` from the reference weights."""
    for name, tensor in extended_mean(policy.reference_weights, averages, extend).items():
        policy.checkpoint_weights[name].copy_(tensor)


def train_members(
    parts_of: Callable[[Config], Parts],
    config: Config,
    members: int,
    extend: float,
    out_dir: Path,
    held_out: HeldOut | None = None,
) -> tuple[WorldModel[Any], Policy]:
    """Train or resume every member in ``out_dir/members/M``; their extended mean becomes the checkpoint average.

    ``out_dir`` gets the files of a single run: a checkpoint, the configuration, and the metrics of each step
    averaged over the members.

    Args:
        parts_of: the world, critics and scenarios for a member's configuration.
        config: of all members except for the seed. Member m of M gets ``seed * M + m``, so that two runs never
            share a seed.

    Returns:
        The last member's world and policy; ``with policy.checkpoint():`` swaps the extended mean into its network.

    Raises:
        UserError, StoppedRun, Interrupted: as ``train``; a second call resumes.
    """
    check_members(members, extend)
    if config.sampling.order == "adaptive":
        raise UserError("order=adaptive gives every member chunks of its own: set members=1")
    team, whole = Team.current(), RunFolder(out_dir)
    averages: list[dict[str, Tensor]] = []
    last: tuple[Parts, Policy] | None = None
    folders = [whole.member(number) for number in range(members)]
    for number, folder in enumerate(folders):
        if team.is_main:
            print(f"member {number + 1} of {members}: {folder.path}", flush=True)
        parts = parts_of(config.changed(seed=config.seed * members + number))
        started = team.agree(folder.checkpoints.is_dir())
        policy = train_parts(parts, folder.path, resume=started, held_out=held_out)
        averages.append({name: tensor.clone() for name, tensor in policy.checkpoint_weights.items()})
        team.on_main(lambda: _write_metrics(whole, folders[: len(averages)]))
        last = parts, policy
    assert last is not None, "there is at least one member"
    parts, policy = last
    extend_checkpoint(policy, averages, extend)
    team.on_main(lambda: _write_run(whole, folders, parts.config.changed(seed=config.seed), policy))
    return parts.world, policy


def mean_steps(members: Sequence[Sequence[StepMetrics]]) -> list[StepMetrics]:
    """Metrics of each step averaged over the members, without the steps that a member lacks."""
    by_step = [{row.step: row for row in rows} for rows in members]
    first, *others = by_step
    common = sorted(set(first).intersection(*others))
    return [mean_metrics([rows[step] for rows in by_step]) for step in common]


def _write_metrics(whole: RunFolder, finished: Sequence[RunFolder]) -> None:
    """Write the mean over the members so far, for readers of an unfinished run."""
    write_metrics(whole.metrics, mean_steps([read_metrics(folder.metrics) for folder in finished]))


def _write_run(whole: RunFolder, folders: Sequence[RunFolder], config: Config, policy: Policy) -> None:
    """Write the configuration and a checkpoint with the evaluated weights, as readers of a run expect."""
    newest = latest_checkpoint(folders[-1].checkpoints)
    assert newest is not None, "every member saves its last step"
    _, state = load_checkpoint(newest)
    write_json(whole.config, config.described(), indent=2)
    kept = {"checkpoint": policy.checkpoint_weights, "reference": policy.reference_weights}
    tensors = {f"policy/{part}/{name}": t for part, weights in kept.items() for name, t in weights.items()}
    run = {**state.run, "seed": config.seed}
    save_checkpoint(whole.checkpoints, tensors, CheckpointState(state.step, run, config.described()))
