"""Where learning happens: the chunk of a step by how fast the rewards of each chunk change.

A teacher prefers tasks on which the score changes fastest, in either direction, so that what is being forgotten is
practised too (Teacher-Student Curriculum Learning, arXiv 1707.00183; absolute learning progress, arXiv 1910.07224).
There is no state besides ``metrics.jsonl``, so a resumed run makes the same choices.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from worldcompass.seeding import Key, generator_for
from worldcompass.training.balance import History, gain

VISITS = 2  # of every chunk in order before progress counts
WINDOW = 4  # newest visits of a chunk that are compared, the later half with the earlier one
UNIFORM = 0.2  # share of the choices that ignore progress


def chunk_by_progress(history: History, chunks: Sequence[int], keys: tuple[Key, ...]) -> int:
    """The chunk to train: every one ``VISITS`` times in order, then by chance as ``shares`` says.

    Args:
        history: metrics of the earlier steps, oldest first.
        chunks: of the curriculum, from short to long pasts.
        keys: of the choice, such as the step.
    """
    visits = [sum(row.chunk == chunk for row in history) for chunk in chunks]
    if min(visits) < VISITS:
        return chunks[visits.index(min(visits))]
    drawn = torch.multinomial(shares(history, chunks), 1, generator=generator_for("progress", *keys))
    return chunks[int(drawn)]


def shares(history: History, chunks: Sequence[int]) -> Tensor:
    """Probability of each chunk, float64: its share of all progress, and a floor; equal without any progress."""
    found = torch.tensor([progress_of(history, chunk) for chunk in chunks], dtype=torch.float64)
    equal = torch.full_like(found, 1 / len(found))
    return equal if not found.sum() else UNIFORM * equal + (1 - UNIFORM) * found / found.sum()


def progress_of(history: History, chunk: int) -> float:
    """Absolute change of a chunk's rewards between the earlier and the later half of its newest visits.

    A visit counts as the weighted mean of its rewards, each in units of its spread at the first visit.
    """
    visits = [row.rewards for row in history if row.chunk == chunk]
    values: list[float] = []
    for now in visits:
        valid = [name for name, reward in now.items() if reward.valid and visits[0][name].valid]
        weights = [now[name].weight or 0.0 for name in valid]
        gained = [gain(visits[0][name], now[name]) for name in valid]
        if sum(weights):
            values.append(sum(w * g for w, g in zip(weights, gained, strict=True)) / sum(weights))
    recent = values[-WINDOW:]
    half = len(recent) // 2
    if not half:
        return 0.0
    return abs(sum(recent[-half:]) / half - sum(recent[:half]) / half)
