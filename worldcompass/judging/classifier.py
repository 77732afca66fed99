"""A classifier two-sample test: a network learns to tell a model's clips from reachable truth (arXiv 1610.06545).

The networks learn real clips against those of base *and* trained model under one label, so they see imagined frames
of both without knowing which is which. The difference of their logits on held-out starts is the measure. Separate
tests of each model and a transfer matrix between their networks show whether training fixed a fault or only moved
it into a blind spot: then the base's network prefers the trained model and the trained model's network rejects it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldcompass.judging.folds import check_folds, folds_of
from worldcompass.judging.memo import Memo
from worldcompass.judging.networks import (
    CLIP,
    PATCH,
    Capacity,
    Clips,
    fixed_features,
    linear_logits,
    read,
    trained_network,
)
from worldcompass.judging.sources import BASE, STRETCHES, TRAINED, Sources, Windows
from worldcompass.seeding import generator_for
from worldcompass.statistics import UNKNOWN, Crossing, Estimate, crossed_over, resamples

FOLDS = 4
RESAMPLES = 1000
LINEAR = "linear"
NETWORKS = {capacity.name: capacity for capacity in (PATCH, CLIP)}
CAPACITIES = (LINEAR, *NETWORKS)
ENGINE, OTHER, REACHABLE = "engine", "other", "reachable"


@dataclass(frozen=True)
class Separation:
    """The tests of one capacity."""

    change: dict[str, Estimate]
    """Stretch -> logit of the trained model minus that of the base by networks that learned both as fakes, in
    standard deviations of the logits; above 0, the trained model looks more real."""
    auc: dict[str, Estimate]
    """Test -> area under the curve of reachable truth against a model, each with networks of its own: 0.5 cannot be
    told apart, 1 always. ``other``, the engine against other episodes, is the floor. Empty when not asked for."""
    transfer: dict[str, dict[str, float]]
    """Model whose networks judge -> model that is judged -> area under the curve."""


@dataclass(frozen=True)
class Asked:
    """The size of the judge."""

    capacities: tuple[str, ...] = CAPACITIES
    explain: bool = True
    """Also what explains the gates: tests of each model alone and of the floor, places and pairs."""
    steps: float = 1.0
    """Factor of the networks' learning steps."""


GATES_ALONE = Asked((LINEAR,), explain=False)
"""A quick judge: linear tests, and nothing that explains."""


def classify(
    sources: Sources,
    windows: Windows,
    seed: int = 0,
    asked: Asked | None = None,
    folds: Sequence[int] | None = None,
    on_network: Callable[[], None] = lambda: None,
    memo: Memo | None = None,
) -> tuple[dict[str, Separation], dict[str, Estimate]]:
    """Run the test at every capacity.

    Args:
        sources: with the models ``base`` and ``trained``.
        windows: of 9 frames.
        seed: of folds, networks and bootstrap.
        asked: the size of the test.
        folds: of the scenarios; drawn when None.
        on_network: called after each fold of a test, ``networks_of`` times.
        memo: of fixed features.

    Returns:
        Capacity -> tests, and the mean over the capacities of ``Separation.change`` for each stretch.

    Raises:
        UnfitInputs: when there are too few different starts, or the folds leak.
    """
    asked = asked or Asked()
    chosen = folds_of(sources.groups, FOLDS, seed) if folds is None else list(folds)
    check_folds(chosen, sources.groups)
    table = Trials(sources, windows, tuple(chosen), seed, on_network, memo or Memo())
    crossing = Crossing.of(sources.rows, seed, RESAMPLES)
    found, changes = {}, []
    for name in asked.capacities:
        test = _Linear(table) if name == LINEAR else _Network(table, NETWORKS[name], asked.steps)
        separation, change_VW = _separated(test, table, crossing, asked.explain)
        found[name] = separation
        changes.append(change_VW)
    return found, _by_stretch(np.mean(changes, 0), table, crossing)


def _by_stretch(change_VW: np.ndarray, table: Trials, crossing: Crossing) -> dict[str, Estimate]:
    means = {stretch: change_VW[:, list(table.windows.inside(stretch))].mean(1) for stretch in STRETCHES}
    return {stretch: crossing.mean(v) for stretch, v in means.items()}


def networks_of(asked: Asked) -> int:
    """How often ``classify`` calls ``on_network``."""
    return len(asked.capacities) * FOLDS * (4 if asked.explain else 1)


