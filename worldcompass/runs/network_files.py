"""Files of a world's small networks, such as its critics: float16 safetensors with facts about their training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn

from worldcompass.errors import UserError
from worldcompass.runs.atomic import write_tensors


@dataclass(frozen=True)
class NetworkFile:
    """How the weights of one network are stored."""

    name: str
    """Of the network; the file is ``NAME.safetensors``."""
    version: int
    """Changes whenever earlier weights do not fit any more."""
    command: str
    """The command that makes them."""

    def save(self, net: nn.Module, path: Path, facts: Mapping[str, str]) -> None:
        """Write weights in float16 with their facts as metadata, atomically."""
        tensors = {
            key: (value.half() if value.is_floating_point() else value).contiguous()
            for key, value in net.state_dict().items()
        }
        metadata = {
            "format": f"worldcompass {self.name}",
            "version": str(self.version),
            "command": self.command,
            **facts,
        }
        write_tensors(path, tensors, metadata)

    def facts(self, path: Path) -> dict[str, str]:
        """The metadata of a file of weights.

        Raises:
            UserError: when the file is missing, of another kind or of another version.
        """
        if not path.is_file():
            raise UserError(f"{path} is missing: make it with '{self.command}'")
        path.open("rb").close()  # safetensors calls a file that may not be read a missing one
        try:
            facts = metadata_of(path)
        except SafetensorError as error:
            raise UserError(
                f"{path} cannot be read as safetensors ({error}): make it again with '{self.command}'"
            ) from error
        expected, found = f"worldcompass {self.name}", facts.get("format", "no format")
        if found != expected:
            raise UserError(
                f"{path} holds {found!r}, expected {expected!r}: choose the file named {self.name}.safetensors"
            )
        if facts.get("version") != str(self.version):
            raise UserError(
                f"{path} has version {facts.get('version')}, expected {self.version}:"
                f" make it with '{self.command}'"
            )
        return facts

    def tensors(self, path: Path) -> dict[str, Tensor]:
        """The weights of a file after a check of its kind and version; floats in float32."""
        self.facts(path)
        return {
            key: value.float() if value.is_floating_point() else value
            for key, value in load_file(path).items()
        }

    def load(self, net: nn.Module, path: Path) -> None:
        """Give a network the weights of a file, in float32 and evaluation mode, without gradients.

        Raises:
            UserError: when the file is missing, of another kind, of another version or of another network.
        """
        tensors = self.tensors(path)
        try:
            net.load_state_dict(tensors)
        except RuntimeError as error:
            raise UserError(
                f"{path} does not fit this version of {self.name}: make it again with '{self.command}'"
            ) from error
        net.eval().requires_grad_(False)


def metadata_of(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file.

    Raises:
        SafetensorError: when it is damaged.
    """
    opened: Any = safe_open(path, "pt")
    with opened as file:
        return file.metadata() or {}
