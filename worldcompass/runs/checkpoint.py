"""Checkpoints, written atomically as safetensors and JSON, without pickle.

A folder holds ``state.json`` and either ``tensors.safetensors``, with whole tensors from the main rank, or one file
of shards from every rank of a sharded run (``shards.py``). Checksums cover all files.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.parallel.sharding import all_finite, like
from worldcompass.parallel.team import Team
from worldcompass.runs.atomic import aside, publish, remove, save_tensors
from worldcompass.runs.events import Event, from_json, to_json
from worldcompass.runs.metrics import StepMetrics
from worldcompass.runs.reading import parse_json
from worldcompass.runs.shards import Place, read_shards, write_shards

FORMAT, SHARDED_FORMAT = 1, 2
STEP = "step_"
WEIGHTS = "policy/"  # begins the names of weights
STATE, _TENSORS = "state.json", "tensors.safetensors"


@dataclass(frozen=True)
class CheckpointState:
    """What a checkpoint holds besides tensors; mappings hold JSON values.

    Checkpoints of earlier versions may lack everything but the step.
    """

    step: int
    """After which it was written."""
    run: Mapping[str, object] = field(default_factory=dict[str, object])
    """The settings that must be equal to resume, see ``training.resume.identity``."""
    config: Mapping[str, object] = field(default_factory=dict[str, object])
    """The whole configuration."""
    optimizer: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The part of ``pack_optimizer`` that holds no tensors."""
    rows: Sequence[StepMetrics] = ()
    """Metrics of all steps so far."""
    events: Sequence[Event] = ()
    """Actions of the doctor so far, and changed settings."""

    @property
    def critics(self) -> tuple[str, ...]:
        """Names of the critics that the run trained on; empty when not stored."""
        found = self.run.get("critics")
        return tuple(map(str, cast("list[object]", found))) if isinstance(found, list) else ()

    def to_json(self) -> dict[str, Any]:
        """JSON values, as in the file of format 1."""
        seen = {"rows": [row.to_json() for row in self.rows], "events": list(map(to_json, self.events))}
        return {
            "step": self.step,
            "optimizer": self.optimizer,
            "run": self.run,
            "config": self.config,
            "doctor": seen,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> CheckpointState:
        """The inverse of ``to_json``.

        Raises:
            ValueError: when an entry is malformed; it names the reason.
        """
        step = data.get("step")
        if not isinstance(step, int) or isinstance(step, bool):
            raise ValueError(f"step is {step!r}, expected a whole number")
        run, config, optimizer, seen = (
            _object(data, name) for name in ("run", "config", "optimizer", "doctor")
        )
        rows, events = (seen.get(name, []) for name in ("rows", "events"))
        if not isinstance(rows, list) or not isinstance(events, list):
            raise ValueError("doctor is malformed")
        kept = tuple(map(StepMetrics.from_json, cast("list[object]", rows)))
        return CheckpointState(
            step, run, config, optimizer, kept, tuple(map(from_json, cast("list[object]", events)))
        )


def _object(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = data.get(name, {})
    if not isinstance(found, Mapping):
        raise ValueError(f"{name} is malformed")
    return cast("Mapping[str, Any]", found)


def save_checkpoint(root: Path, tensors: Mapping[str, Tensor], state: CheckpointState, keep: int = 2) -> Path:
    """Write ``root/step_NNNNNN`` and then delete all but the newest ``keep``.

    A checkpoint gets its name only when it is complete on disk; older ones are deleted after that.
    """
    folder = _begin(root, state.step)
    save_tensors(folder / _TENSORS, {name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    return _finish(folder, {"format": FORMAT, **state.to_json()}, keep)


def save_sharded(
    root: Path, tensors: Mapping[str, Tensor], state: CheckpointState, team: Team, keep: int = 2
) -> Path:
    """``save_checkpoint`` for shards: all ranks call it, each writes its shards, and none holds a whole tensor."""
    folder = team.on_main(lambda: _begin(root, state.step))
    write_shards(folder, {name: tensor.detach() for name, tensor in tensors.items()})
    files = team.on_main(lambda: sorted(path.name for path in folder.glob("*.safetensors")))
    own = {name: _digest(folder / name).hexdigest() for name in files[team.rank :: team.size]}
    digests = {name: digest for part in team.gather_objects(own) for name, digest in sorted(part.items())}
    facts = {"format": SHARDED_FORMAT, "files": digests, **state.to_json()}
    return team.on_main(lambda: _finish(folder, facts, keep))


def _begin(root: Path, step: int) -> Path:
    """Make an empty folder that readers do not take for a checkpoint."""
    folder = aside(root / f"{STEP}{step:06d}")
    remove(folder)
    folder.mkdir(parents=True)
    return folder


def _finish(folder: Path, facts: Mapping[str, Any], keep: int) -> Path:
    """Write the state with its checksum, rename the folder, and only then delete the oldest checkpoints."""
    root = folder.parent
    final = root / f"{STEP}{facts['step']:06d}"
    text = json.dumps({"checksum": _checksum(folder, facts), **facts})
    (folder / STATE).write_text(text, encoding="utf-8")
    publish(folder, final)
    for old in _complete(root)[: -max(keep, 1)]:
        shutil.rmtree(old)
    return final


def latest_checkpoint(root: Path, before: float = math.inf) -> Path | None:
    """The newest complete checkpoint under ``root`` of a step < ``before``; None without one."""
    found = [folder for folder in _complete(root) if step_of(folder) < before]
    return found[-1] if found else None


def delete_after(root: Path, step: int) -> None:
    """Delete the checkpoints of later steps, the newest last, as a resumed run starts from the newest."""
    for folder in _complete(root):
        if step_of(folder) > step:
            shutil.rmtree(folder)


def step_of(folder: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(folder.name.removeprefix(STEP))


def _whole(name: str, size: torch.Size, dtype: torch.dtype) -> Tensor:
    return torch.empty(size, dtype=dtype)


def read_state(folder: Path) -> CheckpointState:
    """The state of a checkpoint without its tensors; checksums are not checked.

    Raises:
        DamagedCheckpoint: when it cannot be read.
    """
    try:
        return CheckpointState.from_json(parse_json((folder / STATE).read_bytes()))
    except (OSError, ValueError, AttributeError) as error:
        raise DamagedCheckpoint(f"{folder} is not a readable checkpoint ({error})") from error


def load_checkpoint(
    folder: Path, place: Place = _whole, team: Team | None = None
) -> tuple[dict[str, Tensor], CheckpointState]:
    """Read the tensors and state of a checkpoint; all ranks call it and share the work of checking shard files.

    Args:
        place: makes the tensors to read shards into; whole tensors on the CPU by default. Checkpoints of whole
        tensors
            do not use it.

    Raises:
        DamagedCheckpoint: when it cannot be read, differs from its checksums, or holds weights that are not finite.
        PermissionError: when this user may not read it.
        UserError: when it has another format.
    """
    team = team or Team()
    try:
        state = parse_json((folder / STATE).read_bytes())
        # Checkpoints of earlier versions have no checksum.
        damaged = state.pop("checksum", checksum := _checksum(folder, state)) != checksum
        files: dict[str, str] = state.get("files", {})
        own = list(files)[team.rank :: team.size]
        damaged = damaged or any(not _holds(folder / name, files[name]) for name in own)
        if team.most(damaged):
            raise DamagedCheckpoint(f"{folder} is damaged: its content does not match its checksum")
        tensors = read_shards(folder, place, team.size == 1) if files else load_file(folder / _TENSORS)
    except PermissionError:  # the checkpoint may be sound
        raise
    except (OSError, ValueError, AttributeError, SafetensorError) as error:
        raise DamagedCheckpoint(f"{folder} is not a readable checkpoint ({error})") from error
    if state.get("format") != (SHARDED_FORMAT if files else FORMAT):
        raise UserError(f"{folder} has checkpoint format {state.get('format')}, this version reads {FORMAT}")
    if team.most(not all_finite(tensor for name, tensor in tensors.items() if name.startswith(WEIGHTS))):
        raise DamagedCheckpoint(f"{folder} holds weights that are not finite")
    return tensors, read_state(folder)


class DamagedCheckpoint(UserError):
    """A checkpoint cannot be used: unreadable, different from its checksum, or with weights that are not finite."""


def newest_usable(
    root: Path,
    warn: Callable[[str], None],
    before: float = math.inf,
    place: Place = _whole,
    team: Team | None = None,
) -> tuple[dict[str, Tensor], CheckpointState] | None:
    """Tensors and state of the newest intact checkpoint of a step < ``before``; None without checkpoints.

    ``warn`` gets a sentence about every damaged one. ``place`` and ``team`` are those of ``load_checkpoint``.

    Raises:
        DamagedCheckpoint: when every checkpoint is damaged.
    """
    folders = [folder for folder in _complete(root) if step_of(folder) < before]
    for folder in reversed(folders):
        try:
            return load_checkpoint(folder, place, team)
        except DamagedCheckpoint as damage:
            warn(f"{damage}; the one before it is used")
    if folders:
        raise DamagedCheckpoint(f"none of the {len(folders)} checkpoints in {root} can be used")
    return None


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state, momentum included, as flat tensors and JSON values."""
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
    """Restore the state from ``pack_optimizer``, for the same parameters in the same order."""
    entries: dict[int, dict[str, Any]] = {}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, value in [*tensors.items(), *plain["state"].items()]:
        index, key = name.split("/", 1)
        # Copied, as load_state_dict keeps references to the tensors.
        entries.setdefault(int(index), {})[key] = _placed(value, parameters[int(index)])
    optimizer.load_state_dict({"state": entries, "param_groups": plain["param_groups"]})


def _placed(value: Any, parameter: Tensor) -> Any:
    """A copy of an optimiser's value; a tensor of its parameter's shape is sharded like the parameter."""
    if not isinstance(value, Tensor):
        return value
    return like(value.clone(), parameter) if value.shape == parameter.shape else value.clone()


def _checksum(folder: Path, facts: Mapping[str, Any]) -> str:
    """Checksum of the state without its own entry, and of the file of whole tensors; shards have their own."""
    digest = hashlib.sha256() if "files" in facts else _digest(folder / _TENSORS)
    digest.update(json.dumps({name: value for name, value in facts.items() if name != "checksum"}).encode())
    return digest.hexdigest()


def _digest(path: Path) -> Any:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256")


def _holds(path: Path, digest: str) -> bool:
    return path.is_file() and _digest(path).hexdigest() == digest


def _complete(root: Path) -> list[Path]:
    """The complete checkpoints in order of their steps; a copy such as ``step_000008_backup`` is none.

    Raises:
        OSError: when a folder cannot be read, which is not an empty one.
    """
    numbered = [root / n for n in _names(root) if n.startswith(STEP) and n.removeprefix(STEP).isdecimal()]
    complete = [
        path
        for path in numbered
        if STATE in (names := _names(path)) and any(name.endswith(".safetensors") for name in names)
    ]
    return sorted(complete, key=step_of)


def _names(folder: Path) -> list[str]:
    """The names in a folder; none without one. ``Path.glob`` takes an unreadable folder for an empty one."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
