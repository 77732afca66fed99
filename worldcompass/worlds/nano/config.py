"""Sizes of the network and of the picture autoencoder, and what they can be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from worldcompass.settings import Rule, enforce

Injection = Literal["additive", "adaln", "adaln_fuse", "film", "cross_attention"]
"""How actions enter a block, see ``transformer.Block``."""
MLP_RATIO = 4  # of every published network, which its configuration does not name


@dataclass(frozen=True)
class NanoConfig:
    """The defaults are NanoWM-B/2 for PushT: 158.6 M parameters."""

    latent_channels: int = 4
    latent_size: int = 32
    """Height and width of a latent."""
    patch: int = 2
    """Cells along each side of a token."""
    width: int = 768
    num_blocks: int = 12
    num_heads: int = 12
    num_frames: int = 4
    """Latents of a window."""
    action_size: int = 10
    """Numbers of a latent's action: settings of the controls times controls."""
    injection: Injection = "additive"

    def __post_init__(self) -> None:
        sizes = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        enforce(
            vars(self),
            [
                Rule(tuple(sizes), all(value > 0 for value in sizes.values()), "sizes must be positive"),
                Rule(("injection",), self.injection in get_args(Injection), f"expected one of {INJECTIONS}"),
                Rule(
                    ("latent_size", "patch"), self.latent_size % self.patch == 0, "patches must fill a latent"
                ),
                Rule(
                    ("width", "num_heads"),
                    self.width % (4 * self.num_heads) == 0,
                    "the width of a head must be a multiple of 4",
                ),
                Rule(("num_frames",), self.num_frames > 1, "a window must hold a past and a next latent"),
            ],
        )

    @property
    def head(self) -> int:
        """Width of a head."""
        return self.width // self.num_heads

    @property
    def grid(self) -> int:
        """Tokens along each side of a latent."""
        return self.latent_size // self.patch


INJECTIONS = ", ".join(get_args(Injection))

# Depth, width and heads by the name of an architecture, such as ``NanoWM-B/2``.
SIZES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}


@dataclass(frozen=True)
class PictureConfig:
    """Sizes of the picture autoencoder; the defaults are those of ``stabilityai/sd-vae-ft-mse``."""

    latent_channels: int = 4
    widths: tuple[int, ...] = (128, 256, 512, 512)
    """Channels at each resolution, from the picture's to the latent's; each next one halves the picture."""
    num_blocks: int = 2
    """At each resolution of the encoder; the decoder has one more."""
    groups: int = 32
    """Of the group norms."""
    scale: float = 0.18215
    """Factor of a latent before the transformer reads it."""

    @property
    def pixels_per_cell(self) -> int:
        """Pixels along each side of a latent's cell."""
        return 2 ** (len(self.widths) - 1)
