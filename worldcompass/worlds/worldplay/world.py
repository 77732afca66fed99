"""The WorldPlay models as a ``WorldModel``: one class, and the differences between the two families."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from worldcompass.geometry import Motion
from worldcompass.noise import ShiftedLevels
from worldcompass.types import Actions, CameraMoves, Scenario
from worldcompass.world import WorldSpec
from worldcompass.worlds.open.causal import FRAMES_PER_LATENT
from worldcompass.worlds.open.decoder import Decoder, decode_candidates, encode_videos
from worldcompass.worlds.open.pasts import Pasts, rows_per_past
from worldcompass.worlds.open.poses import MOTION, THRESHOLDS, WorldPlayActions
from worldcompass.worlds.worldplay.branches import Latents
from worldcompass.worlds.worldplay.context import (
    MEMORY_5B,
    MEMORY_8B,
    STABILIZATION_TIMESTEP,
    MemoryRule,
    points_in_view,
    select_memory,
    timesteps,
)
from worldcompass.worlds.worldplay.text import TextStates
from worldcompass.worlds.worldplay.transformer_5b import Caption, Transformer5B
from worldcompass.worlds.worldplay.transformer_8b import Transformer8B

CHUNK = 4  # latents
VIEW_SEED = 0  # of the random points for the comparison of fields of view

# Layers with adapters in a LoRA run: those of the vision half, see ``Lora.targets``.
LORA_TARGETS_8B = r"double_blocks\.\d+\.img_(attn_(q|k|v|proj|prope_proj)|mlp\.fc[12])"
LORA_TARGETS_5B = (
    r"blocks\.\d+\.(attn1\.(to_q|to_k|to_v|to_out\.0|to_out_prope\.0)"
    r"|attn2\.(to_q|to_out\.0)|ffn\.net\.(0\.proj|2))"
)


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance, only for play: ``v = v_negative + scale (v - v_negative)``."""

    scale: float
    negative: Mapping[str, Tensor]
    """Conditioning of the negative prompt; missing entries are the scenario's."""


@dataclass(frozen=True)
class Family:
    """The properties in which the two models differ."""

    name: str
    memory: MemoryRule
    shift: float
    """Of the noise levels, see ``ShiftedLevels``."""
    num_steps: int
    """Denoising steps that the released weights were trained for."""
    fps: float
    gives_start: bool
    """Whether the start image is the given first latent; otherwise it is a separate condition."""
    keys: tuple[str, ...]
    """Keys of a scenario's conditioning; ``latent`` (C, H, W) is the start image's, in the network's scale."""
    read: Callable[[Mapping[str, Tensor]], TextStates | Caption]
    """Makes the text branch's input."""
    channels: Callable[[Tensor, Tensor, Tensor], Tensor]
    """Makes the network's input from latents (B, C, K, H, W), start images (B, C, H, W) and their mask (B, K)."""


@dataclass(frozen=True)
class _Past:
    texts: tuple[Any, ...]
    """The network's past of the prompt, and with guidance also of the negative prompt."""
    start_CHW: Tensor
    chunks: tuple[tuple[Tensor, CameraMoves], ...] = ()
    """Finished latents, (C, K, H, W) float32, and their commands."""
    decoder: Any = None
    """The decoder's memory."""


@dataclass(frozen=True)
class _Attended:
    given_K: Tensor
    actions: CameraMoves
    """(P, K)."""
    pasts: tuple[tuple[Any, ...], ...]
    """Text and remembered latents of every past, for the prompt and with guidance also the negative prompt."""
    first_position: int

    def select(self, row: int) -> _Attended:
        actions = Actions.stack([self.actions.select(row)])
        return replace(self, actions=actions, pasts=tuple((pasts[row],) for pasts in self.pasts))


class WorldPlayContext(Pasts[_Past, _Attended]):
    """P pasts with their text, finished latents, commands and decoder memory."""


