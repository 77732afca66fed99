"""Nano World Models as a ``WorldModel``: a sliding window of latents, one picture each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from worldcompass.noise import corrupt
from worldcompass.parallel.sharding import home_of
from worldcompass.types import Actions, Scenario
from worldcompass.world import WorldSpec
from worldcompass.worlds.nano.actions import NanoActions
from worldcompass.worlds.nano.noising import Noising, Regime
from worldcompass.worlds.nano.transformer import Frames, NanoTransformer, Prefix
from worldcompass.worlds.open.pasts import rows_per_past

HISTORY = 4  # latents that the official rollout remembers, if a window can hold them
START = "latent"  # key of a scenario's conditioning: its given latents, (C, given, H, W)

# Layers with adapters in a LoRA run, see ``Lora.targets``.
LORA_TARGETS = r"blocks\.\d+\.(attn\.(qkv|proj)|mlp\.w[123]|cross_attn\.(q|kv|proj))"


class Pictures(Protocol):
    """A picture autoencoder. Latents are in the network's scale; each picture is treated by itself."""

    @property
    def pixels_per_cell(self) -> int:
        """Height and width in pixels of one cell of a latent."""
        ...

    def encode(self, frames_B3hw: Tensor) -> Tensor:
        """Latents (B, C, H, W), float32, of uint8 pictures."""
        ...

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """Pictures (B, 3, h, w), uint8."""
        ...


@dataclass(frozen=True)
class Sampling:
    """How a world samples: the official samplers' settings."""

    num_steps: int = 50
    """Denoising steps of a chunk."""
    regime: Regime = "full"
    """Timesteps of training and planning, or those of rollout scripts; see ``Regime``."""
    history: int | None = None
    """Remembered latents; as many as in the official rollout when None."""
    given: int = 1
    """First latents of a video that are given."""


@dataclass(frozen=True)
class _Attended:
    given_K: Tensor
    num_given: int
    """The first latents of the chunk, which are given."""
    actions_PKA: Tensor
    """Normalised."""
    prefix: Prefix | None
    """The remembered latents; None when nothing is to be imagined."""

    def select(self, row: int) -> _Attended:
        prefix = self.prefix and self.prefix.select(row)
        return replace(self, actions_PKA=self.actions_PKA[row : row + 1], prefix=prefix)


@dataclass(frozen=True)
class NanoContext:
    """P pasts: given latents, and the last finished ones with their actions, as far as a window reaches."""

    given_PCKHW: Tensor
    latents_PCKHW: Tensor
    """Finished and clean."""
    actions_PKA: Tensor
    """Normalised; of the finished latents."""
    num_latents: int = 0
    attended: _Attended | None = None

    @property
    def num_pasts(self) -> int:
        """P."""
        return len(self.given_PCKHW)

    @property
    def given_K(self) -> Tensor | None:
        """Mask of the given latents of the next chunk; None before ``attend``."""
        return self.attended.given_K if self.attended else None

    def select(self, row: int) -> NanoContext:
        """The context of a single past."""
        rows = slice(row, row + 1)
        attended = self.attended and self.attended.select(row)
        own = (self.given_PCKHW[rows], self.latents_PCKHW[rows], self.actions_PKA[rows])
        return NanoContext(*own, self.num_latents, attended)


