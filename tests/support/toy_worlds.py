"""Kinds of worlds that the contract can hold, each a toy with one thing that open world models need."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from worldcompass.noise import ExplicitLevels, fresh_noise_step
from worldcompass.rollout import (
    given_whole,
)
from worldcompass.seeding import generator_for
from worldcompass.toy import ToyContext, ToyWorld

NO_NOISE = torch.empty(0)
HISTORY_LEVEL = 0.3  # size of the noise on the last latent of a noisy past


class FewSteps(ToyWorld):
    """A student of three fixed noise levels that continues with fresh noise."""

    def __init__(self, **options):
        super().__init__(**options)
        levels = ExplicitLevels((1.0, 0.8, 0.4, 0.0))
        self.spec = dataclasses.replace(self.spec, schedule=levels, sampler=fresh_noise_step)


@dataclass(frozen=True)
class NoisyContext(ToyContext):
    """A past whose last latent is seen through noise, drawn when it was attended."""

    noise_PC1HW: Tensor = NO_NOISE

    def select(self, row):
        return dataclasses.replace(super().select(row), noise_PC1HW=self.noise_PC1HW[row : row + 1])

    def seen(self):
        latents = self.latents_PCMHW.clone()
        latents[:, :, -1:] += HISTORY_LEVEL * self.noise_PC1HW
        return dataclasses.replace(self, latents_PCMHW=latents)


class NoisyPast(ToyWorld):
    """Stabilises its history with noise, as models trained by diffusion forcing do."""

    def draw(self, pasts, generators):
        if generators is None:
            raise ValueError("a noisy past draws when it is attended: pass one generator for each past")
        return torch.stack([torch.randn(12, 1, 2, 2, generator=own) for own in generators])

    def attend(self, context, actions, generators=None):
        plain = super().attend(context, actions)
        noise = self.draw(context.num_pasts, generators)
        return NoisyContext(plain.recording_PCMHW, plain.latents_PCMHW, plain.given_K, noise)

    def predict_clean(self, noisy, sigma_B, actions, context):
        attended = isinstance(context, NoisyContext) and context.num_latents > 0
        return super().predict_clean(noisy, sigma_B, actions, context.seen() if attended else context)


class Recorded(ToyWorld):
    """Goes on from several latents of a recording."""

    def __init__(self, given=4, **options):
        super().__init__(**options)
        self.given = given

    def begin(self, scenarios):
        start = super().begin(scenarios)
        more = [
            torch.randn(12, self.given - 1, 2, 2, generator=generator_for("recording", s.id)) / 2
            for s in scenarios
        ]
        recording = torch.cat([start.recording_PCMHW, torch.stack(more)], 2)
        return dataclasses.replace(start, recording_PCMHW=recording)


class LongStart(ToyWorld):
    """Its first latent shows the start image for three frames."""

    def __init__(self, **options):
        super().__init__(**options)
        self.spec = dataclasses.replace(self.spec, first_latent_frames=3)

    def decode(self, clean, context):
        frames = super().decode(clean, context)
        return (
            frames if context.num_latents else torch.cat([frames[:, :1].expand(-1, 2, -1, -1, -1), frames], 1)
        )


class Counting(ToyWorld):
    """Counts the rows that go through the network, and the prefixes that are built."""

    rows = prefixes = given_rows = 0

    def weaken(self, context):
        """Forgets the left half of what came before the chunk."""
        return replace(context, latents_PCMHW=context.latents_PCMHW * torch.tensor([0.0, 1.0]))

    def attend(self, context, actions, generators=None):
        self.prefixes += context.num_pasts if context.num_latents else 0
        return super().attend(context, actions, generators)

    def predict_clean(self, noisy, sigma_B, actions, context):
        if given_whole(context):
            self.given_rows += len(noisy)
        else:
            self.rows += len(noisy)
        return super().predict_clean(noisy, sigma_B, actions, context)
