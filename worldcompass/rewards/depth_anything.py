"""Camera paths from Depth-Anything-3 (arXiv 2511.10647) with local weights.

Code: package ``depth-anything-3``, Apache-2.0. Weights: ``DA3-SMALL`` and ``DA3-BASE`` Apache-2.0; ``DA3-LARGE``
and ``DA3-GIANT``, which the released WorldCompass uses, CC BY-NC 4.0. The scale of its poses is arbitrary.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldcompass.rewards.cameras import CameraPath, steps_of
from worldcompass.rewards.external import as_path, loading, need_module, need_weights, whole_matrix

WIDTH = 504  # pixels of the longer side, the package's default
INSTALL = (
    "install it in a separate environment with 'pip install depth-anything-3' (it needs numpy<2, xformers)"
)
GET = "download the repository depth-anything/DA3-GIANT-1.1 (CC BY-NC 4.0) and give its folder"


class DepthAnything3:
    """A camera estimator that reads all frames of a video at once, one video after another."""

    name = "depth-anything-3"

    def __init__(self, weights: str | Path, device: str = "cuda", width: int = WIDTH) -> None:
        """Load a folder with ``config.json`` and ``model.safetensors``; the configuration sets the model's size.

        Raises:
            UserError: when the package or the weights are missing, or the weights do not fit.
        """
        api = need_module("depth_anything_3.api", "Depth-Anything-3", INSTALL)
        folder = need_weights(weights, "Depth-Anything-3", GET)
        with loading("Depth-Anything-3", folder, GET):
            network = api.DepthAnything3.from_pretrained(str(folder))
        self.model = network.to(device).eval()
        self.width = width

    @torch.no_grad()
    def __call__(self, frames_VF3hw: Tensor, intrinsics_4: Tensor, every: int) -> CameraPath:
        """See ``CameraEstimator``; the network estimates the intrinsics.

        Raises:
            ValueError: when F is not 1 + every * S.
        """
        steps_of(frames_VF3hw, every)
        found = [self._video(video) for video in frames_VF3hw]
        camera_from_world, matrices, confidence, sizes = zip(*found, strict=True)
        poses = torch.linalg.inv(whole_matrix(torch.stack(camera_from_world)))
        return as_path(poses, torch.stack(matrices), sizes[0], torch.stack(confidence), every)

    def _video(self, frames_F3hw: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
        """``camera_from_world`` rows, camera matrices and mean confidence per frame, and the size of the frames."""
        pictures = list(frames_F3hw.permute(0, 2, 3, 1).contiguous().cpu().numpy())
        seen = self.model.inference(pictures, process_res=self.width)
        poses, matrices, confidence = (
            torch.as_tensor(a).float() for a in (seen.extrinsics, seen.intrinsics, np.asarray(seen.conf))
        )
        return poses, matrices, confidence.mean((1, 2)), tuple(seen.depth.shape[-2:])
