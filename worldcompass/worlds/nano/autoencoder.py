"""The picture autoencoder of Stable Diffusion (arXiv 2112.10752), which Nano World Models decode with.

Parameter names are those of ``diffusers``' AutoencoderKL. Each picture is encoded and decoded by itself.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldcompass.devices.autocast import without_autocast
from worldcompass.worlds.nano.config import PictureConfig

EPS = 1e-6  # of all norms
AT_ONCE = 8  # pictures in one pass, which bounds memory


class PictureAutoencoder(nn.Module):
    """Converts between pictures with values from -1 to 1 and latents."""

    def __init__(self, config: PictureConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or PictureConfig()
        self.encoder, self.decoder = _Encoder(config), _Decoder(config)
        self.quant_conv = nn.Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)

    def posterior(self, pictures_B3hw: Tensor) -> Tensor:
        """The encoder's mean and logarithm of the variance, (B, 2C, H, W), not scaled."""
        return self.quant_conv(self.encoder(pictures_B3hw))

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """Pictures (B, 3, h, w) with values in about -1 to 1."""
        return self.decoder(self.post_quant_conv(latents_BCHW / self.config.scale))


class PictureDecoder:
    """Implements ``Pictures``. The weights stay in float32, even when the transformer runs under autocast."""

    def __init__(self, net: PictureAutoencoder) -> None:
        self.net = net.requires_grad_(False).eval()

    @property
    def pixels_per_cell(self) -> int:
        """Height and width in pixels of a latent's cell."""
        return self.net.config.pixels_per_cell

    @torch.no_grad()
    def encode(self, frames_B3hw: Tensor) -> Tensor:
        """Latents (B, C, H, W) of uint8 pictures: the mean, where the official code draws from the posterior."""
        means = []
        with without_autocast(frames_B3hw):
            for part in frames_B3hw.split(AT_ONCE):
                means.append(self.net.posterior(part.float() / 127.5 - 1).chunk(2, 1)[0])
        return torch.cat(means) * self.net.config.scale

    @torch.no_grad()
    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """Pictures (B, 3, h, w), uint8; values are cut off, not rounded, as in the official videos."""
        with without_autocast(latents_BCHW):
            parts = [self.net.decode(part) for part in latents_BCHW.float().split(AT_ONCE)]
        return (((torch.cat(parts) + 1) / 2).clamp(0, 1) * 255).to(torch.uint8)


class _Residual(nn.Module):
    def __init__(self, channels: int, out: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(groups, channels, EPS), nn.GroupNorm(groups, out, EPS)
        self.conv1, self.conv2 = _conv(channels, out), _conv(out, out)
        self.conv_shortcut = nn.Conv2d(channels, out, 1) if channels != out else None

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv1(functional.silu(self.norm1(x)))
        inner = self.conv2(functional.silu(self.norm2(inner)))
        return inner + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class _Attention(nn.Module):
    """Attention of one head among the cells of a picture."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, EPS)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in "qkv")
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        cells = self.group_norm(x).flatten(2).mT
        q, k, v = self.to_q(cells), self.to_k(cells), self.to_v(cells)
        out = self.to_out[0](functional.scaled_dot_product_attention(q, k, v))
        return x + out.mT.unflatten(2, x.shape[2:])


class _Middle(nn.Module):
    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(_Residual(channels, channels, groups) for _ in range(2))
        self.attentions = nn.ModuleList([_Attention(channels, groups)])

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class _Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(functional.pad(x, (0, 1, 0, 1)))


class _Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(functional.interpolate(x, scale_factor=2.0))


class _Level(nn.Module):
    """Blocks at one resolution, followed by a change of resolution in a list named ``name``."""

    def __init__(
        self, channels: int, out: int, count: int, groups: int, name: str, change: nn.Module | None
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(_Residual(out if i else channels, out, groups) for i in range(count))
        self.change_name = name if change is not None else ""
        if change is not None:
            self.add_module(name, nn.ModuleList([change]))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resnets:
            x = block(x)
        return getattr(self, self.change_name)[0](x) if self.change_name else x


class _Encoder(nn.Module):
    def __init__(self, config: PictureConfig) -> None:
        super().__init__()
        widths, groups = config.widths, config.groups
        self.conv_in = _conv(3, widths[0])
        self.down_blocks = nn.ModuleList(
            _Level(
                before, width, config.num_blocks, groups, "downsamplers",
                _Downsample(width) if index + 1 < len(widths) else None,
            )
            for index, (before, width) in enumerate(zip((widths[0], *widths), widths, strict=False))
        )  # fmt: skip
        self.mid_block = _Middle(widths[-1], groups)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], EPS)
        self.conv_out = _conv(widths[-1], 2 * config.latent_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down_blocks:
            x = level(x)
        return self.conv_out(functional.silu(self.conv_norm_out(self.mid_block(x))))


class _Decoder(nn.Module):
    def __init__(self, config: PictureConfig) -> None:
        super().__init__()
        widths, groups = config.widths[::-1], config.groups
        self.conv_in = _conv(config.latent_channels, widths[0])
        self.mid_block = _Middle(widths[0], groups)
        self.up_blocks = nn.ModuleList(
            _Level(
                before, width, config.num_blocks + 1, groups, "upsamplers",
                _Upsample(width) if index + 1 < len(widths) else None,
            )
            for index, (before, width) in enumerate(zip((widths[0], *widths), widths, strict=False))
        )  # fmt: skip
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], EPS)
        self.conv_out = _conv(widths[-1], 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(x))
        for level in self.up_blocks:
            x = level(x)
        return self.conv_out(functional.silu(self.conv_norm_out(x)))


def _conv(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, padding=1)
