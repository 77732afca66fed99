"""Weights of critics and judge on disk: float16 safetensors with metadata about their training."""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from worldcompass.errors import UserError
from worldcompass.runs.atomic import write_tensors
from worldcompass.worlds.doom.critics.judge import Judge
from worldcompass.worlds.doom.critics.motion import MotionCritic
from worldcompass.worlds.doom.critics.pickup import PickupReader
from worldcompass.worlds.doom.critics.realism import Realism

VERSION = 1
FILES = {"motion_critic": MotionCritic, "realism": Realism, "judge": Judge}
COMMAND = "worldcompass doom critics --data data/doom --out worldcompass/worlds/doom/weights"
PICKUP = "pickup"  # only needed by recipes with instructions
PICKUP_COMMAND = "worldcompass doom pickup-critic --out worldcompass/worlds/doom/weights"


def command_of(name: str) -> str:
    """The command that makes the weights of a network."""
    return PICKUP_COMMAND if name == PICKUP else COMMAND


def save(net: nn.Module, path: Path, name: str, facts: dict[str, str]) -> None:
    """Write weights in float16 with their facts as metadata, atomically."""
    state = net.state_dict().items()
    tensors = {
        key: (value.half() if value.is_floating_point() else value).contiguous() for key, value in state
    }
    metadata = {
        "format": f"worldcompass {name}",
        "version": str(VERSION),
        "command": command_of(name),
        **facts,
    }
    write_tensors(path, tensors, metadata)


def read_facts(path: Path, name: str) -> dict[str, str]:
    """The metadata of a file of weights.

    Raises:
        UserError: when the file is missing, of another kind or of another version.
    """
    command = command_of(name)
    if not path.is_file():
        raise UserError(f"{path} is missing: make it with '{command}'")
    path.open("rb").close()  # safetensors calls a file that may not be read a missing one
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
    except SafetensorError as error:
        raise UserError(
            f"{path} cannot be read as safetensors ({error}): make it again with '{command}'"
        ) from error
    expected, found = f"worldcompass {name}", facts.get("format", "no format")
    if found != expected:
        raise UserError(
            f"{path} holds {found!r}, expected {expected!r}: choose the file named {name}.safetensors"
        )
    if facts.get("version") != str(VERSION):
        raise UserError(
            f"{path} has version {facts.get('version')}, expected {VERSION}: make it with '{command}'"
        )
    return facts


def load(name: str, folder: Path | None = None) -> nn.Module:
    """A network of ``FILES``, or the pick-up reader, in float32 and evaluation mode.

    Args:
        name: of the network.
        folder: of the weights; those of the package when None.

    Raises:
        UserError: when the file is missing, of another kind or of another version.
    """
    place = importlib.resources.files("worldcompass.worlds.doom") / "weights" if folder is None else folder
    with importlib.resources.as_file(place / f"{name}.safetensors") as path:
        tensors = tensors_of(path, name)
    net = PickupReader() if name == PICKUP else FILES[name]()
    try:
        net.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(
            f"{path} does not fit this version of {name}: make it again with '{command_of(name)}'"
        ) from error
    return net.eval().requires_grad_(False)


def tensors_of(path: Path, name: str) -> dict[str, Tensor]:
    """The weights of a file after a check of its kind and version; floats in float32."""
    read_facts(path, name)
    return {
        key: value.float() if value.is_floating_point() else value for key, value in load_file(path).items()
    }


@dataclass(frozen=True)
class Critics:
    """The two networks of the rewards."""

    motion: MotionCritic
    realism: Realism


def load_critics(folder: Path | None = None) -> Critics:
    """The networks of the rewards, by default with the weights of the package."""
    motion, realism = load("motion_critic", folder), load("realism", folder)
    assert isinstance(motion, MotionCritic) and isinstance(realism, Realism)
    return Critics(motion, realism)


def load_judge(folder: Path | None = None) -> Judge:
    """The held-out judge, by default with the weights of the package."""
    judge = load("judge", folder)
    assert isinstance(judge, Judge)
    return judge


def load_pickup_reader(folder: Path | None = None) -> PickupReader:
    """The network of the pick-up critic, by default with the weights of the package."""
    reader = load(PICKUP, folder)
    assert isinstance(reader, PickupReader)
    return reader
