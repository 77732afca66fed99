"""The two transformers with the weights of official files."""

from __future__ import annotations

from pathlib import Path

import torch

from worldcompass.worlds.open.weights import load_weights
from worldcompass.worlds.worldplay.config import Config5B, Config8B
from worldcompass.worlds.worldplay.transformer_5b import Transformer5B
from worldcompass.worlds.worldplay.transformer_8b import Transformer8B


def load_8b(
    path: Path,
    config: Config8B | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device: str | torch.device = "cpu",
) -> Transformer8B:
    """The 8B transformer with the weights of an official file, see ``load_weights``."""
    with torch.device("meta"):
        net = Transformer8B(config)
    load_weights(net, path, dtype, device)
    return net


def load_5b(
    path: Path,
    config: Config5B | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device: str | torch.device = "cpu",
) -> Transformer5B:
    """The 5B transformer with the weights of an official file, see ``load_weights``."""
    with torch.device("meta"):
        net = Transformer5B(config)
    load_weights(net, path, dtype, device)
    return net
