"""HunyuanVideo-1.5's video autoencoder against numbers from the official code, on a tiny random configuration.

The folder is named by the environment variable WORLDCOMPASS_GOLDEN; sizes come from the case's config.json.
"""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from worldcompass.worlds.open.weights import FILE_NAME
from worldcompass.worlds.worldplay.decoder import load_decoder_8b

ROOT = os.environ.get("WORLDCOMPASS_GOLDEN")
pytestmark = [
    pytest.mark.golden,
    pytest.mark.skipif(not ROOT, reason="WORLDCOMPASS_GOLDEN names no folder of official numbers"),
]
ATOL = 1e-4  # of networks; the stored numbers are float32


@pytest.fixture
def golden(tmp_path):
    """The autoencoder, loaded from the files as they are published, with the stored inputs and outputs."""
    case = Path(ROOT or ".") / "l_vae"
    (tmp_path / "config.json").symlink_to(case / "config.json")
    (tmp_path / FILE_NAME).symlink_to(case / "weights.safetensors")
    decoder = load_decoder_8b(tmp_path)
    return decoder, load_file(case / "inputs.safetensors"), load_file(case / "outputs.safetensors")


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=ATOL, rtol=0)


@torch.no_grad()
def test_videos_are_encoded(golden):
    decoder, inputs, outputs = golden
    net, video = decoder.net, inputs["video"]
    close(net.posterior(video), outputs["encode_parameters"])
    close(net.encode(video) / net.config.scale, outputs["encode_mode"])
    close(decoder.encode((video.transpose(1, 2) + 1) / 2) / net.config.scale, outputs["encode_mode"])


@torch.no_grad()
def test_latents_are_decoded_at_once_and_one_by_one(golden):
    """The official decoder forgets after each call; ours goes on where it was and gives the same frames."""
    decoder, inputs, outputs = golden
    latents = inputs["latent"] * decoder.net.config.scale
    close(decoder.net.decode(latents)[0], outputs["decode"])
    memory, frames = None, []
    for latent in latents.split(1, 2):
        frames.append(decoder.decode(latent, memory))
        memory = decoder.advance(latent, memory)
    close(torch.cat(frames, 1), (outputs["decode"].transpose(1, 2) / 2 + 0.5).clamp(0, 1))
