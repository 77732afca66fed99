"""The autoencoder of the Hands world: 4 frames of 64x64 <-> one latent of 168x8x8."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from worldcompass.worlds.hands.facts import FRAME_SIZE, FRAMES_PER_LATENT
from worldcompass.worlds.hands.network.physics import Physics
from worldcompass.worlds.hands.network.seer import Seer
from worldcompass.worlds.hands.network.state import NUMBERS, State
from worldcompass.worlds.small.autoencoder import Codec, CodeConfig, Look
from worldcompass.worlds.small.interpolation import Interpolator
from worldcompass.worlds.small.linear import LEAST_DEVIATION, LinearCode

COLOUR = 128  # channels of a latent for colour; each number of the state has one
CODE = CodeConfig(FRAME_SIZE, FRAMES_PER_LATENT, channels=COLOUR + NUMBERS, cell=8, fine=64, coarse=96)


@dataclass(frozen=True)
class HandsLook(Look):
    """See ``Look``."""

    numbers: Tensor
    """(..., 40), see ``State``."""

    @property
    def state(self) -> State:
        """Where everything is."""
        return State.of(self.numbers)


class NumberCode(nn.Module):
    """Numbers as channels of one value in all cells, so that noise of single cells hardly changes them.

    Channels are scaled as those of a ``LinearCode`` are, a number being a plane of pixels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(NUMBERS))
        self.register_buffer("scale", torch.ones(NUMBERS))
        self.mean: Tensor
        self.scale: Tensor

    @torch.no_grad()
    def fit(self, numbers_ND: Tensor) -> None:
        """Take mean and deviations of numbers."""
        std = CODE.cell * numbers_ND.std(0).clamp_min(LEAST_DEVIATION)
        self.mean.copy_(numbers_ND.mean(0))
        self.scale.copy_(std.sqrt() * (std.mean()).sqrt())

    def units(self, numbers_ND: Tensor) -> Tensor:
        """The values of their channels; of the first ones, if fewer are given."""
        count = numbers_ND.shape[1]
        return CODE.cell * (numbers_ND - self.mean[:count]) / self.scale[:count]

    def numbers(self, units_ND: Tensor) -> Tensor:
        """The inverse of ``units``."""
        count = units_ND.shape[1]
        return units_ND * self.scale[:count] / CODE.cell + self.mean[:count]

    def encode(self, numbers_ND: Tensor) -> Tensor:
        """Channels (N, D, H, W) of numbers."""
        return self.units(numbers_ND)[..., None, None].expand(-1, -1, *CODE.latent_shape[1:])

    def decode(self, channels_NDHW: Tensor) -> Tensor:
        """The inverse, of the mean over all cells; in float32 under autocast too."""
        return self.numbers(channels_NDHW.float().mean((2, 3)))


class HandsAutoencoder(Codec):
    """Linear codes of colour and state, and three networks.

    One draws frames between pictures, one takes start images apart, one says how things move.
    """

    def __init__(self) -> None:
        super().__init__()
        self.config = CODE
        self.code = LinearCode(replace(CODE, channels=COLOUR))
        self.numbers = NumberCode()
        self.interpolator = Interpolator(CODE)
        self.seer = Seer()
        self.physics = Physics()

    @property
    def channel_weights(self) -> Tensor:
        """See ``Codec``: errors count as they do in pixels, a number being a plane of them."""
        weights = torch.cat([self.code.scale, self.numbers.scale]).square()
        return weights / weights.mean()

    def start_linear(self, frames_B3hw: Tensor) -> None:
        """See ``Codec``; of colour and planes of numbers."""
        self.code.fit(frames_B3hw[:, :3])
        self.numbers.fit(frames_B3hw[:, 3:, 0, 0])

    def encode(self, frames_B3hw: Tensor) -> Tensor:
        """See ``Codec``; the state is what is seen."""
        return self.encode_seen(frames_B3hw, self.seen(frames_B3hw))

    def seen(self, frames_B3hw: Tensor) -> Tensor:
        """The state that is seen in frames, (B, ``NUMBERS``)."""
        return self.seer(frames_B3hw).state.numbers()

    def encode_planes(self, planes_Bphw: Tensor) -> Tensor:
        """See ``Codec``; of colour and planes of numbers."""
        return self.encode_seen(planes_Bphw[:, :3], planes_Bphw[:, 3:, 0, 0])

    def encode_seen(self, frames_B3hw: Tensor, numbers_BD: Tensor) -> Tensor:
        """Latents of frames with the state that was seen in them."""
        return torch.cat([self.code.encode(frames_B3hw), self.numbers.encode(numbers_BD)], 1)

    def pictures(self, latents_BCHW: Tensor) -> Tensor:
        """See ``Codec``."""
        return self.code.decode(latents_BCHW[:, :COLOUR])

    def look(self, latents_BCHW: Tensor) -> HandsLook:
        """See ``Codec``."""
        return HandsLook(self.pictures(latents_BCHW), self.numbers.decode(latents_BCHW[:, COLOUR:]))

    def between(self, looks: Look) -> Tensor:
        """See ``Codec``."""
        before, after = looks.picture[:, :-1], looks.picture[:, 1:]
        frames = self.interpolator(before.flatten(0, 1), after.flatten(0, 1))
        return frames.unflatten(0, before.shape[:2])