class NanoWorld:
    """Implements ``WorldModel[NanoContext]``; see there for shapes and meaning.

    Each chunk sees the last latents through a window that restarts at place 0, and whose first latent has no
    action. They get a little noise, new for every chunk. Chunks of several latents are denoised together.

    Args:
        net: the transformer.
        decoder: the picture autoencoder.
        noising: what the network predicts, and the noise of its training.
        actions: the controls, and how the network reads them.
        sampling: steps and window.
        fps: latents, which are frames, per second.

    Raises:
        ValueError: when actions or window do not fit the network.
    """

    def __init__(
        self,
        net: NanoTransformer,
        decoder: Pictures,
        noising: Noising,
        actions: NanoActions,
        sampling: Sampling | None = None,
        fps: float = 1.0,
    ) -> None:
        self.net, self.decoder, self.noising, self.actions = net, decoder, noising, actions
        self.sampling = sampling = sampling or Sampling()
        config = net.config
        self.history = min(HISTORY, config.num_frames - 1) if sampling.history is None else sampling.history
        if not 1 <= self.history < config.num_frames or sampling.given < 1:
            raise ValueError(
                f"{sampling.given} given and {self.history} remembered latents: expected 1 or more, and fewer"
                f" remembered ones than the window of {config.num_frames}"
            )
        if actions.size != config.action_size:
            raise ValueError(
                f"the controls make {actions.size} numbers for each latent, the network reads"
                f" {config.action_size}: give the checkpoint's own controls and frame interval"
            )
        self.stabilization = noising.stabilization_timestep(sampling.num_steps, sampling.regime)
        side = config.latent_size * decoder.pixels_per_cell
        self.spec: WorldSpec = WorldSpec(
            name="Nano World Model",
            latent_shape=(config.latent_channels, config.latent_size, config.latent_size),
            chunk_lengths=tuple(range(1, config.num_frames - self.history + 1)),
            frames_per_latent=1,
            fps=fps,
            frame_size=(side, side),
            schedule=noising.levels(sampling.num_steps, sampling.regime),
            actions=actions.space,
            batches_pasts=True,
        )

    @property
    def _device(self) -> torch.device:
        return home_of(self.net.pos_embed)

    @torch.no_grad()
    def begin(self, scenarios: Sequence[Scenario]) -> NanoContext:
        """Start from prepared latents, or from start images if a single latent is given.

        Raises:
            ValueError: when neither is there, or latents have another shape.
        """
        given = torch.stack([self._given(scenario) for scenario in scenarios])
        actions = given.new_zeros(len(scenarios), 0, self.net.config.action_size)
        return NanoContext(given, given[:, :, :0], actions)

    @torch.no_grad()
    def attend(
        self, context: NanoContext, actions: Actions, generators: Sequence[torch.Generator] | None = None
    ) -> NanoContext:
        """Add noise to the remembered latents, and compute their keys.

        Raises:
            ValueError: for a chunk of another length than ``spec`` names, or without the generators of noise.
        """
        length = len(actions)
        if length not in self.spec.chunk_lengths:
            raise ValueError(f"{self.spec.name} imagines chunks of {self.spec.chunk_lengths}, not {length}")
        # A number, not a sum of the mask: plans run this on tensors without data.
        num_given = min(max(self.sampling.given - context.num_latents, 0), length)
        given_K = torch.arange(length, device=self._device) < num_given
        own = self.actions.packed(actions).to(self._device)
        prefix = None if num_given == length else self._prefix(context, own, num_given, generators)
        return replace(context, attended=_Attended(given_K, num_given, own, prefix))

    def predict_clean(
        self, noisy_BCKHW: Tensor, sigma_B: Tensor, actions: Actions, context: NanoContext
    ) -> Tensor:
        """See ``WorldModel.predict_clean``; uses the commands that ``attend`` got.

        Raises:
            ValueError: without ``attend`` for this length, or when the pasts do not divide the rows.
        """
        attended = context.attended
        if attended is None or len(attended.given_K) != noisy_BCKHW.shape[2]:
            raise ValueError(
                f"predict_clean of {noisy_BCKHW.shape[2]} latents needs a context attended for them: call attend"
            )
        rows = rows_per_past(len(noisy_BCKHW), context.num_pasts)
        num_given = attended.num_given
        given = self._given_part(context, num_given).repeat_interleave(rows, 0)
        if attended.prefix is None:
            return given
        noisy = noisy_BCKHW[:, :, num_given:].float()
        frames = Frames(
            self.noising.scaled(noisy, sigma_B),
            self.noising.timesteps(sigma_B)[:, None].expand(-1, noisy.shape[2]),
            attended.actions_PKA[:, num_given:].repeat_interleave(rows, 0),
        )
        output = self.net(frames, attended.prefix).float()
        return torch.cat([given, self.noising.clean(output, noisy, sigma_B)], 2)

    @torch.no_grad()
    def remember(self, context: NanoContext, clean_PCKHW: Tensor, actions: Actions) -> NanoContext:
        """Append a finished chunk; latents that no window can reach are dropped."""
        own = self.actions.packed(actions).to(self._device)
        latents = torch.cat([context.latents_PCKHW, clean_PCKHW.float()], 2)[:, :, -self.history :]
        known = torch.cat([context.actions_PKA, own], 1)[:, -self.history :]
        return NanoContext(context.given_PCKHW, latents, known, context.num_latents + len(actions))

    @torch.no_grad()
    def decode(self, clean_BCKHW: Tensor, context: NanoContext) -> Tensor:
        """Frames of a chunk, which do not depend on the past."""
        pictures = self.decoder.decode(clean_BCKHW.transpose(1, 2).flatten(0, 1))
        return pictures.unflatten(0, (len(clean_BCKHW), -1))

    @torch.no_grad()
    def encode(self, frames_PF3hw: Tensor) -> Tensor:
        """See ``Encoder``."""
        latents = self.decoder.encode(frames_PF3hw.flatten(0, 1).to(self._device))
        return latents.unflatten(0, (len(frames_PF3hw), -1)).transpose(1, 2)

    def _given(self, scenario: Scenario) -> Tensor:
        """The given latents of a scenario, (C, given, H, W)."""
        count, prepared = self.sampling.given, (scenario.conditioning or {}).get(START)
        if prepared is None and scenario.image_3hw is not None and count == 1:
            self._check_size(scenario)
            return self.encode(scenario.image_3hw[None, None])[0]
        if prepared is None:
            raise ValueError(
                f"scenario {scenario.id}: {self.spec.name} starts from {count} prepared latents, which are missing:"
                " make them with 'worldcompass prepare'"
            )
        channels, height, width = self.spec.latent_shape
        if tuple(prepared.shape) != (channels, count, height, width):
            raise ValueError(
                f"scenario {scenario.id}: its given latents have shape {tuple(prepared.shape)}, expected"
                f" {(channels, count, height, width)}"
            )
        return prepared.to(self._device).float()

    def _check_size(self, scenario: Scenario) -> None:
        assert scenario.image_3hw is not None
        if tuple(scenario.image_3hw.shape[-2:]) != self.spec.frame_size:
            raise ValueError(
                f"scenario {scenario.id}: its start image has {tuple(scenario.image_3hw.shape[-2:])} pixels,"
                f" expected {self.spec.frame_size}"
            )

    def _given_part(self, context: NanoContext, num_given: int) -> Tensor:
        """The first latents of the next chunk, which are given."""
        return context.given_PCKHW[:, :, context.num_latents : context.num_latents + num_given]

    def _prefix(
        self,
        context: NanoContext,
        own_PKA: Tensor,
        num_given: int,
        generators: Sequence[torch.Generator] | None,
    ) -> Prefix:
        """Keys of the latents before the first imagined one, as many as the window holds."""
        latents = torch.cat([context.latents_PCKHW, self._given_part(context, num_given)], 2)
        actions = torch.cat([context.actions_PKA, own_PKA[:, :num_given]], 1)
        count = min(self.history, latents.shape[2])
        noised, told = self._noised(latents[:, :, -count:], generators)
        timesteps = torch.full((len(latents), count), float(told), device=self._device)
        return self.net(Frames(noised, timesteps, actions[:, -count:]), keep_keys=True)

    def _noised(
        self, latents_PCKHW: Tensor, generators: Sequence[torch.Generator] | None
    ) -> tuple[Tensor, int]:
        """Remembered latents as the network reads them, and the timestep that it is told."""
        if self.stabilization is None:
            return latents_PCKHW, 0
        if generators is None:
            raise ValueError(
                f"{self.spec.name} adds noise to what it remembers: pass one generator for each past to attend"
            )
        noise = history_noise(latents_PCKHW, generators)
        sigma = self.noising.sigmas_T[self.stabilization].to(noise.device).float().expand(len(noise))
        return self.noising.scaled(corrupt(latents_PCKHW, noise, sigma), sigma), self.stabilization


def history_noise(latents_PCKHW: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Standard normal noise in the form of remembered latents, each past's from its own generator."""
    shape = latents_PCKHW.shape[1:]
    noise = [torch.randn(shape, generator=generator) for generator in generators]
    return torch.stack(noise).to(latents_PCKHW.device)
