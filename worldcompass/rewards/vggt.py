"""Camera paths by VGGT (arXiv 2503.11651), from local weights.

Code: github.com/facebookresearch/vggt, not on PyPI; VGGT licence, which allows commercial but no military use since
July 2025, with the checkpoint ``VGGT-1B-Commercial``; ``VGGT-1B`` is CC BY-NC 4.0. The scale is arbitrary.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from worldcompass.rewards.cameras import CameraPath, steps_of
from worldcompass.rewards.external import as_path, fitted, loading, need_module, need_weights, whole_matrix

WIDTH = 518  # pixels, what it was trained on
INSTALL = "clone github.com/facebookresearch/vggt and 'pip install -e .' there"
GET = "download the repository facebook/VGGT-1B-Commercial and give its folder"


class Vggt:
    """All frames of a video at once, one video after another."""

    name = "vggt"

    def __init__(self, weights: str | Path, device: str = "cuda", width: int = WIDTH) -> None:
        """Load a folder with ``config.json`` and ``model.safetensors``.

        Raises:
            UserError: when the package or the weights are missing, or the weights do not fit.
        """
        model = need_module("vggt.models.vggt", "VGGT", INSTALL)
        self._decode = need_module("vggt.utils.pose_enc", "VGGT", INSTALL).pose_encoding_to_extri_intri
        folder = need_weights(weights, "VGGT", GET)
        with loading("VGGT", folder, GET):
            network = model.VGGT.from_pretrained(str(folder))
        self.model = network.to(device).eval()
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
            seen = self.model(pictures)
            camera_from_world, matrix = self._decode(seen["pose_enc"], pictures.shape[-2:])
            poses.append(torch.linalg.inv(whole_matrix(camera_from_world)))
            matrices.append(matrix)
            sure.append(seen["depth_conf"].mean((-2, -1)))
        height = fitted(frames_VF3hw[0, :1], self.width).shape[-2]
        return as_path(torch.cat(poses), torch.cat(matrices), (height, self.width), torch.cat(sure), every)
