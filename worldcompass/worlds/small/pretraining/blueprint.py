"""What a small world is made of, for pretraining: networks, recordings, stages and measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from torch import Tensor

from worldcompass.types import Actions
from worldcompass.worlds.small.autoencoder import Codec
from worldcompass.worlds.small.data import Episode, Format, Shard
from worldcompass.worlds.small.pretraining.pictures import CODE, DECODER, PictureStage
from worldcompass.worlds.small.transformer import ChunkTransformer
from worldcompass.worlds.small.weights import WeightFiles
from worldcompass.worlds.small.world import SmallWorld

E = TypeVar("E", bound=Episode)


def no_truth(episode: Episode, latent: int) -> tuple[np.ndarray, ...]:
    """Pictures without anything else to learn from."""
    return ()


def no_measures(net: Codec, shards: Sequence[Shard[Any]]) -> dict[str, float]:
    """Pictures without a measure of their own."""
    return {}


@dataclass(frozen=True)
class Teaching:
    """How the world model is taught."""

    chunks: int = 3
    """Of a sequence, the first being memory or the start."""
    copies: int = 2
    """Noisy copies of a chunk that share one clean past."""
    sequences: int = 4
    """Of a step."""
    single_share: float = 0.15
    """Share of steps with chunks of one latent, for live play, in worlds that have them."""
    start_share: float = 0.5
    """Share of batches that begin at a start image."""
    past_noise: float = 0.25
    """Largest noise on exact pasts; half of the sequences get some, so that errors do not pile up."""
    shows_start: bool = False
    """Whether every sequence also has the exact start image of its episode as the oldest of its past, for views."""
    blurred_share: float = 0.5
    """Share of batches with blurred pasts."""
    blur: tuple[float, float] = (0.25, 0.9)
    """Standard deviation in pixels; in Doom six imagined chunks lose as many edges as by the largest."""
    blurred_noise: float = 0.0
    """Largest noise on blurred pasts, in the latents' deviation; half of the sequences get some."""
    imagined_share: float = 0.0
    """Share of batches whose pasts the network imagines itself, see ``imagine_past``."""
    imagined_from: int = 500
    """The first step that may have them: before, they are nothing to learn from."""
    fine_share: float = 0.3
    """Share of noise levels in ``fine_levels``: edges are made there, and the usual ones hardly ever lie there."""
    fine_levels: tuple[float, float] = (0.02, 0.5)
    whole_share: float = 0.0
    """Share of levels that are noise alone: sampling begins there, and everything is guessed from the past."""
    level_floor: float = 0.0
    """The squared error of the clean latent is divided by the squared noise level, or by this one where it is
    larger; 0 is the plain error of the velocity."""
    learning_rate: float = 2e-3
    """Of Muon, whose update is scaled to AdamW's size."""


MIXING = Teaching(
    sequences=4,
    start_share=0.4,
    shows_start=True,
    blurred_share=0.25,
    blur=(0.2, 0.6),
    blurred_noise=0.1,
    imagined_share=0.4,
    fine_share=0.05,
    whole_share=0.5,
    level_floor=0.25,
    learning_rate=3e-3,
)
"""Of worlds whose network mixes views (``MixingTransformer``)."""


@dataclass(frozen=True)
class Blueprint(Generic[E]):
    """A small world and what it learns from."""

    recordings: Format[E]
    weights: WeightFiles
    autoencoder: Callable[[], Codec]
    """A new one."""
    net: Callable[[Any], ChunkTransformer]
    """A new one for the latents of an autoencoder, of which it may keep a copy."""
    world: Callable[[Any, ChunkTransformer], SmallWorld[Any]]
    """The world of an autoencoder and a network."""
    actions_of: Callable[[E], Actions]
    """The actions (M,) that really happened in an episode, as the world's commands would say it."""
    labels_of: Callable[[E], Actions] | None = None
    """What the transformer is told of a training episode instead, such as labels of which some are wrong; held-out
    episodes are always told what happened."""
    stages: tuple[PictureStage, ...] = (CODE, DECODER)
    """Of the autoencoder, one after the other; their shares add up to 1."""
    truth_of: Callable[[E, int], tuple[np.ndarray, ...]] = no_truth
    """What else the stages learn from, about the picture at the end of a latent of an episode."""
    measure_pictures: Callable[[Any, Sequence[Shard[E]]], dict[str, float]] = no_measures
    """The world's own measures of an autoencoder on held-out shards."""
    planes_of: Callable[[E, Sequence[int]], Tensor] | None = None
    """What some latents of an episode hold, (n, p, h, w), where a code has planes beside colour; None for the frame
    at the end of each."""
    misplaced: Callable[[Any, Tensor, Tensor], Tensor] | None = None
    """An error of the world's own, a scalar that is added to its loss: of an autoencoder, guessed clean latents
    (N, C, H, W) and the true ones."""
    memory_distance: Callable[[Actions, Actions], Tensor] | None = None
    """How far latents (B, M) are from targets (B, 1) where training picks a memory; None for the world's own."""
    teaching: Teaching = Teaching()