class WorldPlay:
    """Implements ``WorldModel[WorldPlayContext]``; see there for shapes and meaning.

    Parameters that only text uses are frozen: keys and values of text are computed once per scenario, so these
    parameters never get a gradient.

    Args:
        family: ``FAMILY_8B`` or ``FAMILY_5B``.
        net: the family's transformer.
        decoder: turns latents into frames.
        latent_size: cells of a latent, (height, width).
        motion: nominal motion of an action.
        timestep_of: the network's timestep for a noise level; the released training uses ``whole_timesteps``.
        guidance: for play; with gradients it raises an error.
    """

    def __init__(
        self,
        family: Family,
        net: Transformer8B | Transformer5B,
        decoder: Decoder,
        latent_size: tuple[int, int],
        motion: Motion = MOTION,
        timestep_of: Callable[[Tensor], Tensor] = timesteps,
        guidance: Guidance | None = None,
    ) -> None:
        for name, parameter in net.named_parameters():
            if net.is_text_only(name):
                parameter.requires_grad_(False)
        self.net, self.decoder, self.family = net, decoder, family
        self.timestep_of, self.guidance = timestep_of, guidance
        self.points_N3 = points_in_view(torch.Generator().manual_seed(VIEW_SEED), family.memory)
        height, width = latent_size
        self.spec: WorldSpec = WorldSpec(
            name=family.name,
            latent_shape=(net.config.latent_channels, height, width),
            chunk_lengths=(CHUNK,),
            frames_per_latent=FRAMES_PER_LATENT,
            fps=family.fps,
            frame_size=(height * decoder.pixels_per_cell, width * decoder.pixels_per_cell),
            schedule=ShiftedLevels(family.shift, family.num_steps),
            actions=WorldPlayActions(motion, THRESHOLDS),
            batches_pasts=True,
        )

    @property
    def _device(self) -> torch.device:
        return next(self.net.parameters()).device

    @torch.no_grad()
    def begin(self, scenarios: Sequence[Scenario]) -> WorldPlayContext:
        """Run the text branch on prepared conditioning.

        Raises:
            ValueError: when conditioning is missing or has a wrong shape.
        """
        return WorldPlayContext(tuple(self._begin(scenario) for scenario in scenarios))

    @torch.no_grad()
    def attend(
        self,
        context: WorldPlayContext,
        actions: Actions,
        generators: Sequence[torch.Generator] | None = None,
    ) -> WorldPlayContext:
        """Choose the finished latents whose views overlap with the next poses, and compute their keys.

        Raises:
            ValueError: for a chunk of another length than the models'.
        """
        if len(actions) != CHUNK:
            raise ValueError(f"{self.spec.name} imagines chunks of {CHUNK} latents, not {len(actions)}")
        start = context.num_latents
        given = torch.arange(start, start + len(actions), device=self._device) == 0
        given = given & self.family.gives_start
        pasts = tuple(zip(*(past.texts for past in context.pasts), strict=True))
        count = 0
        if start:
            memory = self._memory(context, actions)
            count = memory.latents_BCKHW.shape[2]
            pasts = tuple(tuple(self.net(memory, texts, keep_keys=True)) for texts in pasts)
        return replace(context, attended=_Attended(given, actions.cameras, pasts, count))

    def predict_clean(
        self, noisy_BCKHW: Tensor, sigma_B: Tensor, actions: Actions, context: WorldPlayContext
    ) -> Tensor:
        """See ``WorldModel.predict_clean``; uses the commands that ``attend`` got.

        Raises:
            ValueError: without ``attend`` for this length, or with both guidance and gradients.
        """
        attended = context.attended_for(noisy_BCKHW.shape[2])
        rows = rows_per_past(len(noisy_BCKHW), context.num_pasts)
        starts = _starts(context).repeat_interleave(rows, 0)
        given = attended.given_K[:, None, None]
        noisy = torch.where(given, starts[:, :, None], noisy_BCKHW.float())
        timesteps_BK = torch.where(
            attended.given_K, STABILIZATION_TIMESTEP, self.timestep_of(sigma_B).float()[:, None]
        )
        places = torch.arange(noisy.shape[2], device=noisy.device) + context.num_latents
        is_start_BK = (places == 0).expand(len(noisy), -1)
        latents = Latents(
            self.family.channels(noisy, starts, is_start_BK),
            timesteps_BK,
            attended.actions.labels_K.repeat_interleave(rows, 0),
            attended.actions.world_from_camera_K44.repeat_interleave(rows, 0),
            attended.actions.intrinsics_K4.repeat_interleave(rows, 0),
            attended.first_position,
        )
        velocity = self._velocity(latents, attended.pasts)
        clean = noisy - sigma_B.float().view(-1, 1, 1, 1, 1) * velocity
        return torch.where(given, starts[:, :, None], clean)

    @torch.no_grad()
    def remember(self, context: WorldPlayContext, clean_PCKHW: Tensor, actions: Actions) -> WorldPlayContext:
        """Append a finished chunk and update the decoder's memory."""
        pasts = []
        for row, past in enumerate(context.pasts):
            clean = clean_PCKHW[row].float()
            chunks = (*past.chunks, (clean, actions.cameras.select(row)))
            decoder = self.decoder.advance(clean[None], past.decoder)
            pasts.append(replace(past, chunks=chunks, decoder=decoder))
        return WorldPlayContext(tuple(pasts), context.num_latents + len(actions))

    @torch.no_grad()
    def decode(self, clean_BCKHW: Tensor, context: WorldPlayContext) -> Tensor:
        """Frames of a chunk, see ``decode_candidates``."""
        memories = [past.decoder for past in context.pasts]
        return decode_candidates(self.decoder, clean_BCKHW, memories, _pixels)

    @torch.no_grad()
    def encode(self, frames_PF3hw: Tensor) -> Tensor:
        """See ``Encoder`` and ``encode_videos``."""
        return encode_videos(self.decoder, frames_PF3hw, self.spec.name, self._device)

    def _begin(self, scenario: Scenario) -> _Past:
        conditioning = scenario.conditioning or {}
        missing = [key for key in self.family.keys if key not in conditioning]
        if missing:
            raise ValueError(
                f"scenario {scenario.id}: {self.spec.name} starts from prepared conditioning with"
                f" {', '.join(self.family.keys)}, {', '.join(missing)} missing: make it with 'worldcompass prepare'"
            )
        if tuple(conditioning["latent"].shape) != self.spec.latent_shape:
            raise ValueError(
                f"scenario {scenario.id}: the start image's latent has shape"
                f" {tuple(conditioning['latent'].shape)}, expected {self.spec.latent_shape}"
            )
        prompts = [conditioning]
        if self.guidance is not None:
            prompts.append({**conditioning, **self.guidance.negative})
        moved = [{key: prompt[key].to(self._device) for key in self.family.keys} for prompt in prompts]
        texts = tuple(self.net(self.family.read(prompt)) for prompt in moved)
        return _Past(texts, moved[0]["latent"].float())

    def _memory(self, context: WorldPlayContext, actions: Actions) -> Latents:
        """The chosen finished latents of each past as inputs of the network; all pasts have the same number."""
        start, latents, commands, places = context.num_latents, [], [], []
        for row, past in enumerate(context.pasts):
            poses = torch.cat([a.world_from_camera_K44 for _, a in past.chunks])
            coming = actions.cameras.world_from_camera_K44[row]
            chosen = select_memory(
                torch.cat([poses, coming]), start, self.points_N3.to(poses.device), self.family.memory
            )
            index = torch.tensor(chosen, device=poses.device)
            latents.append(torch.cat([clean for clean, _ in past.chunks], 1)[:, index])
            commands.append(CameraMoves.join([a for _, a in past.chunks]).pick(index))
            places.append(index)
        stacked, batch = torch.stack(latents), Actions.stack(commands)
        is_start_PK = torch.stack(places) == 0
        return Latents(
            self.family.channels(stacked, _starts(context), is_start_PK),
            torch.full(is_start_PK.shape, STABILIZATION_TIMESTEP, device=stacked.device),
            batch.labels_K,
            batch.world_from_camera_K44,
            batch.intrinsics_K4,
            first_position=0,
        )

    def _velocity(self, latents: Latents, pasts: Sequence[Sequence[Any]]) -> Tensor:
        velocity = self.net(latents, pasts[0]).float()
        if self.guidance is None:
            return velocity
        if torch.is_grad_enabled():
            raise ValueError("guidance is for play: train without it, or disable gradients")
        negative = self.net(latents, pasts[1]).float()
        return negative + self.guidance.scale * (velocity - negative)


