"""What the embedded world gives to a blind study: the evaluation's scenarios, and videos of engine and models."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.evaluate import imagine_all, scenarios_hash
from worldcompass.judging.votes.controls import BASE
from worldcompass.judging.votes.subjects import Subjects
from worldcompass.media.progress import progress
from worldcompass.runs.folder import RunFolder, owner_of, weights_folder
from worldcompass.types import Scenario
from worldcompass.worlds.doom.engine.facts import ACTIONS
from worldcompass.worlds.doom.engine.scenarios import evaluation_plans, replay_all
from worldcompass.worlds.doom.evaluation import HORIZONS, LATENTS_PER_CHUNK
from worldcompass.worlds.doom.world import WEIGHTS, DoomWorld, load_doom_world, shipped_weights

TRAINED, OTHER = "trained", "other"


def doom_subjects(run: Path, rival: Path | None, frames: int, device: str) -> Subjects:
    """Subjects of a study of one run against the shipped base, or against another run.

    Args:
        run: a run folder or a folder of weights; its wins are counted.
        rival: the same for the other side; the shipped base when None.
        frames: of every video, a key of ``HORIZONS``.
        device: a device of PyTorch, such as ``cuda``.

    Raises:
        UserError: when weights are missing, of another world, or the same on both sides.
    """
    folders = {BASE: shipped_weights(), TRAINED: _weights(run)}
    if rival is not None:
        folders[OTHER] = _weights(rival)
    hashes = {name: hashlib.sha256((f / WEIGHTS.net).read_bytes()).hexdigest() for name, f in folders.items()}
    against = BASE if rival is None else OTHER
    if hashes[TRAINED] == hashes[against]:
        raise UserError(
            f"{run} and {rival or 'the shipped base'} hold the same weights: name two different runs"
        )
    worlds: dict[str, DoomWorld] = {name: load_doom_world(folder, device) for name, folder in folders.items()}
    plans = {plan.id: plan for plan in evaluation_plans()}
    replayed: dict[str, Scenario] = {}

    def prepare(ids: Sequence[str]) -> Sequence[Scenario]:
        missing = [plans[i] for i in ids if i not in replayed]
        if missing:
            with progress("replaying the scenarios in the engine", len(missing)) as advance:
                found = replay_all(missing, LATENTS_PER_CHUNK * HORIZONS[frames], advance)
            replayed.update({scenario.id: scenario for scenario in found})
        return [replayed[i] for i in ids]

    def imagine(name: str, scenarios: Sequence[Scenario], noise: int) -> Tensor:
        return imagine_all(worlds[name], scenarios, noise)

    return Subjects(
        spec=worlds[BASE].spec,
        scenario_ids=tuple(plans),
        subject=TRAINED,
        rival=against,
        titles=_titles(folders),
        weights=hashes,
        num_frames=frames,
        prepare=prepare,
        imagine=imagine,
        fingerprint=partial(scenarios_hash, space=ACTIONS),
    )


def _weights(path: Path) -> Path:
    """The folder of this world's weights inside a run, or ``path`` itself."""
    own = RunFolder(path).weights
    if own.is_dir() and not (own / WEIGHTS.net).is_file() and any(own.iterdir()):
        raise UserError(
            f"{path} is a run of another world (its weights hold no {WEIGHTS.net}): expected runs of the embedded"
            " world, which share scenarios and controls"
        )
    return weights_folder(path, WEIGHTS.net)


def _titles(folders: Mapping[str, Path]) -> dict[str, str]:
    shipped = shipped_weights()
    return {name: "the shipped base" if f == shipped else str(owner_of(f)) for name, f in folders.items()}
