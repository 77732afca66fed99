"""Shards on disk by PyTorch's distributed checkpoint: every rank writes and reads its own part, as safetensors.

Whatever the number of processes that wrote, any number reads: each takes the pieces that overlap its own shards.
PyTorch's usual storage pickles its plan; its safetensors storage, used here, keeps offsets in the files' headers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

Place = Callable[[str, torch.Size, torch.dtype], Tensor]
"""(name, whole size, type) -> an empty tensor to read into, sharded or not."""


def write_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write what this rank holds of ``tensors``; all ranks call it alike, with a folder that is there.

    A tensor that is not sharded is written by one of them. Files are synced. One part of the state after the other
    passes through the CPU's memory: trained weights, each average, the optimiser.

    Raises:
        OSError: on all ranks, when the disk of one is full or forbids it.
    """
    # Imported here: a run that is not sharded does without.
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    parts = {name: tuple(name.split("/")[: 2 if name.startswith("policy/") else 1]) for name in tensors}
    known = sorted(set(parts.values()))
    files = {name: known.index(part) + 1 for name, part in parts.items()}
    writer = HuggingFaceStorageWriter(str(folder), files, save_distributed=True)
    try:
        save(dict(tensors), storage_writer=writer)
    except CheckpointException as error:
        failure = _first(error)
        if isinstance(failure, OSError) and failure.filename is None:
            failure.filename = str(folder)
        raise failure from error


def read_shards(folder: Path, place: Place, alone: bool) -> dict[str, Tensor]:
    """All tensors of a folder, each read into what ``place`` gives; all ranks call it alike unless ``alone``.

    Raises:
        OSError, ValueError: on all ranks, when a file is missing or unreadable.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    tensors: dict[str, Tensor] = {}
    for name, told in found.items():
        assert isinstance(told, TensorStorageMetadata)
        tensors[name] = place(name, told.size, told.properties.dtype)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as asked for
            load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=alone)
    except CheckpointException as error:
        raise _first(error) from error
    return tensors


def _first(error: BaseException) -> BaseException:
    """What went wrong on the first rank where something did, without the wrapping."""
    failures = error.failures  # type: ignore[attr-defined]
    return failures[min(failures)][0]
