"""minWM: causal Wan2.1 that follows a camera, from a prompt alone; its stages, prompts and cameras.

Source: shengshu-ai/minWM, tag v0.1-legacy, folder ``Wan21``. It has no start image: latent 0 is imagined too. A
given video is continued by whole chunks of its latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from worldcompass.errors import UnfitInputs
from worldcompass.noise import Sampler, Schedule, ShiftedLevels, euler_step, fresh_noise_step
from worldcompass.types import Scenario
from worldcompass.world import WorldSpec
from worldcompass.worlds.causal_wan.config import Config
from worldcompass.worlds.causal_wan.levels import FOUR_STEPS, SHIFT, warped_levels
from worldcompass.worlds.causal_wan.memory import Window
from worldcompass.worlds.causal_wan.network import CausalWan, Latents
from worldcompass.worlds.causal_wan.world import CausalWanWorld, Chunk, Start
from worldcompass.worlds.open.causal import FRAMES_PER_LATENT
from worldcompass.worlds.open.decoder import Decoder
from worldcompass.worlds.open.poses import MOTION, THRESHOLDS, WorldPlayActions
from worldcompass.worlds.open.prope import cameras

CHUNK = 4  # latents, num_frame_per_block
LATENT_SIZE = (60, 104)  # cells of 480 x 832 pixels
FPS = 16.0
WINDOW = Window(20)  # local_attn_size; as long as the training's videos
ACTIONS = WorldPlayActions(MOTION, THRESHOLDS)  # whose trajectories minWM was trained on
EULER_STEPS = 48  # of the official data for students, with which stage 1 is sampled by Euler
TEXT, VIDEO = "text_states", "latents"
"""Entries of a scenario's conditioning: the prompt's states, and the latents of a given video if there is one."""

# Layers with adapters in a LoRA run: those that read the video.
LORA_TARGETS = r"blocks\.\d+\.(self_attn\.(q|k|v|o|prope_o)|cross_attn\.(q|o)|ffn\.[02])"


@dataclass(frozen=True)
class Stage:
    """One of the released checkpoints; all have the same network."""

    name: str
    """Its folder in the release."""
    schedule: Schedule
    sampler: Sampler
    takes_guidance: bool


_STUDENT = (warped_levels(FOUR_STEPS), fresh_noise_step, False)
STAGES = {
    stage.name: stage
    for stage in (
        Stage("dmd", *_STUDENT),
        Stage("causal_cd", *_STUDENT),
        Stage("causal_ode", *_STUDENT),
        Stage("ar_diffusion_tf", ShiftedLevels(SHIFT, EULER_STEPS), euler_step, True),
    )
}
NOT_CAUSAL = "bidirectional"  # the stage before all of them, which denoises whole videos


def stage_of(name: str) -> Stage:
    """The stage of this name.

    Raises:
        UnfitInputs: with the known names, and the reason why one is missing.
    """
    if name in STAGES:
        return STAGES[name]
    why = " is not causal, so it imagines no chunks" if name == NOT_CAUSAL else " is no stage of minWM"
    raise UnfitInputs(f"{name}{why}: expected one of {', '.join(STAGES)}")


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance, only for play: ``flow = negative + scale (flow - negative)``.

    The negative prompt has a past of its own; cameras are the same, so that guidance strengthens the prompt alone.
    """

    scale: float
    text_LE: Tensor
    """The encoder's states of the negative prompt."""


