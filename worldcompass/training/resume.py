"""Save, resume and roll back a run, and compare its settings with the saved ones."""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from worldcompass.doctor.guard import LOOK_BACK, LR_AFTER_ROLLBACK, Guard, put_back
from worldcompass.doctor.record import Finding
from worldcompass.errors import UserError
from worldcompass.parallel.sharding import is_sharded
from worldcompass.runs.atomic import sync
from worldcompass.runs.checkpoint import (
    CheckpointState,
    delete_after,
    latest_checkpoint,
    newest_usable,
    pack_optimizer,
    save_checkpoint,
    save_sharded,
    unpack_optimizer,
)
from worldcompass.runs.events import Changed, read_events, write_events
from worldcompass.runs.folder import RunFolder
from worldcompass.runs.metrics import MetricsLog
from worldcompass.runs.settings import by_short_name
from worldcompass.training import of_recipe
from worldcompass.training.optim import refuse_broken_weights

if TYPE_CHECKING:
    from worldcompass.training.run import Run

# Settings that a resumed run may change; ``steps`` only if no rate falls along them.
MAY_CHANGE = (
    "steps", "save_every", "keep_checkpoints", "micro_rows", "probe_every", "on_disease", "track", "shard",
    "shard_within", "offload", "ranks_per_group", "accept_changes", "recipe",
)  # fmt: skip
# Settings that a checkpoint cannot be resumed without.
FIXED = ("world", "lora", "trained", "make_optimizer", "critics")


def begin(folder: RunFolder) -> int:
    """Step 0 of a new run.

    Raises:
        UserError: when the folder already holds one.
    """
    if latest_checkpoint(folder.checkpoints) is not None:
        raise UserError(f"{folder.path} already holds a run: resume it or choose another folder")
    return 0


def identity(run: Run) -> dict[str, object]:
    """The settings that must equal those of a checkpoint to resume from it."""
    config = {k: v for k, v in run.config.settings().items() if k not in MAY_CHANGE}
    ids = hashlib.sha256(json.dumps([s.id for s in run.scenarios]).encode()).hexdigest()
    critics = [critic.name for critic in run.critics]
    own = {"world": run.world.spec.name, "critics": critics, "scenarios": ids}
    return {**config, **own, **of_recipe.current()}


def save(run: Run, guard: Guard, step: int, keep: int = 0) -> None:
    """Save a checkpoint after a step: all weights, averages, the optimiser, the configuration, the doctor.

    Rates, curriculum, data and all randomness are functions of the configuration and the step. All ranks must call
    it: each writes its shards, or the main one whole tensors. Any number of processes can resume from either.

    Args:
        keep: smallest number of newest checkpoints to keep.

    Raises:
        NonFiniteUpdate: when a weight is not finite, before an older checkpoint is deleted.
    """
    root, keeping = guard.folder.checkpoints, run.config.keeping
    refuse_broken_weights(run.policy.tensors().values(), run.team)  # averages too
    keep = max(keep, keeping.keep_checkpoints)
    if keeping.on_disease == "rollback":
        keep = max(keep, 2 + LOOK_BACK // keeping.save_every)
    tensors, plain = pack_optimizer(run.optimizer)
    named = {f"optimizer/{name}": t for name, t in tensors.items()}
    named |= {f"policy/{name}": t for name, t in run.policy.tensors().items()}
    for critic in run.learners:
        named |= {f"critic/{critic.name}/{name}": t for name, t in critic.state().items()}
    state = CheckpointState(
        step=step,
        run=identity(run),
        config=run.config.described(),
        optimizer=plain,
        rows=tuple(guard.rows),
        events=tuple(guard.events),
    )
    if run.team.is_main and (metrics := guard.folder.metrics).is_file():
        sync(metrics)  # a resumed run needs its rows
    if any(is_sharded(tensor) for tensor in named.values()):
        save_sharded(root, named, state, run.team, keep)
    else:
        run.team.on_main(lambda: save_checkpoint(root, named, state, keep))
    run.team.wait()


def restore(run: Run, folder: RunFolder) -> int:
    """Load the newest intact checkpoint and return its step; 0 when there is none.

    Files of the doctor that the folder lost are written again from the checkpoint.

    Raises:
        UserError: when it belongs to another run, or every checkpoint is damaged.
    """
    found = newest_usable(folder.checkpoints, _warn, place=_Places(run), team=run.team)
    state = CheckpointState(0) if found is None else found[1]
    changed = {} if found is None else _take_over(run, folder, *found)

    def put_back_and_note() -> None:
        put_back(folder, state)
        if changed:
            write_events(folder.events, [*read_events(folder.events), Changed(state.step, changed)])

    run.team.on_main(put_back_and_note)
    return state.step


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=4)


class _Places:
    """Makes the tensors to read into: shards for the sharded tensors of the run, whole tensors for the rest."""

    def __init__(self, run: Run) -> None:
        self.parameters = run.policy.parameters
        self.policy = {f"policy/{name}": tensor for name, tensor in run.policy.tensors().items()}

    def __call__(self, name: str, size: torch.Size, dtype: torch.dtype) -> Tensor:
        pattern = self.policy.get(name)
        if name.startswith("optimizer/"):
            pattern = self.parameters[int(name.split("/")[1])]
        if pattern is None or pattern.shape != size or not is_sharded(pattern):
            return torch.empty(size, dtype=dtype)
        return torch.empty_like(pattern, dtype=dtype)


