"""Waypoint's autoencoder: every frame by itself, without memory, scale or sampling.

Parameter names are the official ones. In the files convolutions are normalised by weight (arXiv 1602.07868); here
that is done once, when they are loaded.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldcompass.devices.autocast import without_autocast
from worldcompass.worlds.waypoint.config import DECODER, ENCODER, CoderConfig

GROUP = 16  # channels of a group of the middle convolutions
SLOPE = 0.01  # of LeakyReLU
ENCODED_SIZE = (512, 512)  # of every picture before it is encoded, whatever its aspect
FRAME_SIZE = (360, 640)  # of every decoded picture


class _Conv(nn.Module):
    """A convolution under the name ``proj``."""

    def __init__(self, before: int, after: int, size: int, bias: bool = True) -> None:
        super().__init__()
        self.proj = nn.Conv2d(before, after, size, padding=size // 2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        inner = 2 * width
        self.conv1 = nn.Conv2d(width, inner, 1)
        self.conv2 = nn.Conv2d(inner, inner, 3, padding=1, groups=max(1, inner // GROUP))
        self.conv3 = nn.Conv2d(inner, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.leaky_relu(self.conv1(x), SLOPE)
        return x + self.conv3(functional.leaky_relu(self.conv2(y), SLOPE))


def _residuals(width: int, count: int) -> nn.ModuleList:
    return nn.ModuleList(_Residual(width) for _ in range(count))


class _Down(nn.Module):
    """Residual blocks, then half the size."""

    def __init__(self, before: int, after: int, count: int) -> None:
        super().__init__()
        self.blocks, self.down = _residuals(before, count), _Conv(before, after, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.down(_resized(x, (x.shape[-2] // 2, x.shape[-1] // 2)))


class _Up(nn.Module):
    """Twice the size, then residual blocks."""

    def __init__(self, before: int, after: int, count: int) -> None:
        super().__init__()
        self.up = _Conv(before, after, 1, bias=False) if before != after else nn.Identity()
        self.blocks = _residuals(after, count)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        x = _resized(x, (2 * x.shape[-2], 2 * x.shape[-1]))
        for block in self.blocks:
            x = block(x)
        return x


class Encoder(nn.Module):
    """Pictures to latents."""

    def __init__(self, config: CoderConfig = ENCODER) -> None:
        super().__init__()
        self.config = config
        widths, steps = config.widths, range(len(config.blocks))
        self.conv_in = _Conv(config.channels, widths[0], 3)
        self.blocks = nn.ModuleList(_Down(widths[i], widths[i + 1], config.blocks[i]) for i in steps)
        self.residuals = nn.ModuleList(_Conv(widths[i], widths[i + 1] // 4, 3) for i in steps)
        self.conv_out = _Conv(widths[-1], config.latent_channels, 3)

    def forward(self, pictures_NChw: Tensor) -> Tensor:
        """Latents (N, C, H, W) of pictures from -1 to 1 with as many channels as the configuration says."""
        x = self.conv_in(_resized(pictures_NChw, ENCODED_SIZE))
        for block, residual in zip(self.blocks, self.residuals, strict=True):
            x = block(x) + functional.pixel_unshuffle(residual(x), 2)
        groups = x.shape[1] // self.config.latent_channels
        return self.conv_out(x) + groups**0.5 * x.unflatten(1, (groups, -1)).mean(1)


class Decoder(nn.Module):
    """Latents to pictures."""

    def __init__(self, config: CoderConfig = DECODER) -> None:
        super().__init__()
        self.config = config
        widths, steps = config.widths[::-1], range(len(config.blocks))
        self.conv_in = _Conv(config.latent_channels, widths[0], 3)
        self.blocks = nn.ModuleList(_Up(widths[i], widths[i + 1], config.blocks[i]) for i in steps)
        self.residuals = nn.ModuleList(_Conv(widths[i], 4 * widths[i + 1], 3) for i in steps)
        self.conv_out = _Conv(widths[-1], config.channels, 3)

    def forward(self, latents_NCHW: Tensor) -> Tensor:
        """Pictures (N, channels, 360, 640), about from -1 to 1."""
        return _resized(self.before_resize(latents_NCHW), FRAME_SIZE)

    def before_resize(self, latents_NCHW: Tensor) -> Tensor:
        """The same in the size that the latents' cells make."""
        repeats = self.config.widths[-1] // self.config.latent_channels
        x = self.conv_in(latents_NCHW) + latents_NCHW.repeat_interleave(repeats, 1) / repeats**0.5
        for block, residual in zip(self.blocks, self.residuals, strict=True):
            x = block(x) + functional.pixel_shuffle(residual(x), 2)
        return self.conv_out(functional.silu(x))


class Autoencoder(nn.Module):
    """Both halves."""

    def __init__(self, encoder: CoderConfig = ENCODER, decoder: CoderConfig = DECODER) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(encoder), Decoder(decoder)


class FrameCoder:
    """Implements ``Coder``: codes frames one by one, as a single one fills a device.

    The dtype of the weights is also that of the arithmetic, even under autocast.
    """

    frame_size = FRAME_SIZE

    def __init__(self, net: Autoencoder) -> None:
        self.net = net.requires_grad_(False).eval()

    @torch.no_grad()
    def encode(self, frames_N3hw: Tensor) -> Tensor:
        """Float32 latents (N, C, H, W) of uint8 frames of any size."""
        first, channels = next(self.net.parameters()), self.net.encoder.config.channels
        latents = []
        for frame in frames_N3hw.split(1):
            picture = frame.to(first) / 127.5 - 1
            extra = picture.new_zeros(1, max(0, channels - 3), *picture.shape[2:])
            with without_autocast(picture):
                latents.append(self.net.encoder(torch.cat([picture, extra], 1)[:, :channels]).float())
        return torch.cat(latents)

    @torch.no_grad()
    def decode(self, latents_NCHW: Tensor) -> Tensor:
        """Frames, uint8 (N, 3, 360, 640)."""
        first, frames = next(self.net.parameters()), []
        for latent in latents_NCHW.split(1):
            with without_autocast(latent):
                picture = self.net.decoder(latent.to(first))[:, :3].float()
            frames.append(((picture / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8))
        return torch.cat(frames)


def _resized(x_NChw: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic, without antialiasing."""
    return functional.interpolate(x_NChw, size, mode="bicubic", align_corners=False)
