"""Official names of Waypoint's tensors, and reading and writing of its files.

A file stores the tied matrices of the noise level once per layer; the network holds them once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.worlds.open.weights import export_weights, read_weights, shapes_in_file, shapes_of
from worldcompass.worlds.waypoint.autoencoder import Autoencoder, FrameCoder
from worldcompass.worlds.waypoint.config import CoderConfig
from worldcompass.worlds.waypoint.transformer import WaypointTransformer

FILE_NAME = "model.safetensors"
CONFIG_FILE = "config.yaml"
ENCODER_FILES = ("encoder_conf.yml", "encoder.safetensors")
DECODER_FILES = ("decoder_conf.yml", "decoder.safetensors")

_HEAD = re.compile(r"noise_heads\.cond_proj\.(\d+)\.(\d+)\.weight")
_BIAS = re.compile(r"noise_heads\.bias_in\.(\d+)")
_VARIANCE = "conv_out_logvar."  # a head of the encoder that some files hold and nothing reads
_GAIN, _DIRECTION = ".parametrizations.weight.original0", ".parametrizations.weight.original1"


def load_waypoint(
    net: WaypointTransformer, path: Path, dtype: torch.dtype, device: str | torch.device = "cpu"
) -> None:
    """Replace a network's parameters by the tensors of an official file, see ``load_weights`` of the kit.

    Raises:
        UserError: when the file is missing, damaged, not finite or does not fit this network exactly, or when
            copies of a tied matrix differ.
    """
    path = path / FILE_NAME if path.is_dir() else path
    tensors = read_weights(path, official_shapes(net), dtype, device)
    net.load_state_dict(from_official(net, tensors, path), assign=True)


def export_waypoint(net: WaypointTransformer, path: Path, dtype: torch.dtype | None = None) -> None:
    """Write a network's weights under the official names, with all copies of tied matrices.

    Raises:
        ValueError: when the network still has adapters.
    """
    export_weights(net, path, dtype, lambda tensors: to_official(net, tensors))


def load_coder(
    folder: Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> FrameCoder:
    """The autoencoder with its official weights.

    Args:
        folder: with the files ``ENCODER_FILES`` and ``DECODER_FILES``.
        device: of the weights.
        dtype: of weights and arithmetic.

    Raises:
        UserError: when a file is missing, damaged, or of another network.
    """
    net = blank_autoencoder(folder)
    for half, (_, name) in ((net.encoder, ENCODER_FILES), (net.decoder, DECODER_FILES)):
        shapes = unfused(shapes_of(half))
        tensors = fused(read_weights(folder / name, shapes, torch.float32, device, name_of=_read_name))
        half.load_state_dict({name: tensors[name].to(dtype) for name in half.state_dict()}, assign=True)
    return FrameCoder(net)


def blank_autoencoder(folder: Path) -> Autoencoder:
    """The autoencoder on the meta device, of the sizes that the folder's configurations say.

    Raises:
        UserError: when a configuration is missing or of another network.
    """
    encoder = CoderConfig.from_yaml(folder / ENCODER_FILES[0], encoder=True)
    decoder = CoderConfig.from_yaml(folder / DECODER_FILES[0], encoder=False)
    with torch.device("meta"):
        return Autoencoder(encoder, decoder)


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an autoencoder's file, without those that nothing reads."""
    return shapes_in_file(path, name_of=_read_name)


def _read_name(name: str) -> str | None:
    return None if name.startswith(_VARIANCE) else name


def official_names(net: WaypointTransformer) -> dict[str, tuple[str, ...]]:
    """For each tensor of the network the official names of all its copies."""
    layers = range(net.config.num_layers)

    def names(own: str) -> tuple[str, ...]:
        if head := _HEAD.fullmatch(own):
            copies = layers if net.config.ties else (int(head[1]),)
            return tuple(f"transformer.blocks.{i}.cond_head.cond_proj.{head[2]}.weight" for i in copies)
        if bias := _BIAS.fullmatch(own):
            return (f"transformer.blocks.{bias[1]}.cond_head.bias_in",)
        return (own,)

    return {own: names(own) for own in net.state_dict()}


def official_shapes(net: WaypointTransformer) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors of a file with this network."""
    state = net.state_dict()
    return {
        name: _official_shape(own, state[own]) for own, names in official_names(net).items() for name in names
    }


def to_official(net: WaypointTransformer, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by the network's names as those of a file, every copy of its own."""
    return {
        name: state[own].reshape(_official_shape(own, state[own])).clone()
        for own, names in official_names(net).items()
        for name in names
    }


def from_official(net: WaypointTransformer, tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Tensors of a file by the network's names.

    Raises:
        UserError: when copies of a tied matrix differ, as after a training that did not tie them.
    """
    state = net.state_dict()
    found = {}
    for own, names in official_names(net).items():
        first = tensors[names[0]]
        if other := next((name for name in names[1:] if not torch.equal(tensors[name], first)), None):
            raise UserError(
                f"{path} is no checkpoint with tied matrices: {other} differs from {names[0]}, expected copies of"
                " one matrix in all layers"
            )
        found[own] = first.reshape(state[own].shape)
    return found


def unfused(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an autoencoder's file, with convolutions normalised by weight."""
    found = {}
    for name, shape in shapes.items():
        own = name.removesuffix(".weight")
        if own == name:
            found[name] = shape
        else:
            found[own + _GAIN], found[own + _DIRECTION] = (shape[0], 1, 1, 1), shape
    return found


def fused(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An autoencoder's tensors with plain convolutions: g v / |v| for every output channel."""
    found = {}
    for name, tensor in tensors.items():
        if name.endswith(_DIRECTION):
            own = name.removesuffix(_DIRECTION)
            direction = tensor.float()
            length = direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            found[f"{own}.weight"] = tensors[own + _GAIN].float() * direction / length
        elif not name.endswith(_GAIN):
            found[name] = tensor
    return found


def _official_shape(own: str, tensor: Tensor) -> tuple[int, ...]:
    return () if own.endswith(".v_lamb") else tuple(tensor.shape)
