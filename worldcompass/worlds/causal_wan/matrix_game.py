"""Matrix-Game 2 and ForgeWM: causal Wan2.1 with keyboard and mouse; their checkpoints, start images and windows.

Sources: Skywork/Matrix-Game-2.0 and asdfo123/ForgeWM, whose networks are the same. The start image is a condition,
not a given latent: latent 0 is imagined like all others. There is no text.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldcompass.errors import UnfitInputs
from worldcompass.noise import Sampler, Schedule, ShiftedLevels, euler_step, fresh_noise_step
from worldcompass.types import Scenario
from worldcompass.world import WorldSpec
from worldcompass.worlds.causal_wan.action_module import SEEN_LATENTS, ActionConfig, ActionModule
from worldcompass.worlds.causal_wan.config import Config
from worldcompass.worlds.causal_wan.controls import DRIVER, RUNNER, WALKER, Devices
from worldcompass.worlds.causal_wan.levels import FOUR_STEPS, SHIFT, warped_levels
from worldcompass.worlds.causal_wan.memory import Window
from worldcompass.worlds.causal_wan.network import CausalWan, Latents
from worldcompass.worlds.causal_wan.world import CausalWanWorld, Chunk, Start
from worldcompass.worlds.open.causal import FRAMES_PER_LATENT
from worldcompass.worlds.open.decoder import Decoder

CHUNK = 3  # latents
LATENT_SIZE = (44, 80)  # cells of 352 x 640 pixels
FPS = 12.0  # of the videos that both projects write
TOKENS_WIDTH = 1280  # of the image encoder
MASK_CHANNELS = 4  # of the image condition, before its latent's channels
LATENTS, TOKENS = "image_latents", "image_tokens"
"""Entries of a scenario's conditioning: the latents (C, T, H, W) of the start image and grey frames after it, the
last of which stands for all later ones, and the image encoder's tokens (L, E)."""

# Layers with adapters in a LoRA run.
LORA_TARGETS = (
    r"blocks\.\d+\.(self_attn\.(q|k|v|o)|cross_attn\.(q|o)|ffn\.[02]"
    r"|action_model\.(mouse_attn_q|keyboard_attn_kv|proj_keyboard|t_qkv|proj_mouse|mouse_mlp\.[02]))"
)


@dataclass(frozen=True)
class Sight:
    """Which latents a chunk sees, those of the chunk itself included; None for all."""

    latents: int | None = None
    """Of self-attention."""
    action_latents: int | None = None
    """Of the attentions to mouse and keyboard."""
    tokens: int | None = None
    """Tokens of self-attention at most; they may cut a latent in two, as in ForgeWM's last stage of training."""

    def __post_init__(self) -> None:
        for window in self.windows:
            window.check(CHUNK)

    @property
    def windows(self) -> tuple[Window, Window]:
        """Of self-attention, and of the attentions to actions."""
        return Window(self.latents), Window(self.action_latents)


@dataclass(frozen=True)
class Variant:
    """What the published checkpoints differ in."""

    name: str
    devices: Devices
    num_keys: int
    action_blocks: tuple[int, ...]
    """Blocks with a module for actions."""
    schedule: Schedule
    sampler: Sampler
    sight: Sight
    has_mouse: bool = True
    guided: str = ""
    """Why candidates cannot differ by guidance, when the checkpoint was distilled with it."""

    def check(self, config: Config, actions: ActionConfig) -> None:
        """Check that a network is of this kind.

        Raises:
            UnfitInputs: in one sentence.
        """
        found = (actions.num_keys, actions.has_mouse, config.action_blocks)
        if found != (self.num_keys, self.has_mouse, self.action_blocks):
            raise UnfitInputs(
                f"the checkpoint has {_words(*found)}: {self.name} has"
                f" {_words(self.num_keys, self.has_mouse, self.action_blocks)}; give its own file, or name the"
                " variant of this one"
            )


def _words(num_keys: int, has_mouse: bool, blocks: tuple[int, ...]) -> str:
    mouse = "a mouse" if has_mouse else "no mouse"
    return f"{num_keys} keys, {mouse} and modules for actions in {len(blocks)} blocks"


_HALF, _ALL = tuple(range(15)), tuple(range(30))
_THREE, _FOUR = warped_levels((1000, 666, 333)), warped_levels(FOUR_STEPS)
_MANY = ShiftedLevels(SHIFT, 50)
_OFFICIAL = Sight(None, 15)  # of ForgeWM's published inference, whatever its README says

UNIVERSAL = Variant("matrix-game-2-universal", WALKER, 4, _HALF, _THREE, fresh_noise_step, Sight(6, 6))
GTA = Variant("matrix-game-2-gta", DRIVER, 2, _HALF, _THREE, fresh_noise_step, Sight(4, 4))
TEMPLE_RUN = Variant(
    "matrix-game-2-temple-run", RUNNER, 7, _HALF, _FOUR, fresh_noise_step, Sight(6, 6), has_mouse=False
)
BASE = Variant("matrix-game-2-base", WALKER, 6, _ALL, _MANY, euler_step, _OFFICIAL)
FORGEWM_1 = Variant("forgewm-stage-1", WALKER, 6, _ALL, _MANY, euler_step, _OFFICIAL)
FORGEWM_3 = Variant(
    "forgewm-stage-3", WALKER, 6, _HALF, _FOUR, fresh_noise_step, _OFFICIAL,
    guided="was distilled from a teacher that was guided by the commands",
)  # fmt: skip


