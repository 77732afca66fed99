"""Sizes and options of a causal Wan2.1 network, read from the tensors of a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from worldcompass.errors import UnfitInputs

HEAD = 128  # dimensions of an attention head in all released networks
TEXT_LENGTH = 512  # states of a prompt in all released networks, padding included
_BLOCK = re.compile(r"blocks\.(\d+)\.")


@dataclass(frozen=True)
class Config:
    """The network; the defaults are those of minWM."""

    in_channels: int = 16
    """Channels that the patches read: 16 of the latent, and 20 of the start image if it is a condition."""
    out_channels: int = 16
    width: int = 1536
    num_heads: int = 12
    num_blocks: int = 30
    mlp_width: int = 8960
    sinusoid: int = 256
    """Dimensions of a timestep's sinusoidal embedding."""
    patch: tuple[int, int, int] = (1, 2, 2)
    eps: float = 1e-6
    reads: Literal["text", "image"] = "text"
    """What cross-attention reads."""
    states_width: int = 4096
    """Dimensions of the encoder's states of a prompt or image."""
    text_length: int = TEXT_LENGTH
    """States of a prompt, padded with zeros; of an image all states are read as they come."""
    by_camera: bool = True
    """Whether self-attention has a second branch by cameras (PRoPE)."""
    action_blocks: tuple[int, ...] = ()
    """Blocks with a module for keyboard and mouse."""

    @property
    def head(self) -> int:
        """Dimensions of a head."""
        return self.width // self.num_heads

    @property
    def rope_dims(self) -> tuple[int, int, int]:
        """Dimensions of a head that rotate with time, row and column."""
        third = 2 * (self.head // 6)
        return self.head - 2 * third, third, third

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        return self.out_channels


def read_config(shapes: Mapping[str, tuple[int, ...]], official: Mapping[str, Any] | None = None) -> Config:
    """The network whose tensors these are.

    Args:
        shapes: of the tensors, by their official names without the prefix ``model.``.
        official: ``config.json`` in the official form, for what no shape tells: heads, length of text, eps.

    Raises:
        UnfitInputs: when the tensors belong to another kind of network.
    """
    official = official or {}
    prompt, image = "text_embedding.0.weight", "img_emb.proj.1.weight"
    needed = (
        "patch_embedding.weight",
        "time_embedding.0.weight",
        "head.head.weight",
        "blocks.0.ffn.0.weight",
    )
    missing = [name for name in needed if name not in shapes]
    if missing or (prompt in shapes) == (image in shapes):
        what = missing[0] if missing else f"one of {prompt} and {image}"
        raise UnfitInputs(
            f"these weights are of no causal Wan2.1 network: expected {what} among its {len(shapes)} tensors; give"
            " the checkpoint of minWM, Matrix-Game 2 or ForgeWM"
        )
    patch = shapes["patch_embedding.weight"]
    blocks = {int(found[1]) for name in shapes if (found := _BLOCK.match(name))}
    acting = {int(found[1]) for name in shapes if ".action_model." in name and (found := _BLOCK.match(name))}
    return Config(
        in_channels=patch[1],
        out_channels=shapes["head.head.weight"][0] // (patch[2] * patch[3] * patch[4]),
        width=patch[0],
        num_heads=official.get("num_heads") or patch[0] // HEAD,
        num_blocks=len(blocks),
        mlp_width=shapes["blocks.0.ffn.0.weight"][0],
        sinusoid=shapes["time_embedding.0.weight"][1],
        patch=(patch[2], patch[3], patch[4]),
        eps=official.get("eps", 1e-6),
        reads="text" if prompt in shapes else "image",
        states_width=shapes[prompt if prompt in shapes else image][1],
        text_length=official.get("text_len", TEXT_LENGTH),
        by_camera="blocks.0.self_attn.prope_o.weight" in shapes,
        action_blocks=tuple(sorted(acting)),
    )
