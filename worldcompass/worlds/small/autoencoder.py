"""Small causal autoencoders: n frames <-> one latent.

A latent holds the last frame of its n, so all of its numbers go into one sharp picture; the frames before it are
found between the pictures of two neighbouring latents. The decoder's whole memory of the past is therefore one
latent, and a chunk decoded after its past equals the same chunk of the whole video. The start image is a latent
like any other.

``Autoencoder`` has networks; ``LinearAutoencoder`` (linear.py) has none. A world that knows more about its pictures
than a cross-fade overrides ``look`` and ``between``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Look:
    """What latents say about the moment of their own frame; any leading dimensions. A world adds fields."""

    picture: Tensor
    """(..., 3, h, w), about [0, 1]"""

    def repeat(self, times: int) -> Self:
        """Each row ``times`` times, side by side."""
        return self.each(lambda x: x.repeat_interleave(times, 0))

    def select(self, rows: slice) -> Self:
        """Some of the rows."""
        return self.each(lambda x: x[rows])

    def unflatten(self, shape: Sequence[int]) -> Self:
        """The first dimension as two."""
        return self.each(lambda x: x.unflatten(0, shape))

    def behind(self, earlier: Self) -> Self:
        """These looks (B, K, ...) behind one earlier look (B, ...) of each row; (B, 1 + K, ...)."""
        both = {f.name: (getattr(earlier, f.name)[:, None], getattr(self, f.name)) for f in fields(self)}
        return replace(self, **{name: torch.cat(parts, 1) for name, parts in both.items()})

    def each(self, change: Callable[[Tensor], Tensor]) -> Self:
        """A copy with every tensor changed."""
        changed: dict[str, Tensor] = {f.name: change(getattr(self, f.name)) for f in fields(self)}
        return replace(self, **changed)


@dataclass(frozen=True)
class CodeConfig:
    """Sizes of an autoencoder."""

    frame_size: tuple[int, int]
    """(height, width) in pixels, multiples of ``cell``."""
    frames_per_latent: int
    channels: int = 24
    """Of a latent."""
    cell: int = 8
    """Pixels per side of a latent's cell; even."""
    fine: int = 96
    """Channels of the networks on the fine grid, whose cells are half as wide."""
    coarse: int = 192
    """Channels of the networks at the latent's resolution."""
    extra: tuple[int, ...] = ()
    """Of ``channels``, those of each plane that a ``LinearCode`` holds beside colour's three, such as depth."""

    def __post_init__(self) -> None:
        if sum(self.extra) >= self.channels:
            raise ValueError(
                f"of {self.channels} channels {sum(self.extra)} are extra: none are left for colour"
            )
        if self.cell % 2 or any(size % self.cell for size in self.frame_size):
            raise ValueError(
                f"frames of {self.frame_size} do not divide into even cells of {self.cell} pixels"
            )

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        height, width = self.frame_size
        return self.channels, height // self.cell, width // self.cell

    @property
    def planes(self) -> int:
        """Planes of what a latent holds: colour's three, and the extra ones."""
        return 3 + len(self.extra)

    @property
    def fine_cell(self) -> int:
        """Pixels per side of a cell of the fine grid."""
        return self.cell // 2


class Residual(nn.Module):
    """x + conv(silu(conv(silu(x)))), the last convolution born zero; no normalisation, which is slow on CPUs."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, channels, y, x) to the same shape."""
        return x + self.second(functional.silu(self.first(functional.silu(x))))


