"""Recordings of a small world on disk.

``ROOT/dataset.json``, the card, says the version and what made the recordings. Each shard is a folder
``ROOT/SPLIT/NAME`` of NumPy files, one for every array that the world declares. A shard appears whole or not at
all.

A world declares its arrays as the fields of a subclass of ``Episode``. A field's name is that of its file and then
its axes: ``cameras_F5`` lies in ``cameras.npy`` with the shape (E, F, 5), E being the shard's episodes. F counts
frames and M latents; latent 0 has the episode's first frame alone, so F = n (M - 1) + 1 with n frames per latent.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import numpy as np

from worldcompass.errors import UserError
from worldcompass.media.progress import progress
from worldcompass.parallel.cpus import usable_cpus
from worldcompass.parallel.parents import end_with_parent
from worldcompass.runs import folder as folders
from worldcompass.runs.atomic import writing
from worldcompass.runs.metrics import read_object
from worldcompass.runs.reading import reason
from worldcompass.runs.requirements import visible

CARD = "dataset.json"
WHAT = "a dataset"


@dataclass(frozen=True)
class Episode:
    """One episode; the arrays of a shard without their first axis."""

    frames_Fhw3: np.ndarray
    """uint8 sRGB."""

    def window(self, start: int, stop: int, frames_per_latent: int) -> Self:
        """The latents ``start <= i < stop``, as an episode that starts with the last frame of ``start``."""
        frames = slice(frames_per_latent * start, frames_per_latent * (stop - 1) + 1)
        parts = {"F": frames, "M": slice(start, stop)}
        cut = {name: parts[axes[0]] for name, (_, axes) in arrays_of(type(self)).items() if axes[:1] in parts}
        return replace(self, **{name: getattr(self, name)[part] for name, part in cut.items()})


E = TypeVar("E", bound=Episode)
P = TypeVar("P")


def arrays_of(kind: type[Episode]) -> dict[str, tuple[str, str]]:
    """The file and the axes of every array of an episode, by its field."""
    found = {}
    for field in fields(kind):
        name, _, axes = field.name.rpartition("_")
        found[field.name] = (name, axes) if name else (axes, "")
    return found


@dataclass(frozen=True)
class Format(Generic[E]):
    """How a world's recordings are stored."""

    episode: type[E]
    version: int
    frames_per_latent: int
    remedy: str
    """How to get recordings, such as ``make them with 'worldcompass doom collect'``."""

    def num_latents(self, episode: Episode) -> int:
        """M of an episode."""
        return (len(episode.frames_Fhw3) - 1) // self.frames_per_latent + 1


@dataclass(frozen=True)
class Shard(Generic[E]):
    """The episodes of one shard, memory-mapped."""

    folder: Path
    kind: type[E]
    arrays: tuple[np.ndarray, ...]
    """In the order of the episode's fields, with a leading axis of episodes."""

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, index: int | np.integer[Any]) -> E:
        return self.kind(*(array[index] for array in self.arrays))

    def __iter__(self) -> Iterator[E]:
        return (self[index] for index in range(len(self)))


def claim(
    root: Path, layout: Format[Any], made_by: Mapping[str, Any], needed_bytes: float, lower: str
) -> None:
    """Write the card, or make sure that recordings begun before were made alike.

    Args:
        root: the dataset's folder.
        layout: of the recordings.
        made_by: whatever the recordings depend on, as JSON values.
        needed_bytes: what is still to be written.
        lower: a remedy for a full disk, such as ``lower --frames``.

    Raises:
        UserError: when the folder holds something else, or the disk is too full.
    """
    card = {"version": layout.version, **made_by}
    found = folders.claim(root, root / CARD, card, WHAT, needed_bytes, lower)
    if found is None:
        return
    if found != card:
        raise UserError(f"{root} holds a dataset made with {found}, not {card}: choose another folder")
    folders.need_space(root, needed_bytes, WHAT, lower)


