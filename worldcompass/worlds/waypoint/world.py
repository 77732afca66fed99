"""Waypoint-1 as a ``WorldModel``: one frame per latent and per chunk, ring caches, keyboard and mouse."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from worldcompass.noise import ExplicitLevels
from worldcompass.types import Actions, Scenario
from worldcompass.world import WorldSpec
from worldcompass.worlds.open.attention import KeyValues
from worldcompass.worlds.open.pasts import Pasts, rows_per_past
from worldcompass.worlds.waypoint.controls import PLAY_KEYS, PlayKey, waypoint_controls
from worldcompass.worlds.waypoint.rings import Ring, kept, seen, sights
from worldcompass.worlds.waypoint.transformer import Frame, Past, Prompt, WaypointTransformer

CHUNK = 1  # latents, and frames

# Layers with adapters in a LoRA run: those that read a frame, see ``Lora.targets``.
LORA_TARGETS = (
    r"transformer\.blocks\.\d+\.(attn\.(q|k|v|out)_proj|mlp\.fc[12]|ctrl_mlpfusion\.mlp\.fc[12]"
    r"|prompt_cross_attn\.(q|out)_proj)"
)


class Coder(Protocol):
    """An autoencoder of single frames."""

    @property
    def frame_size(self) -> tuple[int, int]:
        """(height, width) of a decoded frame in pixels."""
        ...

    def encode(self, frames_N3hw: Tensor) -> Tensor:
        """Float32 latents (N, C, H, W) of uint8 frames of any size."""
        ...

    def decode(self, latents_NCHW: Tensor) -> Tensor:
        """Frames, uint8 (N, 3, h, w)."""
        ...


@dataclass(frozen=True)
class _Past:
    prompt: tuple[KeyValues, ...]
    given_GCHW: Tensor
    """Latents that the video begins with; float32."""
    rings: tuple[Ring, ...]
    """Of every layer."""


@dataclass(frozen=True)
class _Attended:
    given_K: Tensor
    pasts: tuple[Past, ...]

    def select(self, row: int) -> _Attended:
        return replace(self, pasts=(self.pasts[row],))


class WaypointContext(Pasts[_Past, _Attended]):
    """P pasts of the same age, with their captions, given latents and rings."""

    @property
    def num_given(self) -> int:
        """Latents that every video begins with."""
        return len(self.pasts[0].given_GCHW)


class Waypoint:
    """Implements ``WorldModel[WaypointContext]``; see there for shapes and meaning.

    The control of a latent conditions its own frame. The model has no branch without a condition, so nothing can be
    guided. Parameters that only the caption uses are frozen: its keys are computed once per scenario.

    Args:
        net: the transformer.
        decoder: turns latents into frames, and back.
        keys: the buttons that have words.
    """

    def __init__(
        self, net: WaypointTransformer, decoder: Coder, keys: Mapping[str, PlayKey] = PLAY_KEYS
    ) -> None:
        for name, parameter in net.named_parameters():
            if net.is_text_only(name):
                parameter.requires_grad_(False)
        self.net, self.decoder, self.sights = net, decoder, sights(net.config)
        self.spec: WorldSpec = WorldSpec(
            name="waypoint",
            latent_shape=net.config.latent_shape,
            chunk_lengths=(CHUNK,),
            frames_per_latent=1,
            fps=net.config.fps,
            frame_size=decoder.frame_size,
            schedule=ExplicitLevels(net.config.sigmas),
            actions=waypoint_controls(net.config.num_buttons, keys),
            batches_pasts=True,
        )

    @property
    def _device(self) -> torch.device:
        return next(self.net.parameters()).device

    @torch.no_grad()
    def begin(self, scenarios: Sequence[Scenario]) -> WaypointContext:
        """Run the caption's branch, and encode start images that are not prepared.

        Raises:
            ValueError: when conditioning is missing or has a wrong shape, or scenarios give different numbers of
                latents.
        """
        pasts = tuple(self._begin(scenario) for scenario in scenarios)
        if len(counts := sorted({len(past.given_GCHW) for past in pasts})) > 1:
            raise ValueError(
                f"scenarios of one batch give {counts[0]} to {counts[-1]} latents: pasts of one age need the same"
                " number, so batch them by it"
            )
        return WaypointContext(pasts)

    @torch.no_grad()
    def attend(
        self,
        context: WaypointContext,
        actions: Actions,
        generators: Sequence[torch.Generator] | None = None,
    ) -> WaypointContext:
        """Collect the keys of the frames that each layer sees from the next one; nothing is drawn.

        Raises:
            ValueError: for more than one latent.
        """
        _check_length(len(actions))
        frame = context.num_latents
        given = torch.tensor([frame < context.num_given], device=self._device)
        return replace(context, attended=_Attended(given, self._seen(context)))

    def predict_clean(
        self, noisy_BCKHW: Tensor, sigma_B: Tensor, actions: Actions, context: WaypointContext
    ) -> Tensor:
        """See ``WorldModel.predict_clean``.

        Raises:
            ValueError: without ``attend``, or for more than one latent.
        """
        _check_length(noisy_BCKHW.shape[2])
        attended = context.attended_for(CHUNK)
        rows, frame = rows_per_past(len(noisy_BCKHW), context.num_pasts), context.num_latents
        if frame < context.num_given:
            given = torch.stack([past.given_GCHW[frame] for past in context.pasts])
            return given.repeat_interleave(rows, 0)[:, :, None]
        noisy = noisy_BCKHW.float()
        inputs = Frame(noisy[:, :, 0], sigma_B.float(), _controls(actions).repeat_interleave(rows, 0), frame)
        velocity = self.net(inputs, attended.pasts).float()
        return noisy - sigma_B.float().view(-1, 1, 1, 1, 1) * velocity[:, :, None]

    @torch.no_grad()
    def remember(self, context: WaypointContext, clean_PCKHW: Tensor, actions: Actions) -> WaypointContext:
        """Run the finished frame at noise level 0 and keep its keys in the rings that will reach it.

        Raises:
            ValueError: for more than one latent.
        """
        _check_length(len(actions))
        frame, seen_before = context.num_latents, context.attended
        clean = clean_PCKHW[:, :, 0].float()
        inputs = Frame(clean, clean.new_zeros(len(clean)), _controls(actions), frame)
        before = seen_before.pasts if seen_before else self._seen(context)
        stored = self.net(inputs, before, keep_keys=True)
        pasts = []
        for row, past in enumerate(context.pasts):
            rings = zip(past.rings, stored, self.sights, strict=True)
            pasts.append(
                replace(past, rings=tuple(kept(ring, frame, k[row], v[row], s) for ring, (k, v), s in rings))
            )
        return WaypointContext(tuple(pasts), frame + 1)

    @torch.no_grad()
    def decode(self, clean_BCKHW: Tensor, context: WaypointContext) -> Tensor:
        """Every latent by itself."""
        frames = self.decoder.decode(clean_BCKHW.float().transpose(1, 2).flatten(0, 1))
        return frames.unflatten(0, (len(clean_BCKHW), -1))

    @torch.no_grad()
    def encode(self, frames_PF3hw: Tensor) -> Tensor:
        """See ``Encoder``."""
        latents = self.decoder.encode(frames_PF3hw.to(self._device).flatten(0, 1))
        return latents.unflatten(0, frames_PF3hw.shape[:2]).transpose(1, 2)

    def _seen(self, context: WaypointContext) -> tuple[Past, ...]:
        frame = context.num_latents
        return tuple(
            Past(
                past.prompt,
                tuple(seen(ring, frame, s) for ring, s in zip(past.rings, self.sights, strict=True)),
            )
            for past in context.pasts
        )

    def _begin(self, scenario: Scenario) -> _Past:
        conditioning, config = scenario.conditioning or {}, self.net.config
        prompt: tuple[KeyValues, ...] = ()
        if config.prompt_width is not None:
            states = _needed(scenario, conditioning, "text_states")
            _check_shape(scenario, "text_states", states, (config.prompt_length, config.prompt_width))
            prompt = self.net(Prompt(states.to(self._device)))
        return _Past(prompt, self._given(scenario, conditioning), ((),) * config.num_layers)

    def _given(self, scenario: Scenario, conditioning: Mapping[str, Tensor]) -> Tensor:
        """Prepared latents ``latents`` (G, C, H, W), or of one start ``latent`` (C, H, W), or the start image's."""
        if "latents" in conditioning:
            found = conditioning["latents"]
        elif "latent" in conditioning or scenario.image_3hw is None:
            found = _needed(scenario, conditioning, "latent")[None]
        else:
            found = self.decoder.encode(scenario.image_3hw[None].to(self._device))
        _check_shape(scenario, "latents", found, (len(found), *self.spec.latent_shape))
        return found.to(self._device).float()


