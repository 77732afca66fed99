"""The image encoder of Wan2.1's image-to-video models: the picture half of CLIP ViT-H/14.

Parameter names are those of the published ``models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth`` without the
prefix ``visual.``. Its last layer and what follows are not used, and the text half neither.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldcompass.errors import UserError

PREFIX = "visual."
HEAD = 80  # dimensions of a head of ViT-H; the file does not hold their number
EPS = 1e-5  # of every norm
MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's pictures, red, green, blue
STD = (0.26862954, 0.26130258, 0.27577711)
_UNUSED = re.compile(r"textual\.|log_scale$|visual\.(head$|post_norm\.)")


@dataclass(frozen=True)
class ImageEncoderConfig:
    """The defaults are the real encoder's: 257 tokens of 1280 dimensions from 31 of 32 layers."""

    width: int = 1280
    num_heads: int = 16
    num_layers: int = 32
    """Of the file; the last one is not run."""
    mlp_width: int = 5120
    patch: int = 14
    """Pixels along each side of a patch."""
    image_size: int = 224
    """Pixels along each side of a picture, whatever its own size."""

    @property
    def num_tokens(self) -> int:
        """One for the whole picture, then one for each patch."""
        return 1 + (self.image_size // self.patch) ** 2

    @classmethod
    def of_shapes(
        cls, shapes: Mapping[str, tuple[int, ...]], num_heads: int | None = None
    ) -> ImageEncoderConfig:
        """The sizes of an encoder with these tensors.

        Args:
            shapes: by the names of the file, prefix included.
            num_heads: when they do not have ViT-H's size.

        Raises:
            UserError: when they are those of another network.
        """
        try:
            width, _, patch, _ = shapes[f"{PREFIX}patch_embedding.weight"]
            tokens = shapes[f"{PREFIX}pos_embedding"][1]
            mlp_width = shapes[f"{PREFIX}transformer.0.mlp.0.weight"][0]
        except (KeyError, ValueError, IndexError) as why:
            raise UserError(
                f"these weights are not those of Wan2.1's image encoder ({why}): give"
                " models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
            ) from why
        layers = {m[1] for name in shapes if (m := re.match(r"visual\.transformer\.(\d+)\.", name))}
        side = patch * round((tokens - 1) ** 0.5)
        return cls(width, num_heads or width // HEAD, len(layers), mlp_width, patch, side)


class ImageEncoder(nn.Module):
    """Maps a picture to the tokens that a world reads."""

    def __init__(self, config: ImageEncoderConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ImageEncoderConfig()
        self.patch_embedding = nn.Conv2d(3, config.width, config.patch, config.patch, bias=False)
        self.cls_embedding = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embedding = nn.Parameter(torch.zeros(1, config.num_tokens, config.width))
        self.pre_norm = nn.LayerNorm(config.width, EPS)
        self.transformer = nn.ModuleList(_Layer(config) for _ in range(config.num_layers - 1))

    def forward(self, picture_B3hw: Tensor) -> Tensor:
        """Tokens (B, L, E) of pictures with values from -1 to 1."""
        patches = self.patch_embedding(self.pixels(picture_B3hw)).flatten(2).mT
        first = self.cls_embedding.expand(len(patches), -1, -1)
        x = self.pre_norm(torch.cat([first, patches], 1) + self.pos_embedding)
        for layer in self.transformer:
            x = layer(x)
        return x

    def pixels(self, picture_B3hw: Tensor) -> Tensor:
        """What enters the patches: the whole picture in CLIP's size and scale, stretched without antialiasing."""
        side = self.config.image_size
        resized = functional.interpolate(picture_B3hw, (side, side), mode="bicubic", align_corners=False)
        mean, std = (resized.new_tensor(x).view(3, 1, 1) for x in (MEAN, STD))
        return (resized / 2 + 0.5 - mean) / std

    def own(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The file's tensors that this network has, by its names; those that Wan does not use are left out."""
        last = f"{PREFIX}transformer.{self.config.num_layers - 1}."
        return {
            name.removeprefix(PREFIX): tensor
            for name, tensor in tensors.items()
            if not _UNUSED.match(name) and not name.startswith(last)
        }


class _Layer(nn.Module):
    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(config.width, EPS) for _ in range(2))
        self.attn = _Attention(config.width, config.num_heads)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, config.mlp_width), nn.GELU(), nn.Linear(config.mlp_width, config.width)
        )

    def forward(self, x_BLE: Tensor) -> Tensor:
        x_BLE = x_BLE + self.attn(self.norm1(x_BLE))
        return x_BLE + self.mlp(self.norm2(x_BLE))


class _Attention(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x_BLE: Tensor) -> Tensor:
        q, k, v = self.to_qkv(x_BLE).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
