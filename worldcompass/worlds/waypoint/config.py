"""Sizes of Waypoint's network and of its autoencoder, and readers of their YAML files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldcompass.errors import UserError
from worldcompass.worlds.open.yaml_files import read_yaml

TIED = {"wan": True, "dit_air": False}
"""Kinds of ``noise_conditioning`` with one set of matrices for all layers, and whether layers add a bias."""
# Values of a configuration file that this code requires; another value means another architecture.
_REQUIRED = {"causal": True, "has_audio": False, "rope_impl": "ortho"}
_PROMPT = "cross_attention"


@dataclass(frozen=True)
class WaypointConfig:
    """The defaults are those of Waypoint-1-Small: 2.303 B parameters."""

    width: int = 2560
    num_layers: int = 22
    mlp_ratio: int = 5
    num_heads: int = 40
    num_kv_heads: int = 20
    """Heads of keys and values; each serves as many consecutive heads of queries."""
    channels: int = 16
    grid: tuple[int, int] = (16, 16)
    """Tokens of a frame, (height, width)."""
    patch: tuple[int, int] = (2, 2)
    """Cells of a latent in one token, (height, width)."""
    local_window: int = 16
    """Frames that a local layer sees, the current one included."""
    global_window: int = 128
    """Frames over which a global layer sees every ``dilation``-th."""
    global_period: int = 4
    global_offset: int = 0
    """Layer i is global when ``(i - offset) % period`` is 0."""
    dilation: int = 8
    gated: bool = True
    """Whether each head's output is gated."""
    value_residual: bool = False
    """Whether values are mixed with those of layer 0."""
    noise_conditioning: str = "wan"
    """See ``TIED``; of any other kind every layer has matrices of its own."""
    control_period: int = 3
    """Layers whose index it divides read the controls."""
    num_buttons: int = 256
    prompt_width: int | None = 2048
    """Of the caption's states; None without a text branch."""
    prompt_period: int = 3
    """Layers whose index it divides read the caption."""
    prompt_length: int = 512
    """Rows of the caption's states, padding included, which the network also attends to."""
    sigmas: tuple[float, ...] = (1.0, 0.8609585762, 0.7293324471, 0.3205108941, 0.0)
    """Noise levels that the weights were distilled for. They differ between releases: the file says them."""
    fps: float = 60.0

    def __post_init__(self) -> None:
        if wrong := self._wrong():
            raise ValueError(wrong)

    def _wrong(self) -> str:
        heads, kv = self.num_heads, self.num_kv_heads
        if self.width % heads or heads % kv:
            return f"d_model {self.width}, {heads} heads and {kv} heads of keys do not divide one after the other"
        if self.head % 16 or self.head < 32:
            return f"a head has {self.head} dimensions: its rotation needs a multiple of 16, 32 or more"
        if self.prompt_width is not None and self.prompt_width % self.head:
            return (
                f"prompt_embedding_dim {self.prompt_width} is no multiple of a head's {self.head} dimensions"
            )
        if self.global_window % self.dilation:
            return f"global_window {self.global_window} is no multiple of its dilation {self.dilation}"
        if min(self.local_window, self.global_window, self.dilation) < 1:
            return "windows and their dilation must be at least 1"
        return ""

    @property
    def head(self) -> int:
        """Dimensions of a head."""
        return self.width // self.num_heads

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a latent."""
        (rows, columns), (high, wide) = self.grid, self.patch
        return self.channels, rows * high, columns * wide

    @property
    def num_controls(self) -> int:
        """A: two of the mouse, the buttons, and the wheel."""
        return self.num_buttons + 3

    @property
    def ties(self) -> bool:
        """Whether all layers share the matrices of the noise level."""
        return self.noise_conditioning in TIED

    @property
    def biases(self) -> bool:
        """Whether every layer adds a bias to the noise level's embedding."""
        return TIED.get(self.noise_conditioning, False)

    def is_global(self, layer: int) -> bool:
        """Whether a layer sees far back at intervals instead of the last frames."""
        return (layer - self.global_offset) % self.global_period == 0

    def reads_controls(self, layer: int) -> bool:
        """Whether a layer reads the controls."""
        return layer % self.control_period == 0

    def reads_prompt(self, layer: int) -> bool:
        """Whether a layer reads the caption."""
        return self.prompt_width is not None and layer % self.prompt_period == 0

    @classmethod
    def from_yaml(cls, path: Path) -> WaypointConfig:
        """Read an official ``config.yaml``.

        Raises:
            UserError: when the file cannot be read, describes another architecture or lacks a size.
        """
        return _built(cls.from_keys, path, read_yaml(path, "configuration of Waypoint"))

    @classmethod
    def from_keys(cls, raw: Mapping[str, Any]) -> WaypointConfig:
        """The configuration in its official keys; those that do not concern inference are ignored.

        Raises:
            KeyError: when a size is missing.
            ValueError: when it describes another architecture, or sizes do not fit.
        """
        if wrong := [
            f"{k} is {raw[k]!r} instead of {v!r}" for k, v in _REQUIRED.items() if raw.get(k, v) != v
        ]:
            raise ValueError("; ".join(wrong))
        grid = (raw["height"], raw["width"])
        if raw.get("tokens_per_frame", grid[0] * grid[1]) != grid[0] * grid[1]:
            raise ValueError(f"tokens_per_frame is {raw['tokens_per_frame']}, height times width {grid}")
        prompt = raw.get("prompt_conditioning")
        if prompt not in (None, _PROMPT):
            raise ValueError(f"prompt_conditioning is {prompt!r} instead of {_PROMPT!r} or null")
        return cls(
            width=raw["d_model"],
            num_layers=raw["n_layers"],
            mlp_ratio=raw["mlp_ratio"],
            num_heads=raw["n_heads"],
            num_kv_heads=raw.get("n_kv_heads") or raw["n_heads"],
            channels=raw["channels"],
            grid=grid,
            patch=tuple(raw["patch"]),
            local_window=raw["local_window"],
            global_window=raw["global_window"],
            global_period=raw["global_attn_period"],
            global_offset=raw.get("global_attn_offset", 0),
            dilation=raw["global_pinned_dilation"],
            gated=raw.get("gated_attn", False),
            value_residual=raw.get("value_residual", False),
            noise_conditioning=raw["noise_conditioning"],
            control_period=raw["ctrl_conditioning_period"],
            num_buttons=raw["n_buttons"],
            prompt_width=None if prompt is None else raw["prompt_embedding_dim"],
            prompt_period=1 if prompt is None else raw["prompt_conditioning_period"],
            sigmas=tuple(raw["scheduler_sigmas"]),
            fps=float(raw.get("base_fps", 60)),
        )


