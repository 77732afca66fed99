"""Wan2.1's video autoencoder from its published file, as the ``Decoder`` of a world."""

from __future__ import annotations

from pathlib import Path

import torch

from worldcompass.worlds.causal_wan.vae import WanAutoencoder
from worldcompass.worlds.open.decoder import VideoDecoder
from worldcompass.worlds.open.weights import load_weights

VAE_FILE = "Wan2.1_VAE.pth"


def load_decoder(
    file: Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> VideoDecoder:
    """The autoencoder with the weights of a file; of a ``.pth`` as data, never as code.

    Raises:
        UserError: when the file is missing, damaged, or of another network.
    """
    with torch.device("meta"):
        net = WanAutoencoder()
    load_weights(net, file, dtype, device)
    return VideoDecoder(net)


def blank_decoder(dtype: torch.dtype = torch.float32) -> VideoDecoder:
    """The autoencoder on the meta device."""
    with torch.device("meta"):
        return VideoDecoder(WanAutoencoder().to(dtype))
