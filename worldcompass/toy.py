"""A toy world, on which the whole training loop runs in seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from worldcompass.actions import CameraActions
from worldcompass.critic import Need
from worldcompass.geometry import LabelThresholds, Motion, motion_signs
from worldcompass.noise import ShiftedLevels
from worldcompass.rollout import device_of
from worldcompass.seeding import generator_for
from worldcompass.types import Actions, Group, Scenario, Scores
from worldcompass.world import WorldSpec

CARRY = 0.3  # share of the previous latent in the next one
SPREAD = 0.5  # standard deviation of the imagined latents
OBEDIENCE = 0.25  # share of a commanded motion in the untrained world
GRAIN = 0.4  # added by the untrained world to the channels that should stay dark
LEVELS_PER_UNIT = 32  # of 255
ACTIONS = CameraActions(
    Motion(move=1.0, yaw_deg=10.0, pitch_deg=10.0, level=True),
    LabelThresholds(move=0.5, yaw_deg=5.0, pitch_deg=5.0),
)


class ToyNet(nn.Module):
    """The trained part of the toy: the response of a latent to an action."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 16)
        self.outer = nn.Linear(16, 12)
        generator = generator_for("toy net", seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            self.outer.weight.mul_(0.1)
            self.outer.bias.copy_(torch.tensor([0.0] * 4 + [GRAIN] * 8))

    def forward(self, signs_PK4: Tensor) -> Tensor:
        """Mean response (P, K, 12) to the signs (right, forward, yaw, pitch)."""
        start = OBEDIENCE * nn.functional.pad(signs_PK4, (0, 8))
        return start + self.outer(torch.tanh(self.inner(signs_PK4)))


@dataclass(frozen=True)
class ToyContext:
    """All latents of the past, and the given latents of a recording, at least that of the start image."""

    recording_PCMHW: Tensor
    """The first latents of the video, which are given."""
    latents_PCMHW: Tensor
    given_K: Tensor | None = None

    @property
    def num_pasts(self) -> int:
        """P."""
        return self.recording_PCMHW.shape[0]

    @property
    def num_latents(self) -> int:
        """Finished latents."""
        return self.latents_PCMHW.shape[2]

    @property
    def last_PCHW(self) -> Tensor:
        """The last finished latent, or the first given one at the start."""
        return (self.latents_PCMHW[:, :, -1:] if self.num_latents else self.recording_PCMHW)[:, :, 0]

    def select(self, row: int) -> ToyContext:
        """The context of a single past."""
        rows = slice(row, row + 1)
        return dataclasses.replace(
            self, recording_PCMHW=self.recording_PCMHW[rows], latents_PCMHW=self.latents_PCMHW[rows]
        )


class ToyWorld:
    """A world with Gaussian latents around ``0.3 previous + net(action)``, whose best denoiser has a closed form.

    Channels 0-3 show the motion (right, forward, yaw, pitch); the other 8 should be dark but contain grain.
    Pixels are the channels shuffled into 4x4 images, with 2 frames per latent, the first blended with the previous.
    """

    def __init__(self, seed: int = 0, batches_pasts: bool = True) -> None:
        self.net: nn.Module = ToyNet(seed)
        self.spec = WorldSpec(
            name="toy",
            latent_shape=(12, 2, 2),
            chunk_lengths=(4, 1),
            frames_per_latent=2,
            fps=8.0,
            frame_size=(4, 4),
            schedule=ShiftedLevels(shift=2.0, num_steps=6),
            actions=ACTIONS,
            batches_pasts=batches_pasts,
        )

    @torch.no_grad()
    def begin(self, scenarios: Sequence[Scenario]) -> ToyContext:
        """Start from the scenarios' images, or from grey ones."""
        grey = torch.full((3, 4, 4), 128, dtype=torch.uint8)
        images = torch.stack([grey if s.image_3hw is None else s.image_3hw for s in scenarios])
        start = latents_of_frames(images).to(device_of(self))
        return ToyContext(start[:, :, None], start.new_empty(len(start), 12, 0, 2, 2))

    @torch.no_grad()
    def attend(
        self, context: ToyContext, actions: Actions, generators: Sequence[torch.Generator] | None = None
    ) -> ToyContext:
        """Mark the given latents."""
        places = torch.arange(len(actions), device=context.latents_PCMHW.device) + context.num_latents
        given = places < context.recording_PCMHW.shape[2]
        return dataclasses.replace(context, given_K=given)

    def predict_clean(
        self, noisy_BCKHW: Tensor, sigma_B: Tensor, actions: Actions, context: ToyContext
    ) -> Tensor:
        """The posterior mean of a Gaussian: ``mu + s^2 (1-t) / ((1-t)^2 s^2 + t^2) (x - (1-t) mu)``."""
        if context.given_K is None or len(context.given_K) != noisy_BCKHW.shape[2]:
            raise ValueError(f"attend the context for this chunk of {noisy_BCKHW.shape[2]} latents first")
        given_K, rows_per_past = context.given_K.tolist(), noisy_BCKHW.shape[0] // context.num_pasts
        recorded = context.recording_PCMHW[:, :, context.num_latents : context.num_latents + len(given_K)]
        if all(given_K):
            return recorded.repeat_interleave(rows_per_past, 0)
        response_PKC = self.net(motion_signs(actions.cameras.labels_K)).float()
        last, means = context.last_PCHW, []
        for k, given in enumerate(given_K):
            last = recorded[:, :, k] if given else CARRY * last + response_PKC[:, k, :, None, None]
            means.append(last)
        mean = torch.stack(means, 2).repeat_interleave(rows_per_past, 0)
        sigma = sigma_B.view(-1, 1, 1, 1, 1)
        trust = SPREAD**2 * (1 - sigma) / ((1 - sigma).square() * SPREAD**2 + sigma.square())
        clean = mean + trust * (noisy_BCKHW - (1 - sigma) * mean)
        return torch.where(context.given_K[:, None, None], mean, clean)

    @torch.no_grad()
    def remember(self, context: ToyContext, clean_PCKHW: Tensor, actions: Actions) -> ToyContext:
        """Append a chunk."""
        return ToyContext(context.recording_PCMHW, torch.cat([context.latents_PCMHW, clean_PCKHW], 2))

    @torch.no_grad()
    def decode(self, clean_BCKHW: Tensor, context: ToyContext) -> Tensor:
        """Decode two frames per latent, half way from the previous latent and itself; the first latent has one."""
        first = context.num_latents == 0
        last = context.last_PCHW.repeat_interleave(clean_BCKHW.shape[0] // context.num_pasts, 0)
        before = torch.cat([last[:, :, None], clean_BCKHW[:, :, :-1]], 2)
        frames = torch.stack([(before + clean_BCKHW) / 2, clean_BCKHW], 3).flatten(2, 3).transpose(1, 2)
        pixels = (128 + LEVELS_PER_UNIT * pixel_shuffle(frames, 2)).round().clamp(0, 255).to(torch.uint8)
        return pixels[:, 1:] if first else pixels

    @torch.no_grad()
    def encode(self, frames_PF3hw: Tensor) -> Tensor:
        """See ``Encoder``: the last frame of every latent shows it whole."""
        ends = latents_of_frames(
            frames_PF3hw[:, self.spec.first_latent_frames - 1 :: self.spec.frames_per_latent]
        )
        return ends.transpose(1, 2).to(device_of(self))


def latents_of_frames(frames_3hw: Tensor) -> Tensor:
    """The toy's latents (..., 12, 2, 2) behind its frames (..., 3, 4, 4)."""
    return pixel_unshuffle((frames_3hw.float() - 128) / LEVELS_PER_UNIT, 2)


class ToyObedience:
    """Closeness of the motion to the commanded one, read from pixels."""

    name = "obedience"
    needs: tuple[Need, ...] = ("cameras",)

    def __call__(self, group: Group) -> Scores:
        """Minus the mean distance between commanded motion and that of each latent's last frame."""
        frames, actions = group.transitions()
        labels_K = actions.cameras.labels_K
        ends = latents_of_frames(frames[:, :: group.frames_per_latent])[:, :, :4].mean((-2, -1))
        motion_GK4 = ends[:, 1:] - CARRY * ends[:, :-1]
        missed_GK4 = (motion_GK4 - motion_signs(labels_K).to(motion_GK4)).abs()
        values = -missed_GK4.mean((1, 2))
        return Scores(values, torch.ones_like(values, dtype=torch.bool), -missed_GK4.mean(2))


class ToyCleanliness:
    """Darkness of the channels that should be dark."""

    name = "cleanliness"

    def __call__(self, group: Group) -> Scores:
        """Minus the mean size of the grain in the chunk's frames."""
        values = -latents_of_frames(group.frames_GF3hw)[:, :, 4:].abs().mean((1, 2, 3, 4))
        return Scores(values, torch.ones_like(values, dtype=torch.bool))


def toy_scenarios(count: int, num_latents: int = 8, seed: int = 0) -> list[Scenario]:
    """Scenarios of random actions, one change every latent."""
    result = []
    for index in range(count):
        labels = torch.randint(0, 81, (num_latents,), generator=generator_for("toy scenario", seed, index))
        labels[0] = 0
        result.append(Scenario(f"toy-{seed}-{index}", ACTIONS.commanded(labels)))
    return result
