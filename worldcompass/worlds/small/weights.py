"""Weights of a small world on disk: two files, of the autoencoder and of the network, with a version."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from worldcompass.errors import UserError
from worldcompass.parallel.sharding import all_finite
from worldcompass.runs.atomic import write_tensors


@dataclass(frozen=True)
class WeightFiles:
    """Where a world's weights lie."""

    world: str
    """Its name, with which the files and the commands begin."""
    version: str
    """Changes whenever earlier weights do not fit any more."""
    shipped: Path | None = None
    """The folder of weights inside the package, if there are any."""

    @property
    def autoencoder(self) -> str:
        """The autoencoder's file."""
        return f"{self.world}_autoencoder.safetensors"

    @property
    def net(self) -> str:
        """The network's file."""
        return f"{self.world}_world.safetensors"

    def load(self, folder: Path | None, autoencoder: nn.Module, net: nn.Module) -> None:
        """Take the weights of a folder, or the package's when None.

        Post-training leaves the autoencoder alone: a folder without one takes the package's.

        Raises:
            UserError: when the files are missing, of another version or for another network.
        """
        for module, name in ((autoencoder, self.autoencoder), (net, self.net)):
            own = folder is not None and (name == self.net or (folder / name).exists())
            base = folder if own else self.shipped or folder
            if base is None:
                raise UserError(
                    f"the package has no weights of the {self.world} world: say the folder of some made by"
                    f" 'worldcompass {self.world} pretrain'"
                )
            module.load_state_dict(self.read(base / name, module.state_dict()))

    def read(self, path: Path, expected: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a safetensors file in the dtype of ``expected``.

        Raises:
            UserError: when the file is missing, no safetensors, not finite, or of another version or network.
            OSError: when it may not be read.
        """
        if not path.is_file():
            raise UserError(
                f"no weights at {path}: expected a file made by 'worldcompass {self.world} pretrain'"
            )
        path.open("rb").close()  # safetensors calls a file that may not be read a missing one
        try:
            with safe_open(path, "pt") as file:
                version = (file.metadata() or {}).get("version")
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except SafetensorError as why:
            raise UserError(
                f"{path} is not a safetensors file ({why}): expected weights of the {self.world} world"
            ) from why
        if version != self.version:
            raise UserError(
                f"{path} holds weights of version {version}, expected {self.version}: pretrain them again"
            )
        wrong = [n for n in expected if n not in found or found[n].shape != expected[n].shape]
        if wrong or len(found) != len(expected):
            raise UserError(
                f"{path} belongs to another network: {len(wrong)} tensors missing or of another shape"
            )
        taken = {name: found[name].to(value.dtype) for name, value in expected.items()}
        if broken := next((name for name, value in taken.items() if not all_finite([value])), None):
            raise UserError(
                f"{path} holds weights that are not finite ({broken}): give the weights of a sound run"
            )
        return taken

    def fingerprint(self, folder: Path | None) -> str:
        """The first 12 digits of the SHA-256 of the network's file in a folder, or in the package when None."""
        base = folder or self.shipped
        assert base is not None, f"the package has no weights of the {self.world} world"
        return hashlib.sha256((base / self.net).read_bytes()).hexdigest()[:12]

    def export(self, module: nn.Module, path: Path) -> str:
        """Write weights in float16 with their version; returns their SHA-256."""
        tensors = {name: _half(value) for name, value in module.state_dict().items()}
        write_tensors(path, tensors, {"version": self.version})
        return hashlib.sha256(path.read_bytes()).hexdigest()


def _half(value: Tensor) -> Tensor:
    return value.half().contiguous().cpu() if value.is_floating_point() else value.contiguous().cpu()
