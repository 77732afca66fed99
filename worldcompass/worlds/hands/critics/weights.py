"""Weights of the Hands critics and of the judge of actions, inside the package."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TypeVar

from torch import nn

from worldcompass.runs.network_files import NetworkFile
from worldcompass.worlds.hands.critics.judge import HandsJudge
from worldcompass.worlds.hands.critics.reader import SceneReader
from worldcompass.worlds.hands.world import shipped_weights

VERSION = 2
COMMAND = "worldcompass hands critics --data data/hands --out worldcompass/worlds/hands/weights"
N = TypeVar("N", bound=nn.Module)
READER, JUDGE = (NetworkFile(name, VERSION, COMMAND) for name in ("hands_reader", "hands_judge"))


def load_reader(folder: Path | None = None) -> SceneReader:
    """The network of the rewards, by default with the weights of the package.

    Raises:
        UserError: when the file is missing or does not fit.
    """
    return _load(READER, SceneReader(), folder)


def load_judge(folder: Path | None = None) -> HandsJudge:
    """The held-out judge, by default with the weights of the package.

    Raises:
        UserError: when the file is missing or does not fit.
    """
    return _load(JUDGE, HandsJudge(), folder)


@cache
def shared_reader() -> SceneReader:
    """The shipped network, one for all critics of a process."""
    return load_reader()


def _load(file: NetworkFile, net: N, folder: Path | None) -> N:
    file.load(net, (folder or shipped_weights()) / f"{file.name}.safetensors")
    return net
