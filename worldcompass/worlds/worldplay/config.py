"""Sizes of the two WorldPlay transformers and their video autoencoders, and readers of their ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldcompass.errors import UserError
from worldcompass.runs.reading import read_json, reason
from worldcompass.worlds.open.prepared import Shape

# Values of a configuration file that this code requires; another value means another architecture.
_REQUIRED_8B = {
    "patch_size": [1, 1, 1],
    "concat_condition": True,
    "mm_single_blocks_depth": 0,
    "qkv_bias": True,
    "qk_norm": True,
    "qk_norm_type": "rms",
    "text_projection": "single_refiner",
    "text_states_dim_2": None,
    "glyph_byT5_v2": True,
    "vision_projection": "linear",
    "use_cond_type_embedding": True,
    "is_reshape_temporal_channels": False,
    "guidance_embed": False,
    "use_meanflow": False,
}
_REQUIRED_5B = {
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "image_dim": None,
    "added_kv_proj_dim": None,
}
_REQUIRED_VAE_8B = {
    "in_channels": 3,
    "downsample_match_channel": True,
    "upsample_match_channel": True,
    "shift_factor": None,
}
_REQUIRED_VAE_5B = {"attn_scales": [], "is_residual": True}


@dataclass(frozen=True)
class Config8B:
    """The defaults are the real model's (HunyuanVideo-1.5 480p image-to-video): 8.558 B parameters."""

    latent_channels: int = 32
    """Of a latent, and of the condition latent that the network also reads; the mask is one more channel."""
    width: int = 2048
    num_heads: int = 16
    num_blocks: int = 54
    mlp_ratio: float = 4.0
    rope_dims: tuple[int, int, int] = (16, 56, 56)
    """Dimensions of a head that rotate with time, height and width; their sum is the head's."""
    rope_theta: float = 256.0
    text_width: int = 3584
    """Of the caption's states (Qwen2.5-VL-7B)."""
    vision_width: int = 1152
    """Of the start image's states (SigLIP)."""
    byt5_widths: tuple[int, int, int] = (1472, 2048, 2048)
    """Of the quoted text's states (byT5) and the two hidden layers of their mapper."""

    def __post_init__(self) -> None:
        if sum(self.rope_dims) * self.num_heads != self.width:
            raise ValueError(
                f"rope_dims {self.rope_dims} times {self.num_heads} heads must make the width {self.width}"
            )

    @property
    def head(self) -> int:
        """Dimensions of a head."""
        return self.width // self.num_heads

    @classmethod
    def from_json(cls, path: Path) -> Config8B:
        """Read an official ``config.json``; keys that do not concern the network are ignored.

        Raises:
            UserError: when the file cannot be read, describes another architecture or lacks a size.
        """
        raw = _read(path, _REQUIRED_8B, "WorldPlay 8B")
        byt5 = raw.get("byt5_dims", {"in_dim": 1472, "hidden_dim": 2048, "out_dim": 2048})
        try:
            return cls(
                latent_channels=raw["in_channels"],
                width=raw["hidden_size"],
                num_heads=raw["heads_num"],
                num_blocks=raw["mm_double_blocks_depth"],
                mlp_ratio=raw["mlp_width_ratio"],
                rope_dims=tuple(raw["rope_dim_list"]),
                rope_theta=raw["rope_theta"],
                text_width=raw["text_states_dim"],
                vision_width=raw.get("vision_states_dim", 1152),
                byt5_widths=(byt5["in_dim"], byt5["hidden_dim"], byt5["out_dim"]),
            )
        except (KeyError, ValueError) as why:
            raise _unusable(path, why) from why


