"""Wan2.1's video autoencoder; parameter names are those of its published file, ``Wan2.1_VAE.pth``.

It works latent by latent, with a memory of its layers' last inputs that is never changed in place (``causal``).
Values beyond every edge are zero, and so are the frames before a video.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldcompass.errors import UserError
from worldcompass.worlds.open.causal import (
    FRAMES_PER_LATENT,
    ChannelNorm,
    Memory,
    Stream,
    decode_stretches,
    encode_stretches,
)
from worldcompass.worlds.open.wan_layers import (
    CONV,
    TIME,
    CausalConv,
    Downsampler,
    FrameAttention,
    Upsampler,
    denormalised,
    normalised,
)

# Mean and standard deviation of the channels of a latent over Wan's training data; the file does not hold them.
MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip
_HALVINGS = 2  # of the frames, from the picture to the latent


@dataclass(frozen=True)
class WanVaeConfig:
    """The defaults are the real autoencoder's: 0.127 B parameters."""

    width: int = 96
    """Channels at the picture's resolution."""
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    """Multiples of the width at each resolution, from the picture's to the latent's."""
    num_blocks: int = 2
    """At each resolution of the encoder; the decoder has one more."""
    halves_time: tuple[bool, ...] = (False, True, True)
    """Whether each change of resolution also halves the frames, from the picture to the latent."""

    def __post_init__(self) -> None:
        if len(self.halves_time) != len(self.multipliers) - 1:
            raise ValueError(
                f"{len(self.multipliers)} resolutions, {len(self.halves_time)} changes between them"
            )
        if sum(self.halves_time) != _HALVINGS:
            raise ValueError(
                f"a latent must stand for 4 frames, frames are halved {sum(self.halves_time)} times"
            )

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        return len(MEAN)

    @property
    def spatial(self) -> int:
        """Pixels along each side of a latent's cell."""
        return 2 ** len(self.halves_time)

    @property
    def settled(self) -> int:
        """Latents of a picture and grey frames until they repeat: those of the last one never see the picture."""
        frames, rate = CONV - 1, 1
        for halves in (*self.halves_time, False):
            frames += 2 * self.num_blocks * (CONV - 1) * rate
            frames += (TIME - 1) * rate if halves else 0
            rate *= 2 if halves else 1
        frames += (2 * 2 + 1) * (CONV - 1) * rate  # the two blocks in the middle, and the last convolution
        return -(-frames // FRAMES_PER_LATENT) + 2

    @classmethod
    def of_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> WanVaeConfig:
        """The sizes of an autoencoder with these tensors, read from its encoder.

        Raises:
            UserError: when they are those of another network.
        """
        try:
            return _of_shapes(shapes)
        except (KeyError, ValueError, IndexError) as why:
            raise UserError(
                f"these weights are not those of Wan2.1's video autoencoder ({why}): give Wan2.1_VAE.pth"
            ) from why


def _of_shapes(shapes: Mapping[str, tuple[int, ...]]) -> WanVaeConfig:
    width = shapes["encoder.conv1.weight"][0]
    found = {int(m[1]) for name in shapes if (m := re.match(r"encoder\.downsamples\.(\d+)\.", name))}
    outs: list[int] = []
    counts, halves = [0], []
    for index in range(max(found, default=-1) + 1):
        name = f"encoder.downsamples.{index}"
        if f"{name}.resample.1.weight" in shapes:
            halves.append(f"{name}.time_conv.weight" in shapes)
            counts.append(0)
            continue
        counts[-1] += 1
        out = shapes[f"{name}.residual.2.weight"][0]
        outs[len(counts) - 1 :] = [out]
    return WanVaeConfig(width, tuple(out // width for out in outs), counts[0], tuple(halves))


class WanAutoencoder(nn.Module):
    """Converts between frames and latents, whose channels have mean 0 and variance 1."""

    def __init__(self, config: WanVaeConfig | None = None) -> None:
        super().__init__()
        self.config = config or WanVaeConfig()
        channels = self.config.latent_channels
        self.encoder, self.decoder = _Encoder(self.config), _Decoder(self.config)
        self.conv1, self.conv2 = nn.Conv3d(2 * channels, 2 * channels, 1), nn.Conv3d(channels, channels, 1)

    @property
    def pixels_per_cell(self) -> int:
        """Height and width in pixels of a latent's cell."""
        return self.config.spatial

    def encode(self, video_B3Fhw: Tensor) -> Tensor:
        """Latents (B, C, K, H, W) of 4K - 3 frames with values from -1 to 1: the mean, without sampling.

        Raises:
            ValueError: for another number of frames, or a size that cells of ``pixels_per_cell`` do not fill.
        """
        size, side = tuple(video_B3Fhw.shape[-2:]), self.pixels_per_cell
        if size[0] % side or size[1] % side:
            raise ValueError(f"frames have {size[0]}x{size[1]} pixels: expected multiples of {side}")
        mean, _ = self.conv1(encode_stretches(self.encoder, video_B3Fhw)).chunk(2, 1)
        return normalised(mean, MEAN, STD)

    def encode_still(self, picture_B3hw: Tensor) -> Tensor:
        """Latents of a picture and grey frames after it, until they repeat; (B, C, K, H, W) with K ``settled``."""
        grey = torch.zeros_like(picture_B3hw)[:, :, None]
        rest = FRAMES_PER_LATENT * (self.config.settled - 1)
        return self.encode(torch.cat([picture_B3hw[:, :, None], grey.expand(-1, -1, rest, -1, -1)], 2))

    def decode(self, latents_BCKHW: Tensor, memory: Memory | None = None) -> tuple[Tensor, Memory]:
        """Frames (B, 3, F, h, w) in about -1 to 1 that continue a past, and the memory after them.

        Args:
            latents_BCKHW: normalised.
            memory: of the past, (1, ...) for all rows; None at a video's beginning.
        """
        raw = self.conv2(denormalised(latents_BCKHW, MEAN, STD))
        return decode_stretches(self.decoder, raw, memory)


class _ResidualBlock(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        # The official names count the activations and a dropout between the layers.
        self.residual = nn.ModuleList([
            ChannelNorm(channels, 3), nn.SiLU(), CausalConv(channels, out),
            ChannelNorm(out, 3), nn.SiLU(), nn.Identity(), CausalConv(out, out),
        ])  # fmt: skip
        self.shortcut = nn.Identity() if channels == out else nn.Conv3d(channels, out, 1)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        norm1, _, conv1, norm2, _, _, conv2 = self.residual
        inner = conv1(functional.silu(norm1(x)), stream)
        return self.shortcut(x) + conv2(functional.silu(norm2(inner)), stream)


def _middle(channels: int) -> nn.ModuleList:
    return nn.ModuleList([
        _ResidualBlock(channels, channels), FrameAttention(channels), _ResidualBlock(channels, channels)
    ])  # fmt: skip


def _head(channels: int, out: int) -> nn.ModuleList:
    return nn.ModuleList([ChannelNorm(channels, 3), nn.SiLU(), CausalConv(channels, out)])


class _Encoder(nn.Module):
    def __init__(self, config: WanVaeConfig) -> None:
        super().__init__()
        widths = [config.width * m for m in (1, *config.multipliers)]
        self.conv1 = CausalConv(3, widths[0])
        self.downsamples = nn.ModuleList()
        for level, out in enumerate(widths[1:]):
            before = [widths[level]] + [out] * (config.num_blocks - 1)
            self.downsamples.extend(_ResidualBlock(channels, out) for channels in before)
            if level < len(config.halves_time):
                self.downsamples.append(Downsampler(out, config.halves_time[level]))
        self.middle = _middle(widths[-1])
        self.head = _head(widths[-1], 2 * config.latent_channels)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        x = self.conv1(x, stream)
        for layer in (*self.downsamples, *self.middle):
            x = layer(x, stream)
        return self.head[2](functional.silu(self.head[0](x)), stream)


class _Decoder(nn.Module):
    def __init__(self, config: WanVaeConfig) -> None:
        super().__init__()
        widths = [config.width * m for m in config.multipliers[::-1]]
        doubles_time = config.halves_time[::-1]
        self.conv1 = CausalConv(config.latent_channels, widths[0])
        self.middle = _middle(widths[0])
        self.upsamples = nn.ModuleList()
        for level, out in enumerate(widths):
            # Upsamplers halve the channels, so that a level begins with half of those before it.
            first = widths[level - 1] // 2 if level else out
            before = [first] + [out] * config.num_blocks
            self.upsamples.extend(_ResidualBlock(channels, out) for channels in before)
            if level < len(doubles_time):
                self.upsamples.append(Upsampler(out, out // 2, doubles_time[level]))
        self.head = _head(widths[-1], 3)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        x = self.conv1(x, stream)
        for layer in (*self.middle, *self.upsamples):
            x = layer(x, stream)
        return self.head[2](functional.silu(self.head[0](x)), stream)
