"""Reading and writing of weights in the official form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from worldcompass.errors import UserError
from worldcompass.parallel.sharding import all_finite, whole
from worldcompass.parallel.team import Team
from worldcompass.runs.atomic import write_tensors, writing
from worldcompass.runs.pickled import read_plain
from worldcompass.runs.requirements import INDEX, header, parts

FILE_NAME = "diffusion_pytorch_model.safetensors"
GENERATOR_FILE = "model.pt"  # the released WorldPlay-5B, and all that its official inference reads
_GENERATOR = "generator"
_PICKLED = (".pt", ".pth", ".bin", ".ckpt")
_WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")  # anywhere in names
_PREFIX = "model."  # of networks inside an official wrapper
_NUM_NAMED = 3  # wrong tensors that a message names

_Value = TypeVar("_Value")

NameOf = Callable[[str], str | None]
"""A tensor's official name from that in a file; None for one that is left out."""


def plain_name(name: str) -> str:
    """A tensor's name without what training and wrappers add to it."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name.removeprefix(_PREFIX)


def load_weights(
    net: nn.Module,
    path: Path,
    dtype: torch.dtype,
    device: str | torch.device = "cpu",
    entries: Sequence[str] = (_GENERATOR,),
    name_of: NameOf = plain_name,
) -> None:
    """Replace a network's parameters by the tensors of a file. A network on the meta device saves memory.

    Tensors of a safetensors file go directly to the device, one after another. A ``.pt`` file is read as plain
    data, never as code. Names may have prefixes of training.

    Args:
        net: the network.
        path: the file, or a folder with ``diffusion_pytorch_model.safetensors`` or ``model.pt``. Several files with
            an index, ``diffusion_pytorch_model.safetensors.index.json``, count as one.
        dtype: of the parameters.
        device: of the parameters.
        entries: of a ``.pt`` file's table, under the first present of which the weights are, if under any.
        name_of: official names of the file's tensors.

    Raises:
        UserError: when the file is missing, damaged, not finite, or does not fit this network exactly.
    """
    path = file_in(path) if path.is_dir() else path
    net.load_state_dict(read_weights(path, shapes_of(net), dtype, device, entries, name_of), assign=True)


def shapes_of(net: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a network's tensors."""
    return {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


def read_weights(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    device: str | torch.device = "cpu",
    entries: Sequence[str] = (_GENERATOR,),
    name_of: NameOf = plain_name,
) -> dict[str, Tensor]:
    """The tensors of a file, which holds exactly these; see ``load_weights``."""
    if path.suffix in _PICKLED:
        tensors = _read_pickled(path, shapes, dtype, device, entries, name_of)
    else:
        tensors = _read_safetensors(path, shapes, dtype, device, name_of)
    if broken := next((name for name, tensor in tensors.items() if not all_finite([tensor])), None):
        raise UserError(f"{path} holds weights that are not finite ({broken}): fetch the file again")
    return tensors


def file_in(folder: Path) -> Path:
    """The file of weights in a folder: ``model.pt`` if it is the only one."""
    pickled, plain = folder / GENERATOR_FILE, folder / FILE_NAME
    alone = pickled.is_file() and not plain.is_file() and not plain.with_name(FILE_NAME + INDEX).is_file()
    return pickled if alone else plain


def shapes_in_file(
    path: Path, entries: Sequence[str] = (_GENERATOR,), name_of: NameOf = plain_name
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that ``load_weights`` would read, without their numbers.

    Raises:
        ValueError: when a safetensors file is damaged.
        UserError: when a ``.pt`` file is damaged or has other content.
    """
    if path.suffix in _PICKLED:
        return {name: tuple(tensor.shape) for name, tensor in read_pickled(path, entries, name_of).items()}
    return _named(header(path), name_of)


def export_weights(
    net: nn.Module,
    path: Path,
    dtype: torch.dtype | None = None,
    official: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda tensors: tensors,
) -> None:
    """Write a network's weights under the official names, atomically.

    With sharded weights all ranks must call it; the main one writes.

    Args:
        net: without adapters, or with merged ones.
        path: the file to write: safetensors, or ``.pt`` with the weights under ``generator``.
        dtype: of the tensors in the file; the network's when None.
        official: makes the tensors of the file from those of the network, if their names or copies differ.

    Raises:
        ValueError: when the network still has adapters.
    """
    state, tensors = net.state_dict(), {}
    if any(name.endswith(".lora_A") for name in state):
        raise ValueError(
            "the network has adapters: merge them first with worldcompass.training.lora.merge_lora"
        )
    for name, tensor in state.items():
        full = whole(tensor.detach())
        if Team.current().is_main:
            tensors[name] = full.to("cpu", dtype or full.dtype).contiguous()
    if not tensors:
        return
    tensors = official(tensors)
    if path.suffix in _PICKLED:
        with writing(path) as unfinished:
            torch.save({_GENERATOR: tensors}, unfinished)
    else:
        write_tensors(path, tensors, {"format": "pt"})


def _read_safetensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    device: str | torch.device,
    name_of: NameOf,
) -> dict[str, Tensor]:
    with ExitStack() as stack:
        files = [stack.enter_context(_opened(part, device)) for part in parts(path)]
        holders = _named({name: (file, name) for file in files for name in file.keys()}, name_of)  # noqa: SIM118
        found = {name: tuple(file.get_slice(own).get_shape()) for name, (file, own) in holders.items()}
        _check(path, shapes, found)
        return {name: holders[name][0].get_tensor(holders[name][1]).to(dtype) for name in shapes}


def _opened(path: Path, device: str | torch.device) -> Any:
    _check_exists(path)
    try:
        return safe_open(path, "pt", device=_with_index(device))
    except SafetensorError as why:
        raise UserError(f"{path} is damaged or no safetensors file ({why}): fetch it again") from why


def _with_index(device: str | torch.device) -> str:
    """A device as safetensors takes it, which reads ``cuda`` as the first GPU, not as this process's own."""
    device = torch.device(device)
    is_general = device.type == "cuda" and device.index is None
    return f"cuda:{torch.cuda.current_device()}" if is_general else str(device)


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"no weights at {path}: expected {FILE_NAME} of the network")


def _read_pickled(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    device: str | torch.device,
    entries: Sequence[str],
    name_of: NameOf,
) -> dict[str, Tensor]:
    plain = read_pickled(path, entries, name_of)
    _check(path, shapes, {name: tuple(t.shape) for name, t in plain.items()})
    return {name: plain[name].to(device, dtype) for name in shapes}


def read_pickled(
    path: Path, entries: str | Sequence[str] = (_GENERATOR,), name_of: NameOf = plain_name
) -> dict[str, Tensor]:
    """A ``.pt`` file's tensors by their official names, memory-mapped if its form allows.

    They may be under one of ``entries``, of which the first present one counts, and names may have prefixes of
    training.

    Raises:
        UserError: when it is missing, damaged, or has other content.
    """
    _check_exists(path)
    raw, entries = read_plain(path), [entries] if isinstance(entries, str) else entries
    found = next((entry for entry in entries if isinstance(raw, dict) and entry in raw), None)
    raw = raw if found is None else raw[found]
    if not isinstance(raw, dict) or not all(isinstance(value, Tensor) for value in raw.values()):
        names = " or ".join(map(repr, entries))
        raise UserError(f"{path} holds no table of tensors: expected a state dict, or one under {names}")
    return _named({str(name): tensor for name, tensor in raw.items()}, name_of)


def _named(found: Mapping[str, _Value], name_of: NameOf) -> dict[str, _Value]:
    """What a file holds by official names."""
    return {name: value for own, value in found.items() if (name := name_of(own)) is not None}


def _check(path: Path, expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> None:
    """Check that names and shapes agree exactly.

    Raises:
        UserError: naming the first tensors that differ.
    """
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if not wrong:
        return
    examples = "; ".join(
        f"{name} is {found.get(name, 'missing')}, expected {expected.get(name, 'no such tensor')}"
        for name in wrong[:_NUM_NAMED]
    )
    raise UserError(
        f"{path} belongs to another network: of {len(expected)} expected tensors and {len(found)} found ones"
        f" {len(wrong)} disagree ({examples}): give the file of this model"
    )
