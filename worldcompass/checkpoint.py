"""Checkpoints that survive a kill: written aside, synced, renamed; safetensors and json, never pickle."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from worldcompass.distributed import like
from worldcompass.errors import UserError

FORMAT = 1
_TENSORS, _STATE = "tensors.safetensors", "state.json"


def save_checkpoint(
    root: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int = 2
) -> Path:
    """Write ``root/step_NNNNNN`` and then delete all but the newest ``keep``.

    A checkpoint exists under its name only when it is complete on disk; older ones are deleted after that.

    Args:
        state: what json can hold.
    """
    final, aside = root / f"step_{step:06d}", root / f".unfinished_step_{step:06d}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    _write(aside / _TENSORS, {name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    facts = {"format": FORMAT, "step": step, **state}
    checksum = _checksum(aside / _TENSORS, facts)
    (aside / _STATE).write_text(json.dumps({"checksum": checksum, **facts}))
    for path in (aside / _TENSORS, aside / _STATE, aside):
        _sync(path)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(aside, final)
    _sync(root)
    for old in _complete(root)[: -max(keep, 1)]:
        shutil.rmtree(old)
    return final


def latest_checkpoint(root: Path, before: float = math.inf) -> Path | None:
    """The newest complete checkpoint under ``root`` of a step < ``before``; half-written ones are not seen."""
    found = [folder for folder in _complete(root) if step_of(folder) < before]
    return found[-1] if found else None


def delete_after(root: Path, step: int) -> None:
    """Delete the checkpoints of later steps, the newest last: until then a resumed run would begin with it."""
    for folder in _complete(root):
        if step_of(folder) > step:
            shutil.rmtree(folder)


def step_of(folder: Path) -> int:
    """The step that a checkpoint was written after."""
    return int(folder.name.removeprefix("step_"))


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (on the CPU) and state of a checkpoint.

    Raises:
        DamagedCheckpoint: when it cannot be read, or is not what was written.
        UserError: when it is of another version.
    """
    try:
        state = json.loads((folder / _STATE).read_text())
        # Those of earlier versions have no checksum.
        if state.pop("checksum", checksum := _checksum(folder / _TENSORS, state)) != checksum:
            raise DamagedCheckpoint(f"{folder} is damaged: it does not hold what was written")
        tensors = load_file(folder / _TENSORS)
    except (OSError, ValueError, AttributeError, SafetensorError) as error:
        raise DamagedCheckpoint(f"{folder} is not a readable checkpoint ({error})") from error
    if state.get("format") != FORMAT:
        raise UserError(f"{folder} has checkpoint format {state.get('format')}, this version reads {FORMAT}")
    return tensors, state


class DamagedCheckpoint(UserError):
    """A checkpoint that was complete once and cannot be used any more."""


def newest_usable(
    root: Path, warn: Callable[[str], None], before: float = math.inf
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and state of the newest checkpoint of a step < ``before`` that is whole; None where none was saved.

    Damaged ones are named.

    Raises:
        DamagedCheckpoint: when there are checkpoints and none is whole.
    """
    folders = [folder for folder in _complete(root) if step_of(folder) < before]
    for folder in reversed(folders):
        try:
            return load_checkpoint(folder)
        except DamagedCheckpoint as damage:
            warn(f"{damage}; the one before it is used")
    if folders:
        raise DamagedCheckpoint(f"none of the {len(folders)} checkpoints in {root} can be read")
    return None


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state as flat tensors and a json part; the momentum of every parameter included."""
    packed = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for index, entries in packed["state"].items():
        for key, value in entries.items():
            (tensors if isinstance(value, Tensor) else plain)[f"{index}/{key}"] = value
    return tensors, {"state": plain, "param_groups": packed["param_groups"]}


def unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
) -> None:
    """Restore what ``pack_optimizer`` returned, for the same parameters in the same order."""
    entries: dict[int, dict[str, Any]] = {}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, value in [*tensors.items(), *plain["state"].items()]:
        index, key = name.split("/", 1)
        # load_state_dict takes tensors over without copying them.
        entries.setdefault(int(index), {})[key] = _placed(value, parameters[int(index)])
    optimizer.load_state_dict({"state": entries, "param_groups": plain["param_groups"]})


def _placed(value: Any, parameter: Tensor) -> Any:
    """A copy of an optimiser's value, sharded as its parameter where it has its shape."""
    if not isinstance(value, Tensor):
        return value
    return like(value.clone(), parameter) if value.shape == parameter.shape else value.clone()


def _checksum(tensors: Path, facts: Mapping[str, Any]) -> str:
    """Of a file of tensors and of what stands beside it, the checksum itself left out."""
    with tensors.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(json.dumps({name: value for name, value in facts.items() if name != "checksum"}).encode())
    return digest.hexdigest()


def _complete(root: Path) -> list[Path]:
    return sorted(p for p in root.glob("step_*") if (p / _STATE).is_file() and (p / _TENSORS).is_file())


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file; a full disk is an ``OSError`` here too, which safetensors makes its own of."""
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        if number := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        raise


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
