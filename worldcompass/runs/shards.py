"""Shards on disk as safetensors by PyTorch's distributed checkpoint: every rank writes and reads its part.

Any number of processes can read, independent of the number that wrote: each reads the pieces that overlap its
shards. PyTorch's default storage pickles its plan; the safetensors storage used here stores offsets in the files'
headers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.checkpoint.api import CheckpointException

Place = Callable[[str, torch.Size, torch.dtype], Tensor]
"""(name, whole size, dtype) -> an empty tensor to read into, sharded or not."""


def write_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write this rank's part of ``tensors`` into an existing folder; all ranks must call it.

    One rank writes the tensors that are not sharded. Files are synced. CPU memory holds one part of the state at a
    time: trained weights, each average, the optimiser.

    Raises:
        OSError: on all ranks, when the disk of one is full or not writable.
    """
    # Imported here, as only sharded runs need it.
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save  # pyright: ignore[reportUnknownVariableType]

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
    """Read all tensors of a folder into those from ``place``; all ranks must call it unless ``alone``.

    Raises:
        OSError, ValueError: on all ranks, when a file is missing or unreadable.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load  # pyright: ignore[reportUnknownVariableType]

    found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    tensors: dict[str, Tensor] = {}
    for name, stored in found.items():
        assert isinstance(stored, TensorStorageMetadata)
        tensors[name] = place(name, stored.size, stored.properties.dtype)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # intended when ``alone``
            load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=alone)
    except CheckpointException as error:
        raise _first(error) from error
    return tensors


def _first(error: CheckpointException) -> BaseException:
    """The original error of the first rank that failed."""
    return error.failures[min(error.failures)][0]
