"""Folds for cross-fitting: whole groups are held out, so no network is asked about a start that it has seen."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from worldcompass.errors import UnfitInputs
from worldcompass.seeding import generator_for


def folds_of(groups: Sequence[str], count: int, seed: int) -> list[int]:
    """The fold of every scenario; groups are dealt from the largest to the smallest fold-filling.

    Raises:
        UnfitInputs: when there are fewer groups than folds.
    """
    names = sorted(set(groups))
    if len(names) < count:
        raise UnfitInputs(
            f"the scenarios begin at {len(names)} different places, a judge needs {count} or more: add scenarios"
        )
    order = torch.randperm(len(names), generator=generator_for(seed, "folds")).tolist()
    shuffled = sorted((names[i] for i in order), key=lambda name: -list(groups).count(name))
    sizes, fold_of = [0] * count, {}
    for name in shuffled:
        smallest = sizes.index(min(sizes))
        fold_of[name] = smallest
        sizes[smallest] += list(groups).count(name)
    return [fold_of[group] for group in groups]


def check_folds(folds: Sequence[int], groups: Sequence[str]) -> None:
    """Refuse folds that leak.

    Raises:
        UnfitInputs: with a group whose scenarios lie in more than one fold.
    """
    seen: dict[str, int] = {}
    for fold, group in zip(folds, groups, strict=True):
        if seen.setdefault(group, fold) != fold:
            raise UnfitInputs(f"the folds leak: scenarios of {group} lie in folds {seen[group]} and {fold}")
