"""Wan2.1's autoencoder with tiny random weights, and its list of tensors in words."""

import torch

from worldcompass.worlds.causal_wan.vae import WanAutoencoder, WanVaeConfig
from worldcompass.worlds.open.decoder import VideoDecoder
from worldcompass.worlds.open.tiny import randomise

TINY_VAE = WanVaeConfig(width=2, multipliers=(1, 2, 3, 3), num_blocks=1)


def random_vae():
    net = WanAutoencoder(TINY_VAE)
    randomise(net, torch.Generator().manual_seed(0))
    return net


def random_decoder():
    return VideoDecoder(random_vae())


def latents(rows, count, seed=0):
    return torch.randn(rows, 16, count, 1, 2, generator=torch.Generator().manual_seed(seed))


def video(frames, seed=0, size=(8, 16)):
    """Values from -1 to 1."""
    return 2 * torch.rand(1, 3, frames, *size, generator=torch.Generator().manual_seed(seed)) - 1
