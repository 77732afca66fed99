"""The published files of Matrix-Game 2 and ForgeWM: names, loading and writing."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from worldcompass.errors import UserError
from worldcompass.worlds.causal_wan.action_module import ActionConfig
from worldcompass.worlds.causal_wan.autoencoder_files import VAE_FILE
from worldcompass.worlds.causal_wan.config import Config, read_config
from worldcompass.worlds.causal_wan.image_encoder import ImageEncoder, ImageEncoderConfig
from worldcompass.worlds.causal_wan.matrix_game import Variant
from worldcompass.worlds.causal_wan.minwm_files import in_wrapper
from worldcompass.worlds.open.layouts import Part
from worldcompass.worlds.open.weights import export_weights, load_weights, read_pickled, shapes_in_file

IMAGE_FILE = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
ENTRIES = ("generator", "generator_ema")
"""Entries of ForgeWM's files, in the order in which its own code looks for them."""
_HOME = "from Skywork/Matrix-Game-2.0"
PARTS = (
    Part(".", (VAE_FILE,), f"Wan2.1's video autoencoder, {_HOME}"),
    Part(".", (IMAGE_FILE,), f"Wan2.1's image encoder, {_HOME}"),
)


def load_game(net: nn.Module, path: Path, dtype: torch.dtype, device: str | torch.device = "cpu") -> None:
    """Replace a network's parameters by those of a published file, see ``load_weights``."""
    load_weights(net, path, dtype, device, ENTRIES)


def export_game(net: nn.Module, path: Path, dtype: torch.dtype | None = None) -> None:
    """Write a network's weights as the official code reads them, see ``export_weights``."""
    export_weights(net, path, dtype, in_wrapper)


def shapes_in_game(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published file's tensors, see ``shapes_in_file``."""
    return shapes_in_file(path, ENTRIES)


def sizes_in_file(path: Path) -> tuple[Config, ActionConfig | None]:
    """The sizes of the network in a file, and those of its modules for actions if it has any.

    Raises:
        UserError: when the file is damaged or of another network.
    """
    try:
        shapes = shapes_in_game(path)
    except UserError:
        raise
    except ValueError as why:
        raise UserError(f"{path} is damaged or no safetensors file ({why}): fetch it again") from why
    config = read_config(shapes)
    try:
        actions = ActionConfig.of_shapes(shapes, config.action_blocks[0]) if config.action_blocks else None
    except KeyError as why:
        raise UserError(f"{path} lacks {why}: fetch it again") from why
    return config, actions


def check_variant(path: Path, variant: Variant) -> None:
    """Check that a file is of a variant; reads only names and shapes.

    Raises:
        UserError: naming both, in one sentence.
    """
    config, actions = sizes_in_file(path)
    if actions is None:
        raise UserError(f"{path} has no modules for keyboard and mouse: give the file of {variant.name}")
    try:
        variant.check(config, actions)
    except UserError as why:
        raise UserError(f"{path}: {why}") from why


def load_image_encoder(path: Path, device: str | torch.device = "cpu") -> ImageEncoder:
    """Wan2.1's image encoder from its published file, of which the text half is left out; float32.

    Raises:
        UserError: when the file is missing, damaged, or of another network.
    """
    tensors = read_pickled(path)
    with torch.device("meta"):
        net = ImageEncoder(
            ImageEncoderConfig.of_shapes({name: tuple(t.shape) for name, t in tensors.items()})
        )
    own = {name: tensor.to(device, torch.float32) for name, tensor in net.own(tensors).items()}
    try:
        net.load_state_dict(own, assign=True)
    except RuntimeError as why:
        raise UserError(
            f"{path} is not {IMAGE_FILE} ({str(why).splitlines()[-1].strip()}): fetch it again"
        ) from why
    return net.requires_grad_(False).eval()
