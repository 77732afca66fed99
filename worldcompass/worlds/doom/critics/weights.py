"""Weights of critics and judge on disk: float16 safetensors with metadata about their training."""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from worldcompass.runs.network_files import NetworkFile
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
    _file(name).save(net, path, facts)


def read_facts(path: Path, name: str) -> dict[str, str]:
    """The metadata of a file of weights; see ``NetworkFile.facts``."""
    return _file(name).facts(path)


def _file(name: str) -> NetworkFile:
    return NetworkFile(name, VERSION, command_of(name))


def load(name: str, folder: Path | None = None) -> nn.Module:
    """A network of ``FILES``, or the pick-up reader, in float32 and evaluation mode.

    Args:
        name: of the network.
        folder: of the weights; those of the package when None.

    Raises:
        UserError: when the file is missing, of another kind or of another version.
    """
    place = importlib.resources.files("worldcompass.worlds.doom") / "weights" if folder is None else folder
    net = PickupReader() if name == PICKUP else FILES[name]()
    with importlib.resources.as_file(place / f"{name}.safetensors") as path:
        _file(name).load(net, path)
    return net


def tensors_of(path: Path, name: str) -> dict[str, Tensor]:
    """The weights of a file after a check of its kind and version; floats in float32."""
    return _file(name).tensors(path)


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