@dataclass(frozen=True)
class CoderConfig:
    """One half of the autoencoder; the defaults are the released encoder's, ``DECODER`` is the other half."""

    channels: int = 3
    """Of a picture; 4 if zeros follow the colours."""
    latent_channels: int = 16
    width: int = 64
    """At the picture's resolution; it doubles at every stage up to ``max_width``."""
    max_width: int = 256
    blocks: tuple[int, ...] = (1, 1, 1, 1)
    """Residual blocks of each stage; every stage halves or doubles the picture."""

    def __post_init__(self) -> None:
        if self.widths[-1] % self.latent_channels:
            raise ValueError(
                f"the widest stage has {self.widths[-1]} channels, no multiple of the latent's"
                f" {self.latent_channels}"
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each resolution, from the picture's to the latent's."""
        return tuple(min(self.width * 2**level, self.max_width) for level in range(len(self.blocks) + 1))

    @classmethod
    def from_yaml(cls, path: Path, encoder: bool) -> CoderConfig:
        """Read an official ``encoder_conf.yml`` or ``decoder_conf.yml``.

        Raises:
            UserError: when the file cannot be read or lacks a size.
        """
        raw = read_yaml(path, "configuration of Waypoint")
        return _built(lambda keys: cls.from_keys(keys, encoder), path, raw.get("model", raw))

    @classmethod
    def from_keys(cls, raw: Mapping[str, Any], encoder: bool) -> CoderConfig:
        """The configuration in its official keys.

        Raises:
            KeyError: when a size is missing.
            ValueError: when sizes do not fit.
        """
        return cls(
            channels=raw["channels"],
            latent_channels=raw["latent_channels"],
            width=raw["ch_0"],
            max_width=raw["ch_max"],
            blocks=tuple(raw["encoder_blocks_per_stage" if encoder else "decoder_blocks_per_stage"]),
        )


ENCODER = CoderConfig()
DECODER = CoderConfig(width=128, max_width=1024)


def _built(make: Callable[[Mapping[str, Any]], Any], path: Path, raw: Any) -> Any:
    try:
        return make(raw)
    except KeyError as why:
        raise UserError(f"{path} lacks {why}: expected a configuration of Waypoint-1 or 1.1") from why
    except (TypeError, ValueError, AttributeError) as why:
        raise UserError(
            f"{path} describes another network than Waypoint-1 ({why}): give this model's file"
        ) from why
