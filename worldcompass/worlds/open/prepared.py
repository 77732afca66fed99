"""A dataset of conditioning: one safetensors file per image, with its caption, written atomically."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.runs.atomic import write_tensors

SUFFIX = ".safetensors"
Shape = tuple[int | None, ...]
"""None stands for any length above 0."""


class IfAny(tuple[int | None, ...]):
    """The ``Shape`` of a tensor that a file may lack."""


@dataclass(frozen=True)
class Prepared:
    """Everything but the trajectory that a scenario starts from."""

    id: str
    """The file's name."""
    caption: str
    conditioning: Mapping[str, Tensor]
    """For ``Scenario.conditioning``."""


def save_prepared(
    path: Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, Shape], metadata: Mapping[str, str]
) -> None:
    """Check and write one file atomically.

    Raises:
        UserError: when names or shapes differ from ``shapes``, or when a number is not finite.
    """
    _check(path, tensors, shapes)
    write_tensors(path, {name: t.contiguous().cpu() for name, t in tensors.items()}, dict(metadata))


def load_prepared(path: Path, shapes: Mapping[str, Shape]) -> Prepared:
    """Read and check one file.

    Args:
        path: the file.
        shapes: expected names and shapes, see ``expected_shapes``.

    Raises:
        UserError: when it is missing or damaged, when names or shapes differ, or when a number is not finite.
    """
    metadata = read_metadata(path)
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    _check(path, tensors, shapes)
    return Prepared(path.name.removesuffix(SUFFIX), metadata.get("caption", ""), tensors)


def check_header(path: Path, shapes: Mapping[str, Shape]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The file's metadata and the names of its tensors, after a check of names and shapes only.

    Raises:
        UserError: when it is missing or damaged, or when names or shapes differ.
    """
    metadata = read_metadata(path)
    with _opened(path) as file:
        found = {n: tuple(file.get_slice(n).get_shape()) for n in file.keys()}  # noqa: SIM118
    _check_shapes(path, found, shapes)
    return metadata, tuple(name for name in shapes if name in found)


def read_tensor(path: Path, name: str) -> Tensor:
    """One of the file's tensors.

    Raises:
        UserError: when the file is missing or damaged, or when a number is not finite.
    """
    read_metadata(path)
    with _opened(path) as file:
        tensor = file.get_tensor(name)
    _check_finite(path, {name: tensor})
    return tensor


def read_metadata(path: Path) -> dict[str, str]:
    """The file's caption and the inputs that it was made from.

    Raises:
        UserError: when it is missing or damaged.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}: make it with 'worldcompass prepare'")
    with _opened(path) as file:
        return file.metadata() or {}


class PreparedFile(Mapping[str, Tensor]):
    """Conditioning of one image, read from its file on every access, as a dataset may exceed memory.

    Args:
        path: the safetensors file. Its header is checked at once, its numbers when they are read.
        shapes: expected names and shapes, see ``expected_shapes``.

    Raises:
        UserError: when it is missing or damaged, when names or shapes differ, or when a number is not finite.
    """

    def __init__(self, path: Path, shapes: Mapping[str, Shape]) -> None:
        self.path, self.shapes = path, shapes
        self.metadata, self.names = check_header(path, shapes)
        self.caption = self.metadata.get("caption", "")

    def __getitem__(self, key: str) -> Tensor:
        if key not in self.names:
            raise KeyError(key)
        return read_tensor(self.path, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, "pt") as file:
            yield file
    except SafetensorError as why:
        raise UserError(
            f"{path} is damaged or no safetensors file ({why}): prepare this image again"
        ) from why


def _check(path: Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, Shape]) -> None:
    _check_shapes(path, {name: tuple(t.shape) for name, t in tensors.items()}, shapes)
    _check_finite(path, tensors)


def _check_shapes(path: Path, found: Mapping[str, tuple[int, ...]], shapes: Mapping[str, Shape]) -> None:
    wrong = sorted(n for n in shapes.keys() | found.keys() if not _fits(found.get(n), shapes.get(n, ())))
    if wrong:
        differences = "; ".join(
            f"{name} is {found.get(name, 'missing')}, expected {_described(shapes.get(name))}"
            for name in wrong
        )
        raise UserError(
            f"{path} does not fit this model ({differences}): make it with 'worldcompass prepare'"
        )
    for states, mask in (("text_states", "text_mask"), ("byt5_states", "byt5_mask")):
        if mask in found and found[states][0] != found[mask][0]:
            raise UserError(
                f"{path} has {found[states][0]} {states} but a mask of {found[mask][0]}: prepare this image again"
            )


def _check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    broken = [name for name, t in tensors.items() if not bool(t.isfinite().all())]
    if broken:
        raise UserError(f"{path}: {', '.join(broken)} is not finite: prepare this image again")


def _fits(found: tuple[int, ...] | None, shape: Shape) -> bool:
    if found is None:
        return isinstance(shape, IfAny)
    return len(found) == len(shape) and all(
        have > 0 and want in (None, have) for have, want in zip(found, shape, strict=True)
    )


def _described(shape: Shape | None) -> str:
    if shape is None:
        return "no such tensor"
    return f"({', '.join('any' if n is None else str(n) for n in shape)})"
