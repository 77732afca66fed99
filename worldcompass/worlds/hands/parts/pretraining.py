"""Pretraining of the second Hands network from recordings of the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from worldcompass.types import ControlValues
from worldcompass.worlds.hands.facts import FRAMES_PER_LATENT
from worldcompass.worlds.hands.outlines import outlines
from worldcompass.worlds.hands.parts.autoencoder import PartsAutoencoder
from worldcompass.worlds.hands.parts.layers import LEAST, middles
from worldcompass.worlds.hands.parts.transformer import PartsTransformer
from worldcompass.worlds.hands.parts.world import WEIGHTS, PartsWorld
from worldcompass.worlds.hands.recording import FORMAT, HandsEpisode
from worldcompass.worlds.small.pretraining.between import between_loss, between_psnr, frames_up_to
from worldcompass.worlds.small.pretraining.blueprint import MIXING, Blueprint
from worldcompass.worlds.small.pretraining.pictures import Pictures, PictureStage, to_unit

GAMMA, SEER_NOISE = 0.3, 0.03  # largest logarithm of a gamma; largest noise on pictures that are taken apart
MISPLACED = 0.05  # weight of a pixel that a thing is off


def actions_of(episode: HandsEpisode) -> ControlValues:
    """The controls that were really commanded: the gripper obeys within its range."""
    return ControlValues(torch.from_numpy(np.array(episode.controls_M4))[:, None])


def planes_of(episode: HandsEpisode, latents: Sequence[int]) -> Tensor:
    """Pictures with true outlines, of ``PARTS``; (n, 10, h, w) in [0, 1]."""
    ends = [latent * FRAMES_PER_LATENT for latent in latents]
    seen = np.stack([outlines(episode.grip_F4[end], episode.things_FT7[end]) for end in ends])
    return torch.cat([to_unit(episode.frames_Fhw3[ends]), torch.from_numpy(seen).float() / 255], 1)


def apart_of(episode: HandsEpisode, latent: int) -> tuple[np.ndarray, ...]:
    """What the stages learn from: pictures before the latent's own, and what its own one is made of.

    See ``frames_up_to``; then the empty table, the picture without the gripper, and outlines, uint8 each.
    """
    end = latent * FRAMES_PER_LATENT
    seen = outlines(episode.grip_F4[end], episode.things_FT7[end])
    parts = (np.moveaxis(x, -1, 0) for x in (episode.table_hw3, episode.bare_Mhw3[latent]))
    return (*frames_up_to(episode, latent, FRAMES_PER_LATENT), *parts, seen)


def seer_loss(net: PartsAutoencoder, pictures: Pictures, generator: torch.Generator) -> Tensor:
    """Errors of table, of things without the gripper, and of outlines.

    Colours are changed at random and alike in all pictures, so that what it learns holds for colours that it has
    never seen. Pictures get a little noise: those of latents are not exact.
    """
    table, bare, seen = (x.float() / 255 for x in pictures.truth[-3:])
    frames, table, bare = recoloured((pictures.frames_B3hw, table, bare), generator)
    level = SEER_NOISE * torch.rand(len(frames), 1, 1, 1, generator=generator).to(frames.device)
    noise = torch.randn(frames.shape, generator=generator).to(frames.device)
    apart = net.seer(frames + level * noise)
    drawn = _picture_error(apart.table_N3hw, table) + _picture_error(apart.things_N3hw, bare)
    crossed = functional.binary_cross_entropy_with_logits(apart.logits_NLhw, seen)
    return 4 * drawn + 2 * crossed + 0.3 * _apartness(apart.outlines_NLhw, seen)


def recoloured(pictures: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Pictures (B, 3, h, w) whose rows have colour channels in another order and other gammas, some of them."""
    count, device = len(pictures[0]), pictures[0].device
    order = torch.rand(count, 3, generator=generator).argsort(1)
    keep = torch.rand(count, 1, generator=generator) < 0.5
    order = torch.where(keep, torch.arange(3), order)[..., None, None].to(device)
    gamma = (GAMMA * (2 * torch.rand(count, 3, 1, 1, generator=generator) - 1)).exp().to(device)
    return [x.gather(1, order.expand_as(x)).clamp_min(1e-4) ** gamma for x in pictures]


def _picture_error(found: Tensor, true: Tensor) -> Tensor:
    error = found - true
    return error.abs().mean() + error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


def _apartness(found_NLhw: Tensor, true_NLhw: Tensor) -> Tensor:
    """1 less the Dice coefficient, of outlines that are there: small things count as much as large ones."""
    both = (found_NLhw * true_NLhw).sum((2, 3))
    either = found_NLhw.sum((2, 3)) + true_NLhw.sum((2, 3))
    there = true_NLhw.sum((2, 3)) > LEAST
    return ((1 - (2 * both + 1) / (either + 1)) * there).sum() / there.sum().clamp_min(1)


def misplaced(autoencoder: PartsAutoencoder, guessed_NCHW: Tensor, true_NCHW: Tensor) -> Tensor:
    """By how much the parts' outlines are elsewhere than they truly are, where both show them.

    Outlines that do not overlap say by their pixels only that they are wrong, and not in which direction.
    """
    (guessed, found), (true, size) = (
        middles(autoencoder.look(x).outlines) for x in (guessed_NCHW, true_NCHW)
    )
    shown = ((found > LEAST) & (size > LEAST))[..., None]
    error = functional.smooth_l1_loss(guessed, true, reduction="none", beta=0.5) * shown
    return MISPLACED * error.sum() / (2 * shown.sum()).clamp_min(1)


BLUEPRINT = Blueprint(
    recordings=FORMAT,
    weights=WEIGHTS,
    autoencoder=PartsAutoencoder,
    net=lambda autoencoder: PartsTransformer(autoencoder.code),
    world=PartsWorld,
    actions_of=actions_of,
    stages=(PictureStage("between", 0.25, between_loss), PictureStage("seer", 0.75, seer_loss)),
    truth_of=apart_of,
    measure_pictures=between_psnr,
    planes_of=planes_of,
    misplaced=misplaced,
    teaching=replace(MIXING, blurred_share=0.0, imagined_share=0.15, level_floor=1.0),
)
