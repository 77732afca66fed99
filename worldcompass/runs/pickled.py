"""Files that PyTorch pickles, read as plain data: code in them is never run."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from worldcompass.errors import UserError

ENDINGS = (".pt", ".pth")


def read_plain(path: Path) -> Any:
    """A file's content, memory-mapped if its form allows.

    Raises:
        UserError: when it is damaged or holds more than tensors and plain values.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as why:
        raise UserError(
            f"{path} is damaged or holds more than tensors ({_reason(why)}): use the safetensors file, as code in"
            " files is never run"
        ) from why


def _reason(why: Exception) -> str:
    """What is wrong with a file, in a line. PyTorch's own first line advises to run the file's code."""
    lines = [line.strip() for line in str(why).splitlines() if line.strip()]
    told = (line for line in lines if line.lower().startswith(("unsupported", "trying to load")))
    return next(told, "no plain data" if "weights_only" in str(why) else "".join(lines[:1]))


def tensors_in(content: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor inside nested tables and lists, with its name."""
    if isinstance(content, Tensor):
        yield name, content
    elif isinstance(content, Mapping):
        for key, inner in cast("Mapping[Any, Any]", content).items():
            yield from tensors_in(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(content, Sequence) and not isinstance(content, str | bytes):
        for index, inner in enumerate(cast("Sequence[Any]", content)):
            yield from tensors_in(inner, f"{name}.{index}" if name else str(index))
