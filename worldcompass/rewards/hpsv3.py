"""HPSv3 (arXiv 2508.03789) as a scorer of frames with local weights; meant to run in a separate process.

Package ``hpsv3`` 1.0.0, MIT; weights MIT, on a Qwen2-VL-7B (Apache-2.0). The package pins
``transformers==4.45.2``, which conflicts with current versions. Install it in a separate environment and reach it
over HTTP or Ray.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldcompass.rewards.external import loading, need_module, need_weights

# WorldCompass reward_function.py: the sentence of its quality and drift rewards.
QUALITY_SENTENCE = "A high-quality, ultra-detailed and well-structured image."
BATCH = 8  # frames of one forward pass
INSTALL = "install it in a separate environment with 'pip install hpsv3'"
GET = "download HPSv3.safetensors from MizzenAI/HPSv3 and give its path"
GET_CONFIG = "copy the package's HPSv3_7B.yaml and name a local folder of Qwen2-VL-7B-Instruct in it"


class Hpsv3:
    """Human preference score of a frame for the caption or a fixed sentence; about -10 to 15."""

    def __init__(
        self,
        checkpoint: str | Path,
        sentence: str | None = None,
        config: str | Path | None = None,
        device: str = "cuda",
    ) -> None:
        """Load the scorer once.

        Args:
            checkpoint: file of the weights.
            sentence: score for this sentence (``QUALITY_SENTENCE``) instead of the group's caption.
            config: a copy of the package's HPSv3_7B.yaml that names a local folder of Qwen2-VL-7B-Instruct.
                Without it, the package downloads that model.
            device: of the network.

        Raises:
            UserError: when the package or the weights are missing, or the weights do not fit.
        """
        package = need_module("hpsv3", "HPSv3", INSTALL)
        path = need_weights(checkpoint, "HPSv3", GET)
        settings = None if config is None else str(need_weights(config, "HPSv3", GET_CONFIG))
        with loading("HPSv3", path, GET):
            self.model: Any = package.HPSv3RewardInferencer(settings, str(path), device=device)
        self.sentence = sentence
        self.name = "hpsv3" if sentence is None else "hpsv3_quality"

    @torch.no_grad()
    def __call__(self, frames_F3hw: Tensor, caption: str) -> Tensor:
        """The predicted mean of the score (the network also predicts a deviation); float32 (F,)."""
        pillow = need_module("PIL.Image", "HPSv3", INSTALL)
        pictures = [pillow.fromarray(f) for f in frames_F3hw.permute(0, 2, 3, 1).contiguous().cpu().numpy()]
        words = self.sentence if self.sentence is not None else caption
        parts = [pictures[start : start + BATCH] for start in range(0, len(pictures), BATCH)]
        return torch.cat([self.model.reward(part, [words] * len(part))[:, 0].float().cpu() for part in parts])
