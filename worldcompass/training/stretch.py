"""Which latents a step trains, in which way of walking: functions of the step, so that resumed runs repeat them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from worldcompass.training.balance import History
from worldcompass.training.curriculum import Sampling, chunk_of_step
from worldcompass.ways import PLAY, ROLLOUT
from worldcompass.world import WorldSpec


@dataclass(frozen=True)
class Stretch:
    """The latents whose futures a step imagines: one chunk of one way of walking."""

    way: str
    """``rollout`` or ``play``."""
    chunk: int
    """Counted from 0 in chunks of this way."""
    chunk_length: int
    """Latents of the chunk, and of every chunk before it."""
    num_steps: int
    """Denoising steps of all these chunks."""
    group_size: int
    """Candidates of a group."""


def stretch_of_step(sampling: Sampling, spec: WorldSpec, step: int, history: History = ()) -> Stretch:
    """The stretch of a step, counted from 1; ``history`` as for ``chunk_of_step``.

    A step in the way ``play`` trains the last latents of the chunk that the curriculum names, so that both ways see
    pasts of the same lengths. ``denoising_steps`` belongs to ``rollout`` alone: what is played is trained as it is
    played.
    """
    chunk, length = chunk_of_step(sampling, step, history), rollout_length(sampling, spec)
    if not plays(sampling, step):
        return Stretch(
            ROLLOUT, chunk, length, sampling.denoising_steps or spec.num_steps, sampling.group_size
        )
    play = spec.ways[PLAY]
    last = (chunk + 1) * length // play.chunk_length - 1
    size = sampling.play_group_size or sampling.group_size
    return Stretch(PLAY, last, play.chunk_length, play.num_steps, size)


def rollout_length(sampling: Sampling, spec: WorldSpec) -> int:
    """Latents of a chunk in the way ``rollout``."""
    return sampling.chunk_length or spec.ways[ROLLOUT].chunk_length


def plays(sampling: Sampling, step: int) -> bool:
    """Whether a step trains in the way ``play``.

    Every chunk of the curriculum gets its share of visits, and so does every pass through the curriculum: the turn
    moves on by one chunk from pass to pass.
    """
    passes, place = divmod(step - 1, sampling.last_chunk - sampling.first_chunk + 1)
    turn = passes + place
    return _whole(sampling.play_share * (turn + 1)) > _whole(sampling.play_share * turn)


def _whole(share: float) -> int:
    return math.floor(share + 1e-9)  # 10 times 0.1 is a whole