@dataclass(frozen=True)
class GameHead:
    """Implements ``Head``: a start image, and the settings of keyboard and mouse of every frame."""

    variant: Variant
    actions: ActionConfig
    tokens_width: int
    """Dimensions of the image encoder's tokens."""
    latent_shape: tuple[int, int, int]

    def start(self, scenario: Scenario, device: torch.device) -> Start:
        """See ``Head``."""
        conditioning = scenario.conditioning or {}
        missing = [key for key in (LATENTS, TOKENS) if key not in conditioning]
        if missing:
            raise UnfitInputs(
                f"scenario {scenario.id}: {self.variant.name} starts from prepared conditioning with {LATENTS} and"
                f" {TOKENS}, {' and '.join(missing)} missing: make it with 'worldcompass prepare'"
            )
        latents, tokens = (conditioning[key].float().to(device) for key in (LATENTS, TOKENS))
        channels, height, width = self.latent_shape
        fits = latents.ndim == 4 and (latents.shape[0], *latents.shape[2:]) == self.latent_shape
        if not fits or tokens.ndim != 2 or tokens.shape[1] != self.tokens_width:
            raise UnfitInputs(
                f"scenario {scenario.id}: the start image has latents {tuple(latents.shape)} and tokens"
                f" {tuple(tokens.shape)}, expected ({channels}, T, {height}, {width}) and (L, {self.tokens_width}):"
                f" prepare it for {self.variant.name}"
            )
        space, settings = self.variant.devices.space, scenario.actions.controls.values_KTA
        if tuple(settings.shape[-2:]) != (space.per_latent, len(space.controls)):
            raise UnfitInputs(
                f"scenario {scenario.id}: the commands have shape {tuple(settings.shape)}, expected"
                f" (M, {space.per_latent}, {len(space.controls)}) of {space.describe()}: make them for this world"
            )
        return Start((tokens,), other=latents)

    def inputs(self, chunk: Chunk) -> Latents:
        """See ``Head``: 16 channels of the latent, 4 of the mask, 16 of the image condition."""
        count = chunk.latents_BCKHW.shape[2]
        condition = torch.stack([condition_of(start.other, chunk.first, count) for start in chunk.starts])
        before = None
        if chunk.before is not None:
            oldest = max(0, chunk.first - SEEN_LATENTS + 1)
            before = chunk.before.latents(oldest, chunk.first).controls.values_KTA
        settings = chunk.actions.controls.values_KTA.to(chunk.latents_BCKHW)
        return Latents(
            torch.cat([chunk.latents_BCKHW, condition], 1),
            chunk.timesteps_BK,
            chunk.first,
            actions=self.variant.devices.windows(settings, before, chunk.first, self.actions.num_keys),
        )


def condition_of(image_CTHW: Tensor, first: int, count: int) -> Tensor:
    """The image condition of latents, (C, K, H, W): a mask of latent 0, then latents of the image and grey frames.

    Args:
        image_CTHW: latents of the image and grey frames after it, of which the last one stands for all later ones.
        first: index of the first latent in the video.
        count: of the latents.
    """
    places = torch.arange(first, first + count, device=image_CTHW.device)
    latents = image_CTHW[:, places.clamp(max=image_CTHW.shape[1] - 1)]
    mask = (places == 0).to(latents)[None, :, None, None]
    return torch.cat([mask.expand(MASK_CHANNELS, -1, *latents.shape[2:]), latents])


def matrix_game(
    net: CausalWan,
    decoder: Decoder,
    variant: Variant,
    latent_size: tuple[int, int] = LATENT_SIZE,
    sight: Sight | None = None,
) -> CausalWanWorld:
    """The world of a network and a decoder.

    Args:
        net: with modules for actions.
        decoder: turns latents into frames.
        variant: of the network's weights.
        latent_size: cells of a latent, (height, width).
        sight: which latents a chunk sees; the variant's own when None.

    Raises:
        UnfitInputs: for the network of another variant, or a size that patches do not divide.
    """
    actions = actions_of(net)
    variant.check(net.config, actions)
    (height, width), (_, rows, columns) = latent_size, net.config.patch
    if height % rows or width % columns:
        raise UnfitInputs(
            f"latents of {height}x{width} cells cannot be split into patches of {rows}x{columns}: use a frame size"
            " that they divide"
        )
    spec = WorldSpec(
        name=variant.name,
        latent_shape=(net.config.latent_channels, height, width),
        chunk_lengths=(CHUNK,),
        frames_per_latent=FRAMES_PER_LATENT,
        fps=FPS,
        frame_size=(height * decoder.pixels_per_cell, width * decoder.pixels_per_cell),
        schedule=variant.schedule,
        actions=variant.devices.space,
        batches_pasts=True,
        sampler=variant.sampler,
    )
    head = GameHead(variant, actions, net.config.states_width, spec.latent_shape)
    seen = sight or variant.sight
    return CausalWanWorld(spec, net, decoder, head, *seen.windows, most_tokens=seen.tokens)


def sizes_of(variant: Variant) -> tuple[Config, ActionConfig]:
    """The sizes of the published network of a variant."""
    config = Config(
        in_channels=2 * Config.out_channels + MASK_CHANNELS,
        reads="image",
        states_width=TOKENS_WIDTH,
        by_camera=False,
        action_blocks=variant.action_blocks,
    )
    return config, ActionConfig(variant.num_keys, variant.has_mouse)


def actions_of(net: CausalWan) -> ActionConfig:
    """The sizes of a network's modules for actions.

    Raises:
        UnfitInputs: when it has none.
    """
    module = next((m for m in net.modules() if isinstance(m, ActionModule)), None)
    if module is None:
        raise UnfitInputs("the network has no modules for keyboard and mouse: give Matrix-Game 2 or ForgeWM")
    return module.config


def build(config: Config, actions: ActionConfig, recompute: bool = False) -> CausalWan:
    """A network with modules for keyboard and mouse."""
    return CausalWan(config, lambda whole: ActionModule(whole.width, actions), recompute)
