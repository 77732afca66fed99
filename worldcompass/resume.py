"""A run on disk: what makes it this run, saving it, going on with it, going back in it."""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from worldcompass.checkpoint import (
    delete_after,
    latest_checkpoint,
    newest_usable,
    pack_optimizer,
    save_checkpoint,
    unpack_optimizer,
)
from worldcompass.distributed import whole
from worldcompass.doctor.guard import LOOK_BACK, LR_AFTER_ROLLBACK, Guard, put_back
from worldcompass.doctor.record import Finding
from worldcompass.errors import UserError
from worldcompass.log import METRICS, MetricsLog

if TYPE_CHECKING:
    from worldcompass.train import Run

# Without making it another run.
MAY_CHANGE = (
    "steps", "save_every", "keep_checkpoints", "micro_rows", "probe_every", "on_disease", "track", "shard",
)  # fmt: skip


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


def save(run: Run, guard: Guard, step: int, keep: int = 0) -> None:
    """Checkpoint after a step: all weights, averages, the optimiser, the doctor; randomness derives from the step.

    All ranks call it; the main one writes whole tensors, so that any number of processes can go on.

    Args:
        keep: newest checkpoints that stay, at least.
    """
    tensors, plain = pack_optimizer(run.optimizer)
    named = {f"optimizer/{name}": t for name, t in tensors.items()}
    named |= {f"policy/{name}": t for name, t in run.policy.state().items()}
    kept = {name: _on_main(run, tensor) for name, tensor in named.items()}
    if run.team.is_main:
        keep = max(keep, run.config.keep_checkpoints)
        if run.config.on_disease == "rollback":
            keep = max(keep, 2 + LOOK_BACK // run.config.save_every)
        state = {"optimizer": plain, "run": identity(run), "doctor": guard.state()}
        save_checkpoint(guard.out_dir / "checkpoints", step, kept, state, keep)
    run.team.wait()


def _on_main(run: Run, tensor: Tensor) -> Tensor:
    """The whole tensor in the main rank's CPU memory, nothing elsewhere; one at a time."""
    full = whole(tensor)
    return full.cpu() if run.team.is_main else full.new_empty(0)


def restore(run: Run, out_dir: Path) -> int:
    """The step of the newest whole checkpoint after loading it; 0 when nothing was saved yet.

    What the doctor knew then and the folder has lost is written anew.

    Raises:
        UserError: when it belongs to another run, or all are damaged.
    """
    found = newest_usable(out_dir / "checkpoints", _warn)
    step = 0 if found is None else _take_over(run, out_dir, *found)
    if run.team.is_main:
        put_back(out_dir, {} if found is None else found[1].get("doctor", {}), step)
    return step


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=4)


def _take_over(run: Run, out_dir: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> int:
    own, saved = json.loads(json.dumps(identity(run))), state["run"]
    changed = [
        f"{key} (saved {json.dumps(saved.get(key))}, now {json.dumps(own.get(key))})"
        for key in sorted(own.keys() | saved.keys())
        if own.get(key) != saved.get(key)
    ]
    if changed:
        raise UserError(f"{out_dir} holds another run: it differs in {', '.join(changed)}")
    parts: dict[str, dict[str, Tensor]] = {"policy": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        part, rest = name.split("/", 1)
        parts[part][rest] = tensor
    run.policy.load(parts["policy"])
    unpack_optimizer(run.optimizer, parts["optimizer"], state["optimizer"])
    return state["step"]


def roll_back(run: Run, guard: Guard, step: int, finding: Finding) -> int:
    """Go back to the newest checkpoint before a disease, or to the start, and go on with half the learning rate.

    Returns:
        The step gone back to. It is saved anew before anything later is deleted, so that a kill in between
        loses nothing.

    Raises:
        DamagedCheckpoint: when there are checkpoints from before the disease and none is whole.
    """
    root, lr = guard.out_dir / "checkpoints", LR_AFTER_ROLLBACK * run.optimizer.param_groups[0]["initial_lr"]
    found = newest_usable(root, _warn, before=finding.since)
    if found is None:
        run.policy.start_over()
        run.optimizer.state.clear()
    to = 0 if found is None else _take_over(run, guard.out_dir, *found)
    for group in run.optimizer.param_groups:
        group["initial_lr"] = lr
    run.team.wait()
    # Whenever a kill comes: a resumed run goes on from the sick step with all its rows, or from ``to``.
    guard.rolled_back(step, to, finding, lr)
    save(run, guard, to, keep=sys.maxsize)
    if run.team.is_main:
        delete_after(root, to)
        MetricsLog(guard.out_dir / METRICS, to)
    run.team.wait()
    return to
