"""Wan2.1's video autoencoder against numbers from the official code, on a tiny random configuration.

The folder is named by the environment variable WORLDCOMPASS_GOLDEN; sizes come from the tensors, pieces from the
case's config.json.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from worldcompass.worlds.causal_wan.vae import MEAN, STD, WanAutoencoder, WanVaeConfig
from worldcompass.worlds.open.decoder import VideoDecoder

ROOT = os.environ.get("WORLDCOMPASS_GOLDEN")
pytestmark = [
    pytest.mark.golden,
    pytest.mark.skipif(not ROOT, reason="WORLDCOMPASS_GOLDEN names no folder of official numbers"),
]
ATOL = 1e-4  # of networks; the stored numbers are float32


@pytest.fixture(scope="module")
def golden():
    """The autoencoder, its configuration, and the stored inputs and outputs."""
    case = Path(ROOT or ".") / "m_vae"
    weights = load_file(case / "weights.safetensors")
    net = WanAutoencoder(WanVaeConfig.of_shapes({name: tuple(t.shape) for name, t in weights.items()}))
    net.load_state_dict(weights)
    config = json.loads((case / "config.json").read_text())
    return net, config, load_file(case / "inputs.safetensors"), load_file(case / "outputs.safetensors")


def close(found, expected):
    print(f"largest error {float((found - expected).abs().max()):.1e}")
    torch.testing.assert_close(found, expected, atol=ATOL, rtol=0)


def test_the_sizes_are_read_from_the_tensors(golden):
    net, config, _, _ = golden
    assert net.config.width == config["dim"] and net.config.multipliers == tuple(config["dim_mult"])
    assert net.config.num_blocks == config["num_res_blocks"]
    assert net.config.halves_time == tuple(config["temperal_downsample"])
    for ours, official in ((MEAN, "latents_mean"), (STD, "latents_std")):
        torch.testing.assert_close(torch.tensor(ours), torch.tensor(config[official]))


@torch.no_grad()
def test_videos_are_encoded(golden):
    net, _, inputs, outputs = golden
    close(net.encode(inputs["pixels"]), outputs["latent"].transpose(1, 2))
    close(net.encode(inputs["pixels"][:, :, :1]), outputs["latent"].transpose(1, 2)[:, :, :1])


@torch.no_grad()
def test_latents_are_decoded_at_once_and_in_pieces(golden):
    net, config, inputs, outputs = golden
    latents = inputs["latents"].transpose(1, 2)
    close(net.decode(latents)[0], outputs["decoded_unclamped"].transpose(1, 2))
    decoder, memory = VideoDecoder(net), None
    for index, piece in enumerate(latents.split(config["chunks"], 2)):
        frames = decoder.decode(piece, memory)
        close(frames, (outputs[f"decoded_chunk{index}"].clamp(-1, 1) / 2 + 0.5))
        memory = decoder.advance(piece, memory)
    close(decoder.decode(latents, None), outputs["decoded"] / 2 + 0.5)