def begun_context(texts: Sequence[tuple[Any, ...]], starts_CHW: Sequence[Tensor]) -> WorldPlayContext:
    """A context as from ``begin``, for given outputs of the text branch and latents of the start images."""
    return WorldPlayContext(tuple(_Past(text, start) for text, start in zip(texts, starts_CHW, strict=True)))


def _pixels(frames_BF3hw: Tensor) -> Tensor:
    return (frames_BF3hw.clamp(0, 1) * 255).round().to(torch.uint8)


def _starts(context: WorldPlayContext) -> Tensor:
    return torch.stack([past.start_CHW for past in context.pasts])


def _read_8b(conditioning: Mapping[str, Tensor]) -> TextStates:
    """Make the 8B's text input; image states that are all zero mean no image (text to video)."""
    vision = conditioning["vision_states"]
    return TextStates(
        conditioning["text_states"],
        conditioning["text_mask"],
        conditioning["byt5_states"],
        conditioning["byt5_mask"],
        vision if bool(vision.any()) else None,
    )


def _with_start(latents_BCKHW: Tensor, start_BCHW: Tensor, is_start_BK: Tensor) -> Tensor:
    """Latents, the start image's latent at its position with zeros elsewhere, and a mask of its position."""
    mask = is_start_BK[:, None, :, None, None].to(latents_BCKHW).expand_as(latents_BCKHW[:, :1])
    return torch.cat([latents_BCKHW, start_BCHW[:, :, None] * mask, mask], 1)


def _latents_only(latents_BCKHW: Tensor, start_BCHW: Tensor, is_start_BK: Tensor) -> Tensor:
    return latents_BCKHW


FAMILY_8B = Family(
    name="worldplay-8b",
    memory=MEMORY_8B,
    shift=5.0,  # released for 480p
    num_steps=40,  # of WorldCompass's rollouts
    fps=24.0,
    gives_start=False,
    keys=("latent", "text_states", "text_mask", "byt5_states", "byt5_mask", "vision_states"),
    read=_read_8b,
    channels=_with_start,
)
FAMILY_5B = Family(
    name="worldplay-5b",
    memory=MEMORY_5B,
    shift=8.0,  # of the released timesteps 1000, 960, 888.9, 727.3
    num_steps=4,  # the released weights are distilled to them
    fps=16.0,  # of the released inference
    gives_start=True,
    keys=("latent", "text_states"),
    read=lambda conditioning: Caption(conditioning["text_states"]),
    channels=_latents_only,
)