@dataclass(frozen=True)
class Trials:
    """The videos of a test by the name of their source, and the fold of each."""

    sources: Sources
    windows: Windows
    folds: tuple[int, ...]
    seed: int
    on_network: Callable[[], None]
    memo: Memo

    def videos(self, name: str) -> Tensor:
        """The videos of a source; uint8 (V, F, 3, h, w)."""
        real = {
            ENGINE: self.sources.engine_SF3hw,
            OTHER: self.sources.other_SF3hw,
            REACHABLE: self.sources.reachable_SF3hw,
        }
        return real[name] if name in real else self.sources.flat(name)

    def fold_of(self, name: str) -> list[int]:
        """The fold of every video. Another episode is in the fold of its row, so both sides show the same regions.

        Else a fold with more of a region on one side has fewer of it to learn from, and areas fall below 0.5.
        """
        return list(self.folds) * (len(self.videos(name)) // len(self.folds))

    def rows(self, name: str, fold: int, inside: bool) -> tuple[int, ...]:
        """The videos of a source inside of a fold, or all others."""
        return tuple(row for row, f in enumerate(self.fold_of(name)) if (f == fold) == inside)


class _Network:
    """Learns and reads with networks of one capacity."""

    def __init__(self, table: Trials, capacity: Capacity, steps: float) -> None:
        count = max(1, round(capacity.steps * steps))
        self.table, self.capacity = table, Capacity(capacity.name, capacity.make, count, capacity.crop)

    def logits(
        self, real: str, fakes: Sequence[str], read_too: Sequence[str], fold: int
    ) -> dict[str, Tensor]:
        """Logits of the held-out videos of every source in one fold, (rows, W)."""
        table = self.table

        def clips(name: str, inside: bool) -> Clips:
            return Clips(table.videos(name), table.rows(name, fold, inside))

        generator = generator_for(table.seed, "two-sample", self.capacity.name, real, *fakes, fold)
        net = trained_network(
            self.capacity, clips(real, False), [clips(f, False) for f in fakes], table.windows, generator
        )
        return {name: read(net, clips(name, True), table.windows) for name in (real, *fakes, *read_too)}


class _Linear:
    """A linear discriminant on fixed random features."""

    def __init__(self, table: Trials) -> None:
        self.table, self._known = table, dict[str, Tensor]()

    def _features(self, name: str) -> Tensor:
        if name not in self._known:
            table, videos = self.table, self.table.videos(name)
            self._known[name] = table.memo.of(
                ("fixed", table.seed), videos, lambda: fixed_features(videos, table.windows, table.seed)
            )
        return self._known[name]

    def logits(
        self, real: str, fakes: Sequence[str], read_too: Sequence[str], fold: int
    ) -> dict[str, Tensor]:
        """See ``_Network.logits``."""

        def features(name: str, inside: bool) -> Tensor:
            return self._features(name)[list(self.table.rows(name, fold, inside))]

        learned = [features(fake, False).flatten(0, 1) for fake in fakes]
        found = {}
        for name in (real, *fakes, *read_too):
            asked = features(name, True)
            found[name] = linear_logits(
                features(real, False).flatten(0, 1), learned, asked.flatten(0, 1)
            ).view(asked.shape[:2])
        return found


def _separated(
    test: _Network | _Linear, table: Trials, crossing: Crossing, separate: bool
) -> tuple[Separation, np.ndarray]:
    pooled = _by_video(test, table, REACHABLE, (BASE, TRAINED), ())
    change_VW = _change(pooled, table)
    rows_BS = resamples(table.sources.scenarios, table.seed, RESAMPLES)
    auc: dict[str, Estimate] = {}
    transfer: dict[str, dict[str, float]] = {}
    for model, sibling in ((BASE, TRAINED), (TRAINED, BASE)) if separate else ():
        logits = _by_video(test, table, REACHABLE, (model,), (sibling,))
        auc[model] = area(logits, REACHABLE, model, table, rows_BS)
        transfer[model] = {m: area(logits, REACHABLE, m, table, rows_BS).mean for m in (model, sibling)}
    if separate:
        logits = _by_video(test, table, ENGINE, (OTHER,), ())
        auc[OTHER] = area(logits, ENGINE, OTHER, table, rows_BS)
    return Separation(_by_stretch(change_VW, table, crossing), auc, transfer), change_VW


def _by_video(
    test: _Network | _Linear, table: Trials, real: str, fakes: Sequence[str], read_too: Sequence[str]
) -> dict[str, np.ndarray]:
    """Held-out logits of all videos, (V, W), each from the networks that did not see its group."""
    names = (real, *fakes, *read_too)
    found = {name: np.zeros((len(table.videos(name)), len(table.windows.starts))) for name in names}
    for fold in range(FOLDS):
        for name, logits in test.logits(real, fakes, read_too, fold).items():
            found[name][list(table.rows(name, fold, True))] = logits.numpy()
        table.on_network()
    return found


def _change(pooled: dict[str, np.ndarray], table: Trials) -> np.ndarray:
    """Trained minus base for every video, in deviations of the fold's logits; (V, W)."""
    found = pooled[TRAINED] - pooled[BASE]
    folds = np.array(table.fold_of(BASE))
    for fold in range(FOLDS):
        logits = [pooled[m][np.array(table.fold_of(m)) == fold].ravel() for m in (REACHABLE, BASE, TRAINED)]
        found[folds == fold] /= max(float(np.concatenate(logits).std()), 1e-9)
    return found


def area(logits: dict[str, np.ndarray], real: str, fake: str, table: Trials, rows_BS: np.ndarray) -> Estimate:
    """Area under the curve of a real against a fake source, over pairs of clips of one fold; mean over seeds."""
    if not logits[real].size:
        return UNKNOWN
    scenarios, folds_S = len(logits[real]), np.array(table.folds)
    same_SS = (folds_S[:, None] == folds_S).astype(float)
    rows = (np.arange(scenarios), *rows_BS)
    weights_BS = np.stack([np.bincount(row, minlength=scenarios) for row in rows]).astype(float)

    def summed(values_SS: np.ndarray) -> np.ndarray:
        return ((weights_BS @ (values_SS * same_SS)) * weights_BS).sum(1)

    total_B = summed(np.ones_like(same_SS))
    of_seeds = np.split(logits[fake], len(logits[fake]) // scenarios)
    wins_KB = np.stack([summed(_win_shares(logits[real], of_seed)) for of_seed in of_seeds])
    return crossed_over(wins_KB[:, total_B > 0] / total_B[total_B > 0], scenarios)


def _win_shares(real_VW: np.ndarray, fake_VW: np.ndarray) -> np.ndarray:
    """How often a clip of a real video has a higher logit than one of a fake video, ties half; (V, V)."""
    real, fake = torch.from_numpy(real_VW), torch.from_numpy(fake_VW)
    rows = []
    for video in real:
        higher = (video[:, None, None] > fake).double() + 0.5 * (video[:, None, None] == fake).double()
        rows.append(higher.mean((0, 2)))
    return torch.stack(rows).numpy()