def write_shard(folder: Path, episodes: Sequence[Episode]) -> None:
    """Write a shard and move the finished folder into place."""
    with writing(folder, shared=True) as unfinished:
        unfinished.mkdir()
        for name, (file, _) in arrays_of(type(episodes[0])).items():
            np.save(unfinished / f"{file}.npy", np.stack([getattr(episode, name) for episode in episodes]))


def load(root: Path, split: str, layout: Format[E]) -> list[Shard[E]]:
    """The shards of a split in a fixed order, memory-mapped.

    Raises:
        UserError: when ``root`` holds no recordings of this version, none of the split, or damaged ones.
    """
    require(root, layout)
    shards = [_open(folder, layout) for folder in visible(root / split, "*")]
    if not shards:
        raise UserError(f"{root} has no shard of split {split!r}: {layout.remedy}, or choose another split")
    return shards


def require(root: Path, layout: Format[Any]) -> None:
    """Check that ``root`` holds recordings of this version.

    Raises:
        UserError: when it does not.
    """
    if not (root / CARD).is_file():
        raise UserError(f"{root} is not a dataset: expected {CARD} there; {layout.remedy}")
    version = read_object(root / CARD, f"the record of {WHAT}").get("version")
    if version != layout.version:
        raise UserError(
            f"{root} holds a dataset of version {version}, expected {layout.version}: {layout.remedy}"
        )


def _open(folder: Path, layout: Format[E]) -> Shard[E]:
    """One shard, memory-mapped, whose arrays fit together."""
    names = arrays_of(layout.episode)
    try:
        arrays = [np.load(folder / f"{file}.npy", mmap_mode="r") for file, _ in names.values()]
    except (OSError, ValueError, EOFError) as why:
        raise UserError(f"{folder} is damaged ({reason(why)}): delete it, and {layout.remedy}") from None
    episodes = {len(array) for array in arrays}
    lengths = {
        (array.shape[1] - 1) // layout.frames_per_latent + 1 if axes[0] == "F" else array.shape[1]
        for array, (_, axes) in zip(arrays, names.values(), strict=True)
        if axes[:1] in ("F", "M")
    }
    if len(episodes) > 1 or len(lengths) > 1:
        raise UserError(
            f"{folder} is damaged: its arrays have {sorted(episodes)} episodes of {sorted(lengths)} latents,"
            f" expected one number of each; delete it, and {layout.remedy}"
        )
    return Shard(folder, layout.episode, tuple(arrays))


def collect(
    shards: Mapping[Path, P], record: Callable[[P], None], workers: int | None = None, what: str = "recording"
) -> None:
    """Record the shards whose folders are missing; safe to stop and start again.

    Args:
        shards: what each folder of the dataset is recorded from.
        record: records one shard; several processes must be able to import it.
        workers: processes, as many as there are usable cores by default; one records in this process.
        what: it does, for the progress bar.
    """
    missing = [plan for folder, plan in shards.items() if not folder.is_dir()]
    with progress(what, len(shards)) as advance:
        advance(len(shards) - len(missing))
        for _ in _recorded(missing, record, workers or usable_cpus()):
            advance()


def _recorded(missing: Sequence[P], record: Callable[[P], None], workers: int) -> Iterator[None]:
    """Yield after each shard."""
    if workers == 1:
        for plan in missing:
            yield record(plan)
        return
    # The workers end with this process, even if that is killed.
    pool = ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=end_with_parent, initargs=(os.getpid(), signal.SIGKILL)
    )
    try:
        for future in as_completed([pool.submit(record, plan) for plan in missing]):
            yield future.result()
    finally:  # after Ctrl-C too: shards that have not begun are not waited for
        pool.shutdown(cancel_futures=True)


def fingerprint(root: Path) -> str:
    """SHA-256 over the names and contents of all shards' files; the same seed and engine give the same one."""
    digest = hashlib.sha256()
    for path in sorted(root.glob("[!.]*/[!.]*/*.npy")):
        digest.update(path.relative_to(root).as_posix().encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
