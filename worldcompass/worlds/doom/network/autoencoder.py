"""The small causal autoencoder of the Doom world: 4 frames of 64x48 <-> one latent of 24x6x8.

A latent holds the last frame of its four, so all of its numbers go into one sharp picture; the three frames before
it are found between the pictures of two neighbouring latents (``between.py``). The decoder's whole memory of the
past is therefore one latent, and a chunk decoded after its past equals the same chunk of the whole video. The start
image is a latent like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldcompass.worlds.doom.engine.facts import FRAME_HEIGHT, FRAME_WIDTH, FRAMES_PER_LATENT
from worldcompass.worlds.doom.network.interpolation import FINE, FINE_CELL, Depth, Residual, frames_between
from worldcompass.worlds.doom.network.reprojection import views

CELL = 8  # pixels per side of a latent's cell
LATENT_CHANNELS = 24
LATENT_SHAPE = (LATENT_CHANNELS, FRAME_HEIGHT // CELL, FRAME_WIDTH // CELL)
COARSE = 192  # channels at the latent's resolution, 6x8
_PATCH = 3 * FINE_CELL**2


class Look(NamedTuple):
    """What latents say about the moment of their own frame; any leading dimensions."""

    picture: Tensor
    """(..., 3, h, w), about [0, 1]"""
    nearness: Tensor
    """(..., 24, 32), see ``reproject``"""
    pitch: Tensor
    """(...), of the camera, nominal units"""

    def repeat(self, times: int) -> Look:
        """Each row ``times`` times, side by side."""
        return Look(*(x.repeat_interleave(times, 0) for x in self))

    def select(self, rows: slice) -> Look:
        """Some of the rows."""
        return Look(*(x[rows] for x in self))

    def unflatten(self, shape: Sequence[int]) -> Look:
        """The first dimension as two."""
        return Look(*(x.unflatten(0, shape) for x in self))


class Autoencoder(nn.Module):
    """Frames in [0, 1] <-> latents with unit variance per channel."""

    def __init__(self) -> None:
        super().__init__()
        # A linear code and what networks add to it: ``start_linear`` makes it the principal components'.
        self.linear_encoder = nn.Conv2d(3 * CELL**2, LATENT_CHANNELS, 1)
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(FINE_CELL),
            nn.Conv2d(_PATCH, FINE, 3, padding=1),
            Residual(FINE),
            nn.Conv2d(FINE, COARSE, 2, stride=2),
            Residual(COARSE),
            nn.SiLU(),
            nn.Conv2d(COARSE, LATENT_CHANNELS, 1),
        )
        # Keeps latents at zero mean and unit variance by construction; at inference it is a fixed affine map.
        self.normalise = nn.BatchNorm2d(LATENT_CHANNELS, affine=False, momentum=0.01)
        self.linear_decoder = nn.Conv2d(LATENT_CHANNELS, 3 * CELL**2, 1)
        self.decoder = nn.Sequential(
            nn.Conv2d(LATENT_CHANNELS, COARSE, 3, padding=1),
            Residual(COARSE),
            Residual(COARSE),
            nn.Conv2d(COARSE, 4 * FINE, 1),
            nn.PixelShuffle(2),
            Residual(FINE),
            Residual(FINE),
            nn.SiLU(),
        )
        self.to_pixels = nn.Conv2d(FINE, _PATCH, 3, padding=1)
        self.depth = Depth(LATENT_CHANNELS, LATENT_SHAPE[1])
        for layer in (self.encoder[-1], self.to_pixels):
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    @torch.no_grad()
    def start_linear(self, frames_B3hw: Tensor) -> None:
        """Begin as the principal components of cells of 8x8 pixels, the best linear code."""
        cells = functional.pixel_unshuffle(frames_B3hw - 0.5, CELL).movedim(1, -1).flatten(0, -2)
        mean = cells.mean(0)
        _, sizes, axes = torch.linalg.svd(cells - mean, full_matrices=False)
        std = (sizes[:LATENT_CHANNELS] / len(cells) ** 0.5)[:, None]
        axes = axes[:LATENT_CHANNELS]
        self.linear_encoder.weight.copy_((axes / std)[..., None, None])
        self.linear_encoder.bias.copy_(-(axes / std) @ mean)  # type: ignore[union-attr]
        self.linear_decoder.weight.copy_((axes * std).T[..., None, None])
        self.linear_decoder.bias.copy_(mean)  # type: ignore[union-attr]

    def encode(self, frames_B3hw: Tensor) -> Tensor:
        """Latents (B, C, H, W) of frames in [0, 1], each the last of its four."""
        centred = frames_B3hw - 0.5
        linear = self.linear_encoder(functional.pixel_unshuffle(centred, CELL))
        return self.normalise(linear + self.encoder(centred))

    def picture(self, latent_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """A latent's own frame (B, 3, h, w), about [0, 1], and its features on the fine grid."""
        features = self.decoder(latent_BCHW)
        linear = functional.pixel_shuffle(self.linear_decoder(latent_BCHW), CELL)
        return linear + functional.pixel_shuffle(self.to_pixels(features), FINE_CELL) + 0.5, features

    def encode_video(self, frames_BF3hw: Tensor) -> Tensor:
        """Latents (B, C, M, H, W) of a video of 4 M - 3 frames that begins with its start image."""
        ends = frames_BF3hw[:, ::FRAMES_PER_LATENT]
        return self.encode(ends.flatten(0, 1)).unflatten(0, ends.shape[:2]).transpose(1, 2)

    def look(self, latents_BCHW: Tensor) -> Look:
        """Picture, nearness and pitch of each latent."""
        picture, features = self.picture(latents_BCHW)
        return Look(picture, *self.depth(latents_BCHW, features))

    def decode_chunk(self, latents_BCKHW: Tensor, previous: Look | None) -> Tensor:
        """Frames (B, F, 3, h, w) of a chunk after ``previous``, the look of the last latent of its past.

        ``previous`` None means that the chunk begins with the start image, which yields one frame.
        """
        latents = latents_BCKHW.transpose(1, 2)
        return self.frames_of(self.look(latents.flatten(0, 1)).unflatten(latents.shape[:2]), previous)

    def frames_of(self, looks: Look, previous: Look | None) -> Tensor:
        """``decode_chunk`` of what is known already: the looks (B, K, ...) of its latents."""
        if previous is not None:
            looks = Look(*(torch.cat([x[:, None], y], 1) for x, y in zip(previous, looks, strict=True)))
        frames = looks.picture[:, :1]
        if looks.picture.shape[1] > 1:
            between, _ = self.between_pictures(looks)
            moving = torch.cat([between, looks.picture[:, 1:, None]], 2).flatten(1, 2)
            frames = torch.cat([frames, moving], 1)
        return frames if previous is None else frames[:, 1:]

    @torch.no_grad()
    def seen_from(self, pasts: Sequence[tuple[Look, Tensor, Tensor]]) -> Tensor:
        """What cameras see of what was seen before, as latents; (B, C + 1, K, H, W).

        The last channel is the share of each cell that was seen; what was not is made of what lies beside it.

        Args:
            pasts: views to carry along, a later one where the earlier ones show nothing. Of each: the look of B
                latents, whose own reading of the pitch is not used; the motion from their cameras to K others,
                nominal units (B, K, 4); the pitch of their cameras, nominal units (B,).
        """
        shown, seen = views(pasts[0][0].picture, pasts[0][0].nearness, *pasts[0][1:])
        for look, motion, pitch in pasts[1:]:
            older, there = views(look.picture, look.nearness, motion, pitch)
            filled = (1 - seen) * there
            shown, seen = torch.lerp(shown, older, filled), seen + filled
        latents = self.encode(shown.flatten(0, 1)).unflatten(0, shown.shape[:2])
        share = functional.avg_pool2d(seen.flatten(0, 1), CELL).unflatten(0, seen.shape[:2])
        return torch.cat([latents, share], 2).transpose(1, 2)

    def between_pictures(self, looks: Look) -> tuple[Tensor, Tensor]:
        """The frames (B, M - 1, 3, 3, h, w) between M pictures in a row, and the motions read from them."""
        size = len(looks.picture)
        pairs = [torch.stack([x[:, :-1], x[:, 1:]], 2).flatten(0, 1) for x in looks]
        frames, motion = frames_between(*pairs)
        return frames.unflatten(0, (size, -1)), motion.unflatten(0, (size, -1))