def differences(
    saved: Mapping[str, object], now: Mapping[str, object], defaults: Mapping[str, object], inside: str = ""
) -> dict[str, list[object]]:
    """Settings that differ, by name: [saved, now]; nested ones as ``outer.inner``, absent ones None.

    A setting that the saved run does not know counts as its default: new settings default to the earlier behaviour.
    """
    found: dict[str, list[object]] = {}
    for key in sorted(saved.keys() | now.keys()):
        default, new = defaults.get(key), now.get(key)
        old = saved.get(key, default)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            parts = cast("Mapping[str, object]", old), cast("Mapping[str, object]", new)
            found |= differences(*parts, cast("Mapping[str, object]", default or {}), f"{inside}{key}.")
        elif old != new:
            found[inside + key] = [old, new]
    return found


def refuse_changes(out_dir: Path, changed: Mapping[str, Sequence[Any]], accepted: bool) -> None:
    """Refuse changed settings, unless they are ``accepted`` and none of them is in ``FIXED``.

    Raises:
        UserError: with a diff of the settings.
    """
    fixed = [name for name in changed if name.split(".")[0] in FIXED]
    if not changed or (accepted and not fixed):
        return
    lines = [f"  {name}: {json.dumps(old)} -> {json.dumps(new)}" for name, (old, new) in changed.items()]
    ways = "give the same settings, or choose another --out"
    if not fixed:
        ways = "give the same settings, choose another --out, or resume with these by --accept-changes"
    raise UserError("\n".join([f"{out_dir} holds a run with other settings (saved -> now):", *lines, ways]))


def _take_over(
    run: Run, folder: RunFolder, tensors: dict[str, Tensor], state: CheckpointState
) -> dict[str, list[Any]]:
    """Load a checkpoint and return the settings that changed."""
    now, defaults = (json.loads(json.dumps(part)) for part in (identity(run), type(run.config)().settings()))
    saved = by_short_name(state.run)
    before, own = (known.pop(of_recipe.SETTINGS, None) for known in (saved, now))
    changed = differences(saved, now, defaults)
    # Earlier versions and training from Python store none.
    if isinstance(before, Mapping) and isinstance(own, Mapping):
        theirs, ours = cast("Mapping[str, object]", before), cast("Mapping[str, object]", own)
        of_its_own = differences(theirs, ours, {})
        changed |= {name: pair for name, pair in of_its_own.items() if name.split(".")[-1] not in MAY_CHANGE}
    changed |= _changed_schedule(run, state)
    refuse_changes(folder.path, changed, run.config.keeping.accept_changes or of_recipe.accepted())
    parts: dict[str, dict[str, Tensor]] = {"policy": {}, "optimizer": {}, "critic": {}}
    for name, tensor in tensors.items():
        part, rest = name.split("/", 1)
        parts[part][rest] = tensor
    run.policy.load(parts["policy"])
    unpack_optimizer(run.optimizer, parts["optimizer"], state.optimizer)
    for critic in run.learners:
        own = {name: t for name, t in parts["critic"].items() if name.startswith(f"{critic.name}/")}
        critic.load({name.removeprefix(f"{critic.name}/"): t for name, t in own.items()})
    for group in run.optimizer.param_groups:
        group |= {"initial_lr": run.config.optimiser.lr} if "lr" in changed else {}
        group |= {"weight_decay": run.config.optimiser.weight_decay} if "weight_decay" in changed else {}
    return changed


def _changed_schedule(run: Run, state: CheckpointState) -> dict[str, list[Any]]:
    """The number of steps, [saved, now], if it changed and the learning rate falls along it; else nothing."""
    saved, now = by_short_name(state.config), run.config.steps
    old = saved.get("steps", now)
    falls = run.config.optimiser.lr_end != 1 or saved.get("lr_end", 1) != 1
    return {"steps": [old, now]} if falls and old != now else {}


def roll_back(run: Run, guard: Guard, step: int, finding: Finding) -> int:
    """Return to the newest checkpoint before a disease, or to the start, and halve the learning rate.

    Returns:
        The step of that checkpoint. It is saved again before later checkpoints are deleted, so that a kill in
        between loses nothing.

    Raises:
        DamagedCheckpoint: when every checkpoint from before the disease is damaged.
    """
    root, lr = guard.folder.checkpoints, LR_AFTER_ROLLBACK * run.optimizer.param_groups[0]["initial_lr"]
    found = newest_usable(root, _warn, before=finding.since, place=_Places(run), team=run.team)
    if found is None:
        run.policy.start_over()
        run.optimizer.state.clear()
        for critic in run.learners:
            critic.load({})
    else:
        _take_over(run, guard.folder, *found)
    to = 0 if found is None else found[1].step
    for group in run.optimizer.param_groups:
        group["initial_lr"] = lr
    run.team.wait()
    # After a kill at any point, a resumed run continues from the sick step with all its rows, or from ``to``.
    guard.rolled_back(step, to, finding, lr)
    save(run, guard, to, keep=sys.maxsize)
    if run.team.is_main:
        delete_after(root, to)
        MetricsLog(guard.folder.metrics, to)
    run.team.wait()
    return to
