"""LPIPS (arXiv 1801.03924) as a likeness to reference frames; extra ``rewards``.

Code and linear layers come from the package ``lpips``, BSD-2-Clause. The AlexNet backbone is torchvision's
(BSD-3-Clause, trained on ImageNet). It must exist as a file, as nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from worldcompass.errors import UserError
from worldcompass.rewards.external import loading, need_module, need_weights

SMALLEST = 64  # pixels: AlexNet's pooling needs frames of at least this size
BATCH = 64  # frames of one forward pass
INSTALL = "install it with pip install 'worldcompass[rewards]'"
GET = "save torchvision's alexnet-owt state dict there (.pth or .safetensors)"


class Lpips:
    """Minus the LPIPS distance (AlexNet, version 0.1), at most 0: for ``TrueContinuation`` and ``CycleClosure``."""

    def __init__(self, backbone: str | Path, device: str = "cpu") -> None:
        """Load the linear layers from the package and the backbone's ``features`` from a file.

        Raises:
            UserError: when the package or the file is missing, or the file is of another network.
        """
        package = need_module("lpips", "LPIPS", INSTALL)
        path = need_weights(backbone, "LPIPS", GET)
        self.net = package.LPIPS(net="alex", pnet_rand=True, verbose=False)
        own = self.net.net.state_dict()
        with loading("LPIPS", path, GET):
            features = _features(path)
        # The package groups the layers into slices but keeps their numbers: slice2.3.weight is features.3.weight.
        wanted = {name: name.split(".", 1)[1] for name in own}
        if missing := [name for name in wanted.values() if name not in features]:
            raise UserError(
                f"{path} is no AlexNet of torchvision, as features.{missing[0]} is missing: {GET}"
            )
        with loading("LPIPS", path, GET):
            self.net.net.load_state_dict({name: features[number] for name, number in wanted.items()})
        self.net = self.net.to(device).eval().requires_grad_(False)
        self.device = device

    @torch.no_grad()
    def __call__(self, frames_N3hw: Tensor, references_N3hw: Tensor) -> Tensor:
        """Likeness of uint8 frames to references, float32 (N,) on the CPU."""
        parts = zip(frames_N3hw.split(BATCH), references_N3hw.split(BATCH), strict=True)
        return torch.cat(
            [self.net(self._input(a), self._input(b)).flatten().mul(-1).float().cpu() for a, b in parts]
        )

    def _input(self, frames_N3hw: Tensor) -> Tensor:
        """Frames in [-1, 1], enlarged when they are too small."""
        pixels = frames_N3hw.to(self.device).float() / 127.5 - 1
        scale = SMALLEST / min(pixels.shape[-2:])
        return interpolate(pixels, scale_factor=scale, mode="bilinear") if scale > 1 else pixels


def _features(path: Path) -> dict[str, Tensor]:
    """The state dict of ``features``, with names relative to it."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    return {name.removeprefix("features."): value for name, value in state.items()}