@dataclass(frozen=True)
class Config5B:
    """The defaults are the real model's (Wan2.2-TI2V-5B): 5.293 B parameters."""

    latent_channels: int = 48
    patch: tuple[int, int, int] = (1, 2, 2)
    """Cells of a latent in one token, along time (always 1), height and width."""
    num_heads: int = 24
    head: int = 128
    num_blocks: int = 30
    mlp_width: int = 14336
    text_width: int = 4096
    """Of the caption's states (UMT5)."""
    sinusoid: int = 256
    """Dimensions of the embedding of a timestep or an action."""
    eps: float = 1e-6
    """Of every norm."""

    def __post_init__(self) -> None:
        if self.patch[0] != 1:
            raise ValueError(f"a token must hold one latent in time, patch is {self.patch}")
        if self.head % 4:
            raise ValueError(f"a head's dimensions must be a multiple of 4 for cameras, got {self.head}")

    @property
    def width(self) -> int:
        """Dimensions of a token."""
        return self.num_heads * self.head

    @property
    def rope_dims(self) -> tuple[int, int, int]:
        """Dimensions of a head that rotate with time, height and width."""
        space = 2 * (self.head // 6)
        return self.head - 2 * space, space, space

    @classmethod
    def from_json(cls, path: Path) -> Config5B:
        """Read an official ``config.json``; keys that do not concern the network are ignored.

        Raises:
            UserError: when the file cannot be read, describes another architecture or lacks a size.
        """
        raw = _read(path, _REQUIRED_5B, "WorldPlay 5B")
        try:
            return cls(
                latent_channels=raw["in_channels"],
                patch=tuple(raw["patch_size"]),
                num_heads=raw["num_attention_heads"],
                head=raw["attention_head_dim"],
                num_blocks=raw["num_layers"],
                mlp_width=raw["ffn_dim"],
                text_width=raw["text_dim"],
                sinusoid=raw["freq_dim"],
                eps=raw["eps"],
            )
        except (KeyError, ValueError) as why:
            raise _unusable(path, why) from why


@dataclass(frozen=True)
class VaeConfig8B:
    """The defaults are the real model's (HunyuanVideo-1.5): 1.261 B parameters."""

    latent_channels: int = 32
    widths: tuple[int, ...] = (128, 256, 512, 1024, 1024)
    """Channels at each resolution, from the picture's to the latent's; each next one halves the picture."""
    num_blocks: int = 2
    """At each resolution of the encoder; the decoder has one more."""
    temporal: int = 4
    """Frames of a latent."""
    scale: float = 1.03682
    """Factor of a latent before the transformer reads it."""

    def __post_init__(self) -> None:
        if self.temporal != 4:
            raise ValueError(f"a latent must stand for 4 frames, not {self.temporal}")
        if len(self.widths) < 3:
            raise ValueError(f"4 frames become a latent in two halvings, widths are {self.widths}")

    @property
    def spatial(self) -> int:
        """Pixels along each side of a latent's cell."""
        return 2 ** (len(self.widths) - 1)

    def time_factor(self, level: int, down: bool) -> int:
        """Factor between the frames before and after the change at a level: 2 at the two nearest to the latent."""
        from_latent = len(self.widths) - 2 - level if down else level
        return 2 if from_latent < 2 else 1

    @classmethod
    def from_json(cls, path: Path) -> VaeConfig8B:
        """Read an official ``config.json`` of the autoencoder.

        Raises:
            UserError: when the file cannot be read, describes another architecture or lacks a size.
        """
        raw = _read(path, _REQUIRED_VAE_8B, "HunyuanVideo-1.5's autoencoder")
        try:
            config = cls(
                latent_channels=raw["latent_channels"],
                widths=tuple(raw["block_out_channels"]),
                num_blocks=raw["layers_per_block"],
                temporal=raw["ffactor_temporal"],
                scale=raw["scaling_factor"],
            )
            if raw["ffactor_spatial"] != config.spatial:
                raise ValueError(
                    f"ffactor_spatial is {raw['ffactor_spatial']}, the widths make {config.spatial}"
                )
        except (KeyError, ValueError) as why:
            raise _unusable(path, why) from why
        return config


@dataclass(frozen=True)
class VaeConfig5B:
    """Sizes of Wan2.2-TI2V-5B's autoencoder; the defaults are the real model's, 0.705 B parameters."""

    mean: tuple[float, ...] = (0.0,) * 48
    """Mean of every channel of a latent over the training data. The real numbers are in its ``config.json``."""
    std: tuple[float, ...] = (1.0,) * 48
    """Standard deviation of every channel, from the same file."""
    width: int = 160
    """Of the encoder at full resolution."""
    decoder_width: int = 256
    """Of the decoder at full resolution."""
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    """Multiples of the width at each resolution, from the picture's to the latent's."""
    num_blocks: int = 2
    """At each resolution of the encoder; the decoder has one more."""
    halves_time: tuple[bool, ...] = (False, True, True)
    """Whether each change of resolution also halves the frames, from the picture to the latent."""
    patch: int = 2
    """Pixels along each side of a patch that enters the network as one cell."""

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise ValueError(f"{len(self.mean)} means and {len(self.std)} standard deviations")
        if sum(self.halves_time) != 2:
            raise ValueError(
                f"a latent must stand for 4 frames, frames are halved {sum(self.halves_time)} times"
            )
        if len(self.halves_time) != len(self.multipliers) - 1:
            raise ValueError(
                f"{len(self.multipliers)} resolutions, {len(self.halves_time)} changes between them"
            )

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        return len(self.mean)

    @property
    def spatial(self) -> int:
        """Pixels along each side of a latent's cell."""
        return self.patch * 2 ** len(self.halves_time)

    @classmethod
    def from_json(cls, path: Path) -> VaeConfig5B:
        """Read the ``config.json`` in the ``vae`` folder of Wan2.2-TI2V-5B for ``diffusers``.

        Raises:
            UserError: when the file cannot be read, describes another architecture or lacks a size.
        """
        raw = _read(path, _REQUIRED_VAE_5B, "Wan2.2's autoencoder")
        try:
            config = cls(
                mean=tuple(raw["latents_mean"]),
                std=tuple(raw["latents_std"]),
                width=raw["base_dim"],
                decoder_width=raw["decoder_base_dim"],
                multipliers=tuple(raw["dim_mult"]),
                num_blocks=raw["num_res_blocks"],
                halves_time=tuple(raw["temperal_downsample"]),
                patch=raw["patch_size"],
            )
            if raw["z_dim"] != config.latent_channels:
                raise ValueError(f"z_dim is {raw['z_dim']}, there are {config.latent_channels} means")
            if raw["in_channels"] != 3 * config.patch**2:
                raise ValueError(f"in_channels are {raw['in_channels']}, patches hold {3 * config.patch**2}")
        except (KeyError, ValueError) as why:
            raise _unusable(path, why) from why
        return config


def expected_shapes(config: Config8B | Config5B, latent_size: tuple[int, int]) -> dict[str, Shape]:
    """Names and shapes of a file's tensors, for latents of (height, width) cells."""
    shapes: dict[str, Shape] = {
        "latent": (config.latent_channels, *latent_size),
        "text_states": (None, config.text_width),
    }
    if isinstance(config, Config8B):
        shapes |= {
            "text_mask": (None,),
            "byt5_states": (None, config.byt5_widths[0]),
            "byt5_mask": (None,),
            "vision_states": (None, config.vision_width),
        }
    return shapes


def _read(path: Path, required: Mapping[str, object], model: str) -> dict[str, Any]:
    try:
        raw = read_json(path)
    except (OSError, ValueError) as why:
        raise UserError(
            f"{path} is not a readable config.json of {model} ({reason(why)}): fetch it again"
        ) from why
    if not isinstance(raw, dict):
        raise UserError(f"{path} holds no object: expected the config.json of {model}")
    wrong = [f"{k} is {raw[k]!r} instead of {v!r}" for k, v in required.items() if raw.get(k, v) != v]
    if raw.get("out_channels") != raw.get("in_channels"):
        wrong.append("out_channels differ from in_channels")
    if wrong:
        raise UserError(
            f"{path} describes another network than {model} ({'; '.join(wrong)}): give the file of this model"
        )
    return raw


def _unusable(path: Path, why: KeyError | ValueError) -> UserError:
    if isinstance(why, KeyError):
        return UserError(f"{path} lacks {why}: expected the config.json of the network's own folder")
    return UserError(f"{path} holds sizes that do not fit ({why}): give the file of this model")