def aged(world: Waypoint, context: WaypointContext, frames: int) -> WaypointContext:
    """A begun context with rings as after some frames, all zeros, for the size of what they hold."""
    config, weight = world.net.config, world.net.patchify.weight
    kind = weight.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    shape = (config.num_kv_heads, math.prod(config.grid), config.head)
    rings: list[Ring] = [()] * config.num_layers
    for frame in range(frames):
        keys, values = (torch.zeros(shape, dtype=dtype, device=weight.device) for _ in "kv")
        rings = [
            kept(ring, frame, keys, values, sight) for ring, sight in zip(rings, world.sights, strict=True)
        ]
    pasts = tuple(replace(past, rings=tuple(rings)) for past in context.pasts)
    return WaypointContext(pasts, frames)


def _needed(scenario: Scenario, conditioning: Mapping[str, Tensor], key: str) -> Tensor:
    if key not in conditioning:
        raise ValueError(
            f"scenario {scenario.id}: waypoint starts from prepared conditioning, {key} is missing: make it with"
            " 'worldcompass prepare'"
        )
    return conditioning[key]


def _check_shape(scenario: Scenario, key: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != expected:
        raise ValueError(
            f"scenario {scenario.id}: {key} has the shape {tuple(tensor.shape)}, expected {expected}, padding"
            " included"
        )


def _check_length(latents: int) -> None:
    if latents != CHUNK:
        raise ValueError(
            f"waypoint imagines one frame after another, chunks of {CHUNK} latent, not {latents}"
        )


def _controls(actions: Actions) -> Tensor:
    """The controls of each past's only latent, (P, A)."""
    return actions.controls.values_KTA[:, 0, 0]
