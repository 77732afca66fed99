"""The video autoencoder of Wan2.2-TI2V-5B, which the 5B model uses; parameter names are those of its files.

The files have the ``diffusers`` form, as those of the 5B transformer. Like the 8B model's autoencoder (``vae_8b``)
it works latent by latent, with a memory of its layers' last inputs. Values beyond every edge are zero.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from worldcompass.worlds.open.causal import (
    ChannelNorm,
    Memory,
    Stream,
    average_channels,
    decode_stretches,
    encode_stretches,
    fold,
    repeat_channels,
    unfold,
)
from worldcompass.worlds.open.wan_layers import (
    CausalConv,
    Downsampler,
    FrameAttention,
    Upsampler,
    denormalised,
    normalised,
)
from worldcompass.worlds.worldplay.config import VaeConfig5B


class Autoencoder5B(nn.Module):
    """Converts between frames and the 5B transformer's latents, whose channels have mean 0 and variance 1."""

    def __init__(self, config: VaeConfig5B | None = None) -> None:
        super().__init__()
        self.config = config or VaeConfig5B()
        channels = self.config.latent_channels
        self.encoder, self.decoder = _Encoder(self.config), _Decoder(self.config)
        self.quant_conv = nn.Conv3d(2 * channels, 2 * channels, 1)
        self.post_quant_conv = nn.Conv3d(channels, channels, 1)

    @property
    def pixels_per_cell(self) -> int:
        """Height and width in pixels of a latent's cell."""
        return self.config.spatial

    def encode(self, video_B3Fhw: Tensor) -> Tensor:
        """Latents (B, C, K, H, W) of 4K - 3 frames with values from -1 to 1.

        Raises:
            ValueError: for another number of frames.
        """
        mean, _ = self.posterior(video_B3Fhw).chunk(2, 1)
        return normalised(mean, self.config.mean, self.config.std)

    def posterior(self, video_B3Fhw: Tensor) -> Tensor:
        """The encoder's mean and logarithm of the variance, (B, 2C, K, H, W), not normalised."""
        patches = fold(video_B3Fhw, 1, self.config.patch).transpose(3, 4).flatten(1, 4)
        return self.quant_conv(encode_stretches(self.encoder, patches))

    def decode(self, latents_BCKHW: Tensor, memory: Memory | None = None) -> tuple[Tensor, Memory]:
        """Frames (B, 3, F, h, w) in about -1 to 1 that continue a past, and the memory after them.

        Args:
            latents_BCKHW: normalised.
            memory: of the past, (1, ...) for all rows; None at a video's beginning.
        """
        raw = self.post_quant_conv(denormalised(latents_BCKHW, self.config.mean, self.config.std))
        patches, memory = decode_stretches(self.decoder, raw, memory)
        side = self.config.patch
        return unfold(patches.unflatten(1, (3, 1, side, side)).transpose(3, 4)), memory


class _ResidualBlock(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = ChannelNorm(channels, 3), CausalConv(channels, out)
        self.norm2, self.conv2 = ChannelNorm(out, 3), CausalConv(out, out)
        self.conv_shortcut = nn.Identity() if channels == out else nn.Conv3d(channels, out, 1)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        inner = self.conv1(functional.silu(self.norm1(x)), stream)
        return self.conv_shortcut(x) + self.conv2(functional.silu(self.norm2(inner)), stream)


class _Middle(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(_ResidualBlock(channels, channels) for _ in range(2))
        self.attentions = nn.ModuleList([FrameAttention(channels)])

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x, stream), stream), stream)


class _DownBlock(nn.Module):
    """Blocks and a change of resolution, with a shortcut of averages of the input."""

    def __init__(self, channels: int, out: int, num_blocks: int, time: int, space: int) -> None:
        super().__init__()
        self.out, self.time, self.space = out, time, space
        self.resnets = nn.ModuleList(
            _ResidualBlock(channels if i == 0 else out, out) for i in range(num_blocks)
        )
        self.downsampler = Downsampler(out, time > 1) if space > 1 else None

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        # A video's first frame is averaged with a black frame before it.
        whole = functional.pad(x, (0, 0, 0, 0, x.shape[2] % self.time, 0))
        shortcut = average_channels(fold(whole, self.time, self.space).flatten(1, 4), self.out)
        for block in self.resnets:
            x = block(x, stream)
        return shortcut + (x if self.downsampler is None else self.downsampler(x, stream))


class _UpBlock(nn.Module):
    """Blocks and a change of resolution, with a shortcut of copies of the input."""

    def __init__(self, channels: int, out: int, num_blocks: int, time: int, space: int) -> None:
        super().__init__()
        self.out, self.time, self.space = out, time, space
        self.resnets = nn.ModuleList(
            _ResidualBlock(channels if i == 0 else out, out) for i in range(num_blocks)
        )
        self.upsampler = Upsampler(out, out, time > 1) if space > 1 else None

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        before = x
        for block in self.resnets:
            x = block(x, stream)
        if self.upsampler is None:
            return x
        factors = (self.out, self.time, self.space, self.space)
        copies = repeat_channels(before, self.out * self.time * self.space**2).unflatten(1, factors)
        frames = unfold(copies)
        return self.upsampler(x, stream) + (frames[:, :, self.time - 1 :] if stream.begins else frames)


class _Encoder(nn.Module):
    def __init__(self, config: VaeConfig5B) -> None:
        super().__init__()
        widths = [config.width * m for m in (1, *config.multipliers)]
        factors = [(2 if halves else 1, 2) for halves in config.halves_time] + [(1, 1)]
        self.conv_in = CausalConv(3 * config.patch**2, widths[0])
        self.down_blocks = nn.ModuleList(
            _DownBlock(width, after, config.num_blocks, *factor)
            for width, after, factor in zip(widths, widths[1:], factors, strict=False)
        )
        self.mid_block = _Middle(widths[-1])
        self.norm_out, self.conv_out = (
            ChannelNorm(widths[-1], 3),
            CausalConv(widths[-1], 2 * config.latent_channels),
        )

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        x = self.conv_in(x, stream)
        for block in self.down_blocks:
            x = block(x, stream)
        return self.conv_out(functional.silu(self.norm_out(self.mid_block(x, stream))), stream)


class _Decoder(nn.Module):
    def __init__(self, config: VaeConfig5B) -> None:
        super().__init__()
        widths = [config.decoder_width * m for m in (config.multipliers[-1], *config.multipliers[::-1])]
        factors = [(2 if halves else 1, 2) for halves in config.halves_time[::-1]] + [(1, 1)]
        self.conv_in = CausalConv(config.latent_channels, widths[0])
        self.mid_block = _Middle(widths[0])
        self.up_blocks = nn.ModuleList(
            _UpBlock(width, after, config.num_blocks + 1, *factor)
            for width, after, factor in zip(widths, widths[1:], factors, strict=False)
        )
        self.norm_out, self.conv_out = ChannelNorm(widths[-1], 3), CausalConv(widths[-1], 3 * config.patch**2)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        x = self.mid_block(self.conv_in(x, stream), stream)
        for block in self.up_blocks:
            x = block(x, stream)
        return self.conv_out(functional.silu(self.norm_out(x)), stream)