@dataclass(frozen=True)
class CameraHead:
    """Implements ``Head``: a prompt at the start, and the camera of every latent."""

    config: Config
    latent_size: tuple[int, int]
    negative_LE: Tensor | None = None

    def start(self, scenario: Scenario, device: torch.device) -> Start:
        """See ``Head``."""
        conditioning = scenario.conditioning or {}
        if TEXT not in conditioning:
            raise UnfitInputs(
                f"scenario {scenario.id}: minWM starts from prepared conditioning with {TEXT}, which is missing:"
                " make it with 'worldcompass prepare'"
            )
        prompts = [conditioning[TEXT], *([] if self.negative_LE is None else [self.negative_LE])]
        for text in prompts:
            self._check_text(scenario.id, text)
        video = self._video(scenario.id, conditioning)
        return Start(
            tuple(text.to(device) for text in prompts), None if video is None else video.float().to(device)
        )

    def inputs(self, chunk: Chunk) -> Latents:
        """See ``Head``. Cameras and their transforms stay in float32."""
        moves = chunk.actions.cameras
        by = cameras(moves.world_from_camera_K44, moves.intrinsics_K4)
        return Latents(chunk.latents_BCKHW, chunk.timesteps_BK, chunk.first, by)

    def _check_text(self, name: str, text_LE: Tensor) -> None:
        length, width = self.config.text_length, self.config.states_width
        if text_LE.ndim != 2 or text_LE.shape[1] != width or not 0 < len(text_LE) <= length:
            raise UnfitInputs(
                f"scenario {name}: {TEXT} has shape {tuple(text_LE.shape)}, expected 1 to {length} states of"
                f" {width} numbers: prepare it again with the text encoder of this model"
            )

    def _video(self, name: str, conditioning: Mapping[str, Tensor]) -> Tensor | None:
        if VIDEO not in conditioning:
            return None
        video, shape = conditioning[VIDEO], (self.config.latent_channels, *self.latent_size)
        fits = video.ndim == 4 and (video.shape[0], *video.shape[2:]) == shape
        if not fits or video.shape[1] == 0 or video.shape[1] % CHUNK:
            raise UnfitInputs(
                f"scenario {name}: the given video's latents have shape {tuple(video.shape)}, expected"
                f" ({shape[0]}, {CHUNK} or a multiple of it, {shape[1]}, {shape[2]})"
            )
        return video


def minwm(
    net: CausalWan,
    decoder: Decoder,
    latent_size: tuple[int, int] = LATENT_SIZE,
    stage: Stage = STAGES["dmd"],
    window: Window = WINDOW,
    guidance: Guidance | None = None,
) -> CausalWanWorld:
    """The world of a network and a decoder.

    Args:
        net: with a text condition and a branch by cameras.
        decoder: turns latents into frames.
        latent_size: cells of a latent, (height, width).
        stage: of the network's weights, which decides levels and sampler.
        window: latents in view, those of the current chunk included.
        guidance: for play.

    Raises:
        UnfitInputs: for the network of another family, a size that patches do not divide, or a student's guidance.
    """
    check_network(net.config)
    height, width = latent_size
    if height % net.config.patch[1] or width % net.config.patch[2]:
        raise UnfitInputs(
            f"latents of {height}x{width} cells cannot be split into patches of"
            f" {net.config.patch[1]}x{net.config.patch[2]}: use a frame size that they divide"
        )
    if guidance is not None and not stage.takes_guidance:
        raise UnfitInputs(
            f"the weights of {stage.name} were distilled to run without guidance: leave it out, or take the stage"
            " ar_diffusion_tf"
        )
    spec = WorldSpec(
        name="minwm",
        latent_shape=(net.config.latent_channels, height, width),
        chunk_lengths=(CHUNK,),
        frames_per_latent=FRAMES_PER_LATENT,
        fps=FPS,
        frame_size=(height * decoder.pixels_per_cell, width * decoder.pixels_per_cell),
        schedule=stage.schedule,
        actions=ACTIONS,
        batches_pasts=True,
        sampler=stage.sampler,
    )
    head = CameraHead(net.config, latent_size, None if guidance is None else guidance.text_LE)
    return CausalWanWorld(
        spec, net, decoder, head, window, scale=None if guidance is None else guidance.scale
    )


def check_network(config: Config) -> None:
    """Check that a network is minWM's.

    Raises:
        UnfitInputs: naming what differs.
    """
    wrong = [
        what
        for what, differs in (
            ("reads a start image", config.reads != "text"),
            ("has no branch by cameras (prope_o)", not config.by_camera),
            ("has modules for keyboard and mouse", bool(config.action_blocks)),
            ("reads further channels", config.in_channels != config.out_channels),
        )
        if differs
    ]
    if wrong:
        raise UnfitInputs(
            f"this network {', '.join(wrong)}, so it is not minWM's: give a checkpoint of minWM"
        )
