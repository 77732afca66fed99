"""Camera paths by HunyuanWorld-Mirror (arXiv 2510.10726), from local weights.

Code and weights: github.com/Tencent-Hunyuan/HunyuanWorld-Mirror, not on PyPI, Tencent's community licence (not in
the EU, the UK and South Korea). Its modules lie in a package called ``src``: put the checkout on ``PYTHONPATH``.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from worldcompass.rewards.cameras import CameraPath, steps_of
from worldcompass.rewards.external import as_path, fitted, loading, need_module, need_weights, whole_matrix

WIDTH = 518  # pixels, what it was trained on
INSTALL = "clone github.com/Tencent-Hunyuan/HunyuanWorld-Mirror and put the checkout on PYTHONPATH"
GET = "download the repository tencent/HunyuanWorld-Mirror and give its folder"
NO_PRIORS = [0, 0, 0]  # neither poses, depth nor intrinsics are told


class WorldMirror:
    """All frames of a video at once, one video after another."""

    name = "world-mirror"

    def __init__(self, weights: str | Path, device: str = "cuda", width: int = WIDTH) -> None:
        """Load a folder with ``config.json`` and ``model.safetensors``; its Gaussian head stays unused.

        Raises:
            UserError: when the package or the weights are missing, or the weights do not fit.
        """
        model = need_module("src.models.models.worldmirror", "HunyuanWorld-Mirror", INSTALL)
        folder = need_weights(weights, "HunyuanWorld-Mirror", GET)
        with loading("HunyuanWorld-Mirror", folder, GET):
            network = model.WorldMirror.from_pretrained(str(folder))
        self.model = network.to(device).eval()
        self.model.enable_gs = False
        self.device, self.width = device, width

    @torch.no_grad()
    def __call__(self, frames_VF3hw: Tensor, intrinsics_4: Tensor, every: int) -> CameraPath:
        """See ``CameraEstimator``; finds the intrinsics itself.

        Raises:
            ValueError: when F is not 1 + every * S.
        """
        steps_of(frames_VF3hw, every)
        poses, matrices, sure = [], [], []
        for video in frames_VF3hw:
            pictures = fitted(video.to(self.device), self.width)[None]
            seen = self.model(views={"img": pictures}, cond_flags=NO_PRIORS)
            poses.append(whole_matrix(seen["camera_poses"]))
            matrices.append(seen["camera_intrs"])
            sure.append(seen["depth_conf"].flatten(2).mean(-1))
        height = fitted(frames_VF3hw[0, :1], self.width).shape[-2]
        return as_path(torch.cat(poses), torch.cat(matrices), (height, self.width), torch.cat(sure), every)
