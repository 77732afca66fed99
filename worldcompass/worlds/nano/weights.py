"""Reading and writing of Nano World Models and of their picture autoencoder in the official form."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import nn

from worldcompass.errors import UserError
from worldcompass.parallel.team import Team
from worldcompass.runs.reading import read_json, reason
from worldcompass.worlds.nano.autoencoder import PictureAutoencoder, PictureDecoder
from worldcompass.worlds.nano.config import PictureConfig
from worldcompass.worlds.open.weights import (
    FILE_NAME,
    export_weights,
    load_weights,
    plain_name,
    shapes_in_file,
)

MODEL_FILE, CONFIG_FILE = "model.safetensors", "config.yaml"
PICTURES = "vae"  # folder of the picture autoencoder next to the checkpoint
ENTRIES = ("state_dict", "model")  # of files of the official training, which hold more than weights
_OTHER = "vae."  # the autoencoder in such files
# Names of attention in older files of ``diffusers``.
_OLD = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
_REQUIRED = {
    "in_channels": 3,
    "out_channels": 3,
    "act_fn": "silu",
    "mid_block_add_attention": True,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
}


def load_nano(net: nn.Module, path: Path, dtype: torch.dtype, device: str | torch.device = "cpu") -> None:
    """Replace a network's parameters by the tensors of a file, or of ``model.safetensors`` in a folder.

    Files of the official training are read as plain data, never as code; prefixes of compilation and the
    autoencoder's tensors in them are left out.

    Raises:
        UserError: when the file is missing, damaged, not finite, or does not fit this network exactly.
    """
    path = path / MODEL_FILE if path.is_dir() else path
    load_weights(net, path, dtype, device, ENTRIES, network_name)


def network_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes that ``load_nano`` would read; see ``shapes_in_file``."""
    return shapes_in_file(path, ENTRIES, network_name)


def network_name(name: str) -> str | None:
    """The official name of a tensor of the network; None for another one."""
    plain = plain_name(name)
    return None if plain.startswith(_OTHER) else plain


def export_nano(net: nn.Module, file: Path, config: Path | None) -> None:
    """Write a network's weights under the official names, and a copy of ``config``, if any, next to them.

    With sharded weights all ranks must call it; the main one writes.
    """
    export_weights(net, file)
    if config is not None and config.is_file() and Team.current().is_main:
        shutil.copyfile(config, file.with_name(CONFIG_FILE))


def picture_name(name: str) -> str:
    """The name of one of the autoencoder's tensors in newer files."""
    for old, new in _OLD.items():
        name = name.replace(old, new)
    return name


def picture_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the autoencoder's tensors in a file."""
    return shapes_in_file(path, name_of=picture_name)


def load_pictures(folder: Path, device: str = "cpu") -> PictureDecoder:
    """The picture autoencoder of a folder as ``diffusers`` writes it, in float32.

    Raises:
        UserError: when a file is missing, damaged, or of another network.
    """
    net = blank_pictures(folder)
    load_weights(net, folder / FILE_NAME, torch.float32, device, name_of=picture_name)
    return PictureDecoder(net)


def blank_pictures(folder: Path) -> PictureAutoencoder:
    """The autoencoder of a folder on the meta device; that of Stable Diffusion when its configuration is missing.

    Raises:
        UserError: when the configuration is of another network.
    """
    file = folder / "config.json"
    config = picture_config(file) if file.is_file() else None
    with torch.device("meta"):
        return PictureAutoencoder(config)


def picture_config(path: Path) -> PictureConfig:
    """Read a ``config.json`` of ``diffusers``' AutoencoderKL.

    Raises:
        UserError: when the file cannot be read, describes another architecture or lacks a size.
    """
    try:
        raw = read_json(path)
        widths = tuple(raw["block_out_channels"])
        wrong = [f"{k} is {raw[k]!r} instead of {v!r}" for k, v in _REQUIRED.items() if raw.get(k, v) != v]
        wrong += [
            f"{key} are {raw[key]}"
            for key, kind in (
                ("down_block_types", "DownEncoderBlock2D"),
                ("up_block_types", "UpDecoderBlock2D"),
            )
            if raw.get(key, [kind] * len(widths)) != [kind] * len(widths)
        ]
        if wrong:
            raise ValueError("; ".join(wrong))
        return PictureConfig(
            raw["latent_channels"],
            widths,
            raw["layers_per_block"],
            raw["norm_num_groups"],
            raw.get("scaling_factor", PictureConfig.scale),
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as why:
        raise UserError(
            f"{path} is no configuration of Stable Diffusion's autoencoder ({reason(why)}): give that of"
            " stabilityai/sd-vae-ft-mse"
        ) from why
