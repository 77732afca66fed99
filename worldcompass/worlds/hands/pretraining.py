"""Pretraining of the Hands world from recordings of its engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from worldcompass.types import ControlValues
from worldcompass.worlds.hands.actions import ACTIONS
from worldcompass.worlds.hands.facts import FRAME_SIZE, FRAMES_PER_LATENT
from worldcompass.worlds.hands.network.autoencoder import HandsAutoencoder
from worldcompass.worlds.hands.network.physics import physics_loss
from worldcompass.worlds.hands.network.seer import LEAST
from worldcompass.worlds.hands.network.state import State, as_planes, numbers_of
from worldcompass.worlds.hands.network.transformer import HandsTransformer
from worldcompass.worlds.hands.outlines import outlines
from worldcompass.worlds.hands.recording import FORMAT, HandsEpisode
from worldcompass.worlds.hands.splits import seed_of
from worldcompass.worlds.hands.world import WEIGHTS, HandsWorld
from worldcompass.worlds.small.pretraining.between import between_loss, between_psnr, frames_up_to
from worldcompass.worlds.small.pretraining.blueprint import MIXING, Blueprint
from worldcompass.worlds.small.pretraining.pictures import Pictures, PictureStage, to_unit

GAMMA, SEER_NOISE = 0.3, 0.03  # largest logarithm of a gamma; largest noise on pictures that are taken apart
PLACED = 0.02  # weight of a centimetre that a part is off where a picture is taken apart
MISPLACED = 0.2  # weight of a centimetre that a part is off in a chunk
ROW, STRETCHES = 6, 12  # latents in a row that physics are learned from, and such rows of an episode


def actions_of(episode: HandsEpisode) -> ControlValues:
    """The controls that were really commanded: the gripper obeys within its range."""
    return ControlValues(torch.from_numpy(np.array(episode.controls_M4))[:, None])


def labels_of(episode: HandsEpisode, wrong_share: float) -> ControlValues:
    """Commands as labels of found videos would have them: a share of the latents says any of the 81 instead."""
    true = actions_of(episode)
    rng = np.random.default_rng(seed_of("labels", "train", int(episode.number)))
    wrong = torch.from_numpy(rng.random(len(true)) < wrong_share)
    wrong[0] = False
    drawn = torch.from_numpy(rng.integers(ACTIONS.num_composites, size=len(true)))
    return ControlValues(
        torch.where(wrong[:, None, None], ACTIONS.commanded(drawn).values_KTA, true.values_KTA)
    )


def blueprint_of(wrong_share: float) -> Blueprint[HandsEpisode]:
    """The world, taught by commands of which a share is wrong."""
    return replace(BLUEPRINT, labels_of=partial(labels_of, wrong_share=wrong_share))


def numbers_at(episode: HandsEpisode, latents: Sequence[int]) -> np.ndarray:
    """True ``State.numbers`` at the end of latents, (n, D); at the start nothing moves."""
    ends = [latent * FRAMES_PER_LATENT for latent in latents]
    before = [max(0, end - FRAMES_PER_LATENT) for end in ends]
    grip, things = episode.grip_F4, episode.things_FT7
    rows = zip(grip[ends], things[ends], things[before], strict=True)
    return np.stack([numbers_of(*row) for row in rows])


def planes_of(episode: HandsEpisode, latents: Sequence[int]) -> Tensor:
    """Pictures in [0, 1] with the true state; (n, 3 + D, h, w)."""
    pictures = to_unit(episode.frames_Fhw3[[latent * FRAMES_PER_LATENT for latent in latents]])
    numbers = torch.from_numpy(numbers_at(episode, latents))
    return torch.cat([pictures, as_planes(numbers, FRAME_SIZE)], 1)


def apart_of(episode: HandsEpisode, latent: int) -> tuple[np.ndarray, ...]:
    """What the stages learn from: pictures before the latent's own, and what its own one is made of.

    See ``frames_up_to``; then the empty table, the picture without the gripper, and outlines, uint8 each; the
    states of the whole episode (M, D), and which one is the picture's.
    """
    end = latent * FRAMES_PER_LATENT
    seen = outlines(episode.grip_F4[end], episode.things_FT7[end])
    parts = (np.moveaxis(x, -1, 0) for x in (episode.table_hw3, episode.bare_Mhw3[latent]))
    states = numbers_at(episode, range(FORMAT.num_latents(episode)))
    return (*frames_up_to(episode, latent, FRAMES_PER_LATENT), *parts, seen, states, np.array(latent))


def seer_loss(net: HandsAutoencoder, pictures: Pictures, generator: torch.Generator) -> Tensor:
    """Errors of table, of things without the gripper, of outlines, and of where everything is.

    Colours are changed at random and alike in all pictures, so that what it learns holds for colours that it has
    never seen. Pictures get a little noise: those of latents are not exact.
    """
    table, bare, seen = (x.float() / 255 for x in pictures.truth[1:4])
    states, latent = pictures.truth[4:]
    true = State.of(states[torch.arange(len(states)), latent])
    frames, table, bare = recoloured((pictures.frames_B3hw, table, bare), generator)
    level = SEER_NOISE * torch.rand(len(frames), 1, 1, 1, generator=generator).to(frames.device)
    noise = torch.randn(frames.shape, generator=generator).to(frames.device)
    apart = net.seer(frames + level * noise)
    drawn = _picture_error(apart.table_N3hw, table) + _picture_error(apart.things_N3hw, bare)
    crossed = functional.binary_cross_entropy_with_logits(apart.logits_NLhw, seen)
    placed = PLACED * place_error(apart.state, true)
    return 4 * drawn + 2 * crossed + 0.3 * _apartness(apart.outlines_NLhw, seen) + placed


def learn_physics(net: HandsAutoencoder, pictures: Pictures, generator: torch.Generator) -> Tensor:
    """``physics_loss`` of some stretches of each picture's episode."""
    states = pictures.truth[4].repeat_interleave(STRETCHES, 0)
    return physics_loss(net.physics, states, generator, ROW)


def place_error(found: State, true: State) -> Tensor:
    """How far gripper and things are off, in centimetres beyond a few millimetres, and by how much things lean."""
    here = true.here_T[..., None].float()
    grip, middle = (
        functional.smooth_l1_loss(100 * a, 100 * b, reduction="none", beta=0.5)
        for a, b in ((found.grip_4, true.grip_4), (found.middle_T3, true.middle_T3))
    )
    turned = (found.up_T3 - true.up_T3).abs()
    return grip.mean() + ((middle + turned) * here).sum() / (3 * here.sum()).clamp_min(1)


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


def misplaced(autoencoder: HandsAutoencoder, guessed_NCHW: Tensor, true_NCHW: Tensor) -> Tensor:
    """By how much the parts are elsewhere than they truly are."""
    guessed, true = (autoencoder.look(x).state for x in (guessed_NCHW, true_NCHW))
    return MISPLACED * place_error(guessed, true)


BLUEPRINT = Blueprint(
    recordings=FORMAT,
    weights=WEIGHTS,
    autoencoder=HandsAutoencoder,
    net=HandsTransformer,
    world=HandsWorld,
    actions_of=actions_of,
    stages=(
        PictureStage("between", 0.2, between_loss),
        PictureStage("seer", 0.5, seer_loss),
        PictureStage("physics", 0.3, learn_physics),
    ),
    truth_of=apart_of,
    measure_pictures=between_psnr,
    planes_of=planes_of,
    misplaced=misplaced,
    teaching=replace(MIXING, blurred_share=0.0, imagined_share=0.15, past_noise=0.1, level_floor=1.0),
)
