"""Wan2.1's video autoencoder from its published file, as the ``Decoder`` of a world."""

from __future__ import annotations

from pathlib import Path

import torch

from worldcompass.worlds.causal_wan.vae import WanAutoencoder, WanVaeConfig
from worldcompass.worlds.open.decoder import VideoDecoder
from worldcompass.worlds.open.weights import load_weights, shapes_in_file

VAE_FILE = "Wan2.1_VAE.pth"


def load_decoder(
    file: Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> VideoDecoder:
    """The autoencoder with the weights of a file, whose sizes follow from its tensors; read as data, never as code.

    Raises:
        UserError: when the file is missing, damaged, or of another network.
    """
    decoder = blank_decoder(file=file)
    load_weights(decoder.net, file, dtype, device)
    return decoder


def blank_decoder(dtype: torch.dtype = torch.float32, file: Path | None = None) -> VideoDecoder:
    """The autoencoder on the meta device, of the published sizes unless a file is there.

    Raises:
        UserError: when the file is damaged or of another network.
    """
    known = file if file is not None and file.is_file() else None
    config = None if known is None else WanVaeConfig.of_shapes(shapes_in_file(known))
    with torch.device("meta"):
        return VideoDecoder(WanAutoencoder(config).to(dtype))
