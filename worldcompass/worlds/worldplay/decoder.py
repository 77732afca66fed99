"""The video autoencoders as the ``Decoder`` of a WorldPlay world, and loaders of their official files."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from worldcompass.worlds.open.decoder import VideoDecoder
from worldcompass.worlds.open.weights import load_weights
from worldcompass.worlds.worldplay.config import VaeConfig5B, VaeConfig8B
from worldcompass.worlds.worldplay.vae_5b import Autoencoder5B
from worldcompass.worlds.worldplay.vae_8b import Autoencoder8B

Autoencoder = Autoencoder8B | Autoencoder5B
_Net = TypeVar("_Net", bound=nn.Module)


def load_decoder_8b(
    folder: Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> VideoDecoder:
    """HunyuanVideo-1.5's autoencoder from its official ``vae`` folder.

    Args:
        folder: with ``config.json`` and ``diffusion_pytorch_model.safetensors``.
        device: of the weights.
        dtype: of weights and arithmetic; WorldCompass's training uses float32.

    Raises:
        UserError: when a file is missing, damaged, or of another network.
    """
    config = VaeConfig8B.from_json(folder / "config.json")
    with torch.device("meta"):
        net = Autoencoder8B(config)
    return VideoDecoder(_filled(net, folder, dtype, device))


def load_decoder_5b(
    folder: Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> VideoDecoder:
    """Wan2.2-TI2V-5B's autoencoder from the ``vae`` folder of its ``diffusers`` form, see ``load_decoder_8b``."""
    config = VaeConfig5B.from_json(folder / "config.json")
    with torch.device("meta"):
        net = Autoencoder5B(config)
    return VideoDecoder(_filled(net, folder, dtype, device))


def _filled(net: _Net, folder: Path, dtype: torch.dtype, device: str | torch.device) -> _Net:
    load_weights(net, folder, dtype, device)
    return net