def principal_components(frames_B3hw: Tensor, cell: int, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """The mean (d,) of cells of d numbers, their first orthonormal axes (C, d), and deviations along them (C,)."""
    cells = functional.pixel_unshuffle(frames_B3hw, cell).movedim(1, -1).flatten(0, -2)
    mean = cells.mean(0)
    _, sizes, axes = torch.linalg.svd(cells - mean, full_matrices=False)
    return mean, axes[:channels], sizes[:channels] / len(cells) ** 0.5


class Codec(nn.Module):
    """Frames in [0, 1] <-> latents; how pictures become latents and back is a subclass's own."""

    config: CodeConfig

    @property
    def device(self) -> torch.device:
        """Of its tensors."""
        return next(chain(self.parameters(), self.buffers())).device

    @property
    def channel_weights(self) -> Tensor:
        """How much squared errors of each latent channel (C,) count when a world is taught, 1 on average: alike."""
        return torch.ones(self.config.channels, device=self.device)

    def start_linear(self, frames_B3hw: Tensor) -> None:
        """Begin as the principal components of cells of pixels, the best linear code."""
        raise NotImplementedError

    def encode(self, frames_B3hw: Tensor) -> Tensor:
        """Latents (B, C, H, W) of frames in [0, 1], each the last of its n."""
        raise NotImplementedError

    def encode_planes(self, planes_Bphw: Tensor) -> Tensor:
        """Latents (B, C, H, W) of all that they hold, see ``CodeConfig.extra``; without extra planes of frames."""
        return self.encode(planes_Bphw)

    def pictures(self, latents_BCHW: Tensor) -> Tensor:
        """The latents' own frames (B, 3, h, w), about [0, 1]."""
        raise NotImplementedError

    def encode_video(self, frames_BF3hw: Tensor) -> Tensor:
        """Latents (B, C, M, H, W) of a video of n (M - 1) + 1 frames that begins with its start image."""
        ends = self.ends(frames_BF3hw)
        return self.encode(ends.flatten(0, 1)).unflatten(0, ends.shape[:2]).transpose(1, 2)

    def ends(self, frames_BF3hw: Tensor) -> Tensor:
        """The frames (B, M, 3, h, w) of a video that latents are codes of: the last of each latent."""
        return frames_BF3hw[:, :: self.config.frames_per_latent]

    def look(self, latents_BCHW: Tensor) -> Look:
        """What each latent says about the moment of its own frame."""
        return Look(self.pictures(latents_BCHW))

    def between(self, looks: Look) -> Tensor:
        """The frames (B, K - 1, n - 1, 3, h, w) between K looks in a row: here a cross-fade."""
        count = self.config.frames_per_latent
        share = (torch.arange(1, count, device=looks.picture.device) / count).view(-1, 1, 1, 1)
        before, after = looks.picture[:, :-1, None], looks.picture[:, 1:, None]
        return torch.lerp(before, after, share)

    def decode_chunk(self, latents_BCKHW: Tensor, previous: Look | None) -> Tensor:
        """Frames (B, F, 3, h, w) of a chunk after ``previous``, the look of the last latent of its past.

        ``previous`` None means that the chunk begins with the start image, which yields one frame.
        """
        latents = latents_BCKHW.transpose(1, 2)
        return self.frames_of(self.look(latents.flatten(0, 1)).unflatten(latents.shape[:2]), previous)

    def frames_of(self, looks: Look, previous: Look | None) -> Tensor:
        """``decode_chunk`` of what is known already: the looks (B, K, ...) of its latents."""
        if previous is not None:
            looks = looks.behind(previous)
        frames = looks.picture[:, :1]
        if looks.picture.shape[1] > 1:
            moving = torch.cat([self.between(looks), looks.picture[:, 1:, None]], 2).flatten(1, 2)
            frames = torch.cat([frames, moving], 1)
        return frames if previous is None else frames[:, 1:]


class Autoencoder(Codec):
    """By networks; latents have unit variance per channel."""

    def __init__(self, config: CodeConfig) -> None:
        super().__init__()
        self.config = config
        channels, coarse, fine = config.channels, config.coarse, config.fine
        pixels, patch = 3 * config.cell**2, 3 * config.fine_cell**2
        # A linear code and what networks add to it: ``start_linear`` makes it the principal components'.
        self.linear_encoder = nn.Conv2d(pixels, channels, 1)
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(config.fine_cell),
            nn.Conv2d(patch, fine, 3, padding=1),
            Residual(fine),
            nn.Conv2d(fine, coarse, 2, stride=2),
            Residual(coarse),
            nn.SiLU(),
            nn.Conv2d(coarse, channels, 1),
        )
        # Keeps latents at zero mean and unit variance by construction; at inference it is a fixed affine map.
        self.normalise = nn.BatchNorm2d(channels, affine=False, momentum=0.01)
        self.linear_decoder = nn.Conv2d(channels, pixels, 1)
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, coarse, 3, padding=1),
            Residual(coarse),
            Residual(coarse),
            nn.Conv2d(coarse, 4 * fine, 1),
            nn.PixelShuffle(2),
            Residual(fine),
            Residual(fine),
            nn.SiLU(),
        )
        self.to_pixels = nn.Conv2d(fine, patch, 3, padding=1)
        for layer in (self.encoder[-1], self.to_pixels):
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    @torch.no_grad()
    def start_linear(self, frames_B3hw: Tensor) -> None:
        """See ``Codec``."""
        mean, axes, std = principal_components(frames_B3hw - 0.5, self.config.cell, self.config.channels)
        std = std[:, None]
        self.linear_encoder.weight.copy_((axes / std)[..., None, None])
        self.linear_encoder.bias.copy_(-(axes / std) @ mean)  # type: ignore[union-attr]
        self.linear_decoder.weight.copy_((axes * std).T[..., None, None])
        self.linear_decoder.bias.copy_(mean)  # type: ignore[union-attr]

    def encode(self, frames_B3hw: Tensor) -> Tensor:
        """See ``Codec``."""
        centred = frames_B3hw - 0.5
        linear = self.linear_encoder(functional.pixel_unshuffle(centred, self.config.cell))
        return self.normalise(linear + self.encoder(centred))

    def picture(self, latent_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """A latent's own frame (B, 3, h, w), about [0, 1], and its features on the fine grid."""
        features = self.decoder(latent_BCHW)
        linear = functional.pixel_shuffle(self.linear_decoder(latent_BCHW), self.config.cell)
        detail = functional.pixel_shuffle(self.to_pixels(features), self.config.fine_cell)
        return linear + detail + 0.5, features

    def pictures(self, latents_BCHW: Tensor) -> Tensor:
        """See ``Codec``."""
        return self.picture(latents_BCHW)[0]
