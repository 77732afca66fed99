"""Checkpoints that survive a kill: written aside, synced, renamed; safetensors and json, never pickle.

A folder holds ``state.json`` and either ``tensors.safetensors``, whole tensors written by the main rank, or the
files that every rank of a sharded run wrote of its own shards (``shards.py``). Checksums cover all of it.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.parallel.sharding import like
from worldcompass.parallel.team import Team
from worldcompass.runs.atomic import aside, publish, remove, save_tensors
from worldcompass.runs.shards import Place, read_shards, write_shards

FORMAT, SHARDED_FORMAT = 1, 2
STEP = "step_"
STATE, _TENSORS = "state.json", "tensors.safetensors"


def save_checkpoint(
    root: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int = 2
) -> Path:
    """Write ``root/step_NNNNNN`` and then delete all but the newest ``keep``.

    A checkpoint exists under its name only when it is complete on disk; older ones are deleted after that.

    Args:
        state: what json can hold.
    """
    folder = _begin(root, step)
    save_tensors(folder / _TENSORS, {name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    return _finish(folder, {"format": FORMAT, "step": step, **state}, keep)


def save_sharded(
    root: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], team: Team, keep: int = 2
) -> Path:
    """``save_checkpoint`` by all ranks together: each writes its own shards, and none holds a whole tensor."""
    folder = team.on_main(lambda: _begin(root, step))
    write_shards(folder, {name: tensor.detach() for name, tensor in tensors.items()})
    files = team.on_main(lambda: sorted(path.name for path in folder.glob("*.safetensors")))
    own = {name: _digest(folder / name).hexdigest() for name in files[team.rank :: team.size]}
    digests = {name: digest for part in team.gather_objects(own) for name, digest in sorted(part.items())}
    facts = {"format": SHARDED_FORMAT, "step": step, "files": digests, **state}
    return team.on_main(lambda: _finish(folder, facts, keep))


def _begin(root: Path, step: int) -> Path:
    """An empty folder that is not seen as a checkpoint."""
    folder = aside(root / f"{STEP}{step:06d}")
    remove(folder)
    folder.mkdir(parents=True)
    return folder


def _finish(folder: Path, facts: Mapping[str, Any], keep: int) -> Path:
    """Seal a folder of tensors, give it its name, and only then delete the oldest."""
    root = folder.parent
    final = root / f"{STEP}{facts['step']:06d}"
    (folder / STATE).write_text(json.dumps({"checksum": _checksum(folder, facts), **facts}))
    publish(folder, final)
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
    return int(folder.name.removeprefix(STEP))


def _whole(name: str, size: torch.Size, dtype: torch.dtype) -> Tensor:
    return torch.empty(size, dtype=dtype)


def load_checkpoint(
    folder: Path, place: Place = _whole, team: Team | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and state of a checkpoint; several ranks call it alike and check the files of shards together.

    Args:
        place: what the shards of a sharded run are read into, whole tensors on the CPU by default. Whole tensors
            come as they are.

    Raises:
        DamagedCheckpoint: when it cannot be read, or is not what was written.
        UserError: when it is of another version.
    """
    team = team or Team()
    try:
        state = json.loads((folder / STATE).read_text())
        # Those of earlier versions have no checksum.
        damaged = state.pop("checksum", checksum := _checksum(folder, state)) != checksum
        files: dict[str, str] = state.get("files", {})
        own = list(files)[team.rank :: team.size]
        damaged = damaged or any(not _holds(folder / name, files[name]) for name in own)
        if team.most(damaged):
            raise DamagedCheckpoint(f"{folder} is damaged: it does not hold what was written")
        tensors = read_shards(folder, place, team.size == 1) if files else load_file(folder / _TENSORS)
    except (OSError, ValueError, AttributeError, SafetensorError) as error:
        raise DamagedCheckpoint(f"{folder} is not a readable checkpoint ({error})") from error
    if state.get("format") != (SHARDED_FORMAT if files else FORMAT):
        raise UserError(f"{folder} has checkpoint format {state.get('format')}, this version reads {FORMAT}")
    return tensors, state


class DamagedCheckpoint(UserError):
    """A checkpoint that was complete once and cannot be used any more."""


def newest_usable(
    root: Path,
    warn: Callable[[str], None],
    before: float = math.inf,
    place: Place = _whole,
    team: Team | None = None,
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and state of the newest checkpoint of a step < ``before`` that is whole; None where none was saved.

    Damaged ones are named. ``place`` and ``team`` are those of ``load_checkpoint``.

    Raises:
        DamagedCheckpoint: when there are checkpoints and none is whole.
    """
    folders = [folder for folder in _complete(root) if step_of(folder) < before]
    for folder in reversed(folders):
        try:
            return load_checkpoint(folder, place, team)
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


def _checksum(folder: Path, facts: Mapping[str, Any]) -> str:
    """Of the file of tensors and of what stands beside it, the checksum itself left out; shards have their own."""
    digest = hashlib.sha256() if "files" in facts else _digest(folder / _TENSORS)
    digest.update(json.dumps({name: value for name, value in facts.items() if name != "checksum"}).encode())
    return digest.hexdigest()


def _digest(path: Path) -> Any:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256")


def _holds(path: Path, digest: str) -> bool:
    return path.is_file() and _digest(path).hexdigest() == digest


def _complete(root: Path) -> list[Path]:
    return sorted(p for p in root.glob(f"{STEP}*") if (p / STATE).is_file() and any(p.glob("*.safetensors")))
