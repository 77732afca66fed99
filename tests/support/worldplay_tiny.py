"""Tiny random WorldPlay networks and inputs for tests; nothing is left at zero, so that every path matters."""

import json

import torch
from camera_paths import commanded, parse_path
from safetensors.torch import save_file

from worldcompass.worlds.open.decoder import VideoDecoder
from worldcompass.worlds.open.poses import MOTION
from worldcompass.worlds.open.tiny import randomise
from worldcompass.worlds.open.weights import FILE_NAME, export_weights
from worldcompass.worlds.worldplay.branches import Latents
from worldcompass.worlds.worldplay.config import VaeConfig5B, VaeConfig8B
from worldcompass.worlds.worldplay.text import TextStates
from worldcompass.worlds.worldplay.tiny import TINY_5B as CONFIG_5B
from worldcompass.worlds.worldplay.tiny import TINY_8B, conditioning_8b
from worldcompass.worlds.worldplay.tiny import TINY_8B as CONFIG_8B
from worldcompass.worlds.worldplay.transformer_5b import Caption, Transformer5B
from worldcompass.worlds.worldplay.transformer_8b import Transformer8B
from worldcompass.worlds.worldplay.vae_5b import Autoencoder5B
from worldcompass.worlds.worldplay.vae_8b import Autoencoder8B

VAE_8B = VaeConfig8B(latent_channels=3, widths=(12, 12, 24, 24), num_blocks=1, scale=1.5)
VAE_5B = VaeConfig5B(
    (0.3, -0.2, 0.1), (1.5, 0.7, 1.1), width=4, decoder_width=6, multipliers=(1, 2, 2, 2), num_blocks=1
)
HEIGHT, WIDTH = 2, 4


def random_network(kind):
    net = Transformer8B(CONFIG_8B) if kind == "8b" else Transformer5B(CONFIG_5B)
    randomise(net, torch.Generator().manual_seed(0))
    return net


def raw_vae_config(kind):
    """The tiny autoencoder's config.json in its official form."""
    if kind == "8b":
        return {
            "in_channels": 3, "out_channels": 3, "latent_channels": 3, "block_out_channels": list(VAE_8B.widths),
            "layers_per_block": VAE_8B.num_blocks, "ffactor_spatial": VAE_8B.spatial, "ffactor_temporal": 4,
            "scaling_factor": VAE_8B.scale, "shift_factor": None, "downsample_match_channel": True,
        }  # fmt: skip
    return {
        "in_channels": 12, "out_channels": 12, "patch_size": 2, "z_dim": 3, "is_residual": True, "attn_scales": [],
        "base_dim": VAE_5B.width, "decoder_base_dim": VAE_5B.decoder_width, "dim_mult": list(VAE_5B.multipliers),
        "num_res_blocks": VAE_5B.num_blocks, "temperal_downsample": list(VAE_5B.halves_time),
        "latents_mean": list(VAE_5B.mean), "latents_std": list(VAE_5B.std),
    }  # fmt: skip


def write_vae(kind, folder, **changes):
    """The files of ``random_decoder`` as they are published; ``changes`` to its config.json."""
    export_weights(random_decoder(kind).net, folder / FILE_NAME)
    (folder / "config.json").write_text(json.dumps({**raw_vae_config(kind), **changes}))


def random_decoder(kind):
    net = Autoencoder8B(VAE_8B) if kind == "8b" else Autoencoder5B(VAE_5B)
    randomise(net, torch.Generator().manual_seed(0))
    return VideoDecoder(net)


def text_states(kind, seed=0, num_tokens=5, num_quoted=2):
    generator = torch.Generator().manual_seed(seed)
    if kind == "5b":
        return Caption(torch.randn(6, CONFIG_5B.text_width, generator=generator))
    states = conditioning_8b(CONFIG_8B, generator, num_tokens, num_quoted)
    return TextStates(
        states["text_states"],
        states["text_mask"],
        states["byt5_states"],
        states["byt5_mask"],
        states["vision_states"],
    )


def random_latents(kind, rows, count=4, first_position=0, seed=1):
    """Latents of rows that differ in everything."""
    generator = torch.Generator().manual_seed(seed)
    channels = 2 * CONFIG_8B.latent_channels + 1 if kind == "8b" else CONFIG_5B.latent_channels
    actions = commanded(
        parse_path("w-3, w+right-4, up-3, d+left-30"), MOTION, torch.tensor([0.5, 0.9, 0.5, 0.5])
    )
    starts = torch.randint(0, len(actions) - count, (rows,), generator=generator).tolist()
    chosen = torch.stack([torch.arange(start, start + count) for start in starts])
    return Latents(
        torch.randn(rows, channels, count, HEIGHT, WIDTH, generator=generator),
        1000 * torch.rand(rows, count, generator=generator),
        actions.labels_K[chosen],
        actions.world_from_camera_K44[chosen],
        actions.intrinsics_K4[chosen],
        first_position,
    )


def row_of(latents, row):
    rows = slice(row, row + 1)
    return Latents(
        latents.latents_BCKHW[rows],
        latents.timesteps_BK[rows],
        latents.labels_BK[rows],
        latents.world_from_camera_BK44[rows],
        latents.intrinsics_BK4[rows],
        latents.first_position,
    )


def prepare(folder, size=(6, 8), **changes):
    """Two images in the form of ``worldcompass prepare``."""
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(("a", "b")):
        generator = torch.Generator().manual_seed(i)
        tensors = conditioning_8b(TINY_8B, generator)
        tensors |= {"latent": torch.randn(3, *size, generator=generator)} | changes
        save_file(
            {k: t for k, t in tensors.items() if t is not None},
            folder / f"{name}.safetensors",
            {"caption": name},
        )
    return folder
