"""What a small world gives to a blind study: its scenarios, and videos of the base and of runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.evaluate import imagine_all, scenarios_hash
from worldcompass.judging.votes.controls import BASE
from worldcompass.judging.votes.subjects import Subjects
from worldcompass.runs.folder import RunFolder, owner_of, weights_folder
from worldcompass.types import Scenario
from worldcompass.world import WorldModel
from worldcompass.worlds.small.weights import WeightFiles

TRAINED, OTHER = "trained", "other"


@dataclass(frozen=True)
class Study:
    """What a study needs of a world."""

    weights: WeightFiles
    """With a shipped base."""
    load: Callable[[Path | None, str], WorldModel[Any]]
    """Makes the world from a folder of weights, on a device."""
    scenario_ids: tuple[str, ...]
    prepare: Callable[[Sequence[str]], Sequence[Scenario]]
    """See ``Subjects``; with the engine's frames."""
    num_frames: int
    """Of every video."""


def subjects_of(study: Study, run: Path, rival: Path | None, device: str) -> Subjects:
    """Subjects of a study of one run against the shipped base, or against another run.

    Args:
        study: of the world.
        run: a run folder or a folder of weights; its wins are counted.
        rival: the same for the other side; the shipped base when None.
        device: a device of PyTorch, such as ``cuda``.

    Raises:
        UserError: when weights are missing, of another world, or the same on both sides.
    """
    files = study.weights
    assert files.shipped is not None
    folders = {BASE: files.shipped, TRAINED: _weights(run, files.net)}
    if rival is not None:
        folders[OTHER] = _weights(rival, files.net)
    hashes = {name: hashlib.sha256((f / files.net).read_bytes()).hexdigest() for name, f in folders.items()}
    against = BASE if rival is None else OTHER
    if hashes[TRAINED] == hashes[against]:
        raise UserError(
            f"{run} and {rival or 'the shipped base'} hold the same weights: name two different runs"
        )
    worlds = {name: study.load(folder, device) for name, folder in folders.items()}

    def imagine(name: str, scenarios: Sequence[Scenario], noise: int) -> Tensor:
        return imagine_all(worlds[name], scenarios, noise)

    spec = worlds[BASE].spec
    return Subjects(
        spec=spec,
        scenario_ids=study.scenario_ids,
        subject=TRAINED,
        rival=against,
        titles=_titles(folders, files.shipped),
        weights=hashes,
        num_frames=study.num_frames,
        prepare=study.prepare,
        imagine=imagine,
        fingerprint=partial(scenarios_hash, space=spec.actions),
    )


def _weights(path: Path, net: str) -> Path:
    """The folder of the world's weights inside a run, or ``path`` itself."""
    own = RunFolder(path).weights
    if own.is_dir() and not (own / net).is_file() and any(own.iterdir()):
        raise UserError(
            f"{path} is a run of another world (its weights hold no {net}): name its world with --world"
        )
    return weights_folder(path, net)


def _titles(folders: Mapping[str, Path], shipped: Path) -> dict[str, str]:
    return {name: "the shipped base" if f == shipped else str(owner_of(f)) for name, f in folders.items()}
