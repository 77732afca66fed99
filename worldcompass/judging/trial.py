"""The judge on trial: it must rank forgeries below what they were made from, before it may judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worldcompass.judging.bands import measure_bands
from worldcompass.judging.classifier import GATES_ALONE, Asked, classify
from worldcompass.judging.forgeries import FORGERIES, FULL, THIRDS, Forge, striped
from worldcompass.judging.frechet import measure_distances
from worldcompass.judging.memo import Memo
from worldcompass.judging.sources import BASE, TRAINED, Sources, windows
from worldcompass.judging.spaces import spaces
from worldcompass.seeding import Key, generator_for
from worldcompass.statistics import Estimate

ORIGINALS = ("engine", "reachable", BASE)
GATES = ("classifier", "pictures", "motion", "statistics")
DEMANDED = 0.9  # share of resamples
WHOLE = "the whole video"


@dataclass(frozen=True)
class Caught:
    """One forgery of one original."""

    original: str
    forgery: str
    strength: float
    """Share of the full strength."""
    changes: Mapping[str, Estimate]
    """One of ``GATES`` -> forgery minus original; below 0, the forgery is farther from reachable truth."""

    def share(self, gate: str) -> float:
        """Share of resamples in which the gate ranks the forgery below its original, by a normal distribution."""
        return share_below_zero(self.changes[gate])

    @property
    def rejected_by(self) -> tuple[str, ...]:
        """Gates that rank the forgery below its original often enough; one suffices to reject."""
        return tuple(gate for gate in self.changes if self.share(gate) >= DEMANDED)


def share_below_zero(change: Estimate) -> float:
    """Probability of a value below 0, from a mean and its 95% interval."""
    spread = (change.high - change.low) / (2 * 1.96)
    if spread <= 0:
        return float(change.mean < 0)
    return float(torch.special.ndtr(torch.tensor(-change.mean / spread)))


def forged(
    videos_SF3hw: Tensor, name: str, share: float, regions: Sequence[str], keys: tuple[Key, ...]
) -> Tensor:
    """Forgeries of every video; stripes come from the next video of another region."""
    found = []
    for row, video in enumerate(videos_SF3hw):
        forge: Forge = FORGERIES[name] if name in FORGERIES else striped(videos_SF3hw[_foreign(row, regions)])
        found.append(forge(video, share * FULL[name], generator_for(*keys, name, row)))
    return torch.stack(found)


def _foreign(row: int, regions: Sequence[str]) -> int:
    """The next row of another region; the next row if there is one region."""
    count = len(regions)
    others = [(row + step) % count for step in range(1, count)]
    return next((other for other in others if regions[other] != regions[row]), others[0])


def original_of(sources: Sources, name: str) -> Tensor:
    """The videos of one of ``ORIGINALS``; a model's first seed."""
    real = {"engine": sources.engine_SF3hw, "reachable": sources.reachable_SF3hw}
    return real[name] if name in real else sources.models_KSF3hw[name][0]


def try_forgeries(
    sources: Sources,
    seed: int,
    names: Sequence[str] = tuple(FULL),
    shares: Sequence[float] = THIRDS,
    originals: Sequence[str] = ORIGINALS,
    asked: Asked = GATES_ALONE,
    on_forgery: Callable[[Caught], None] = lambda caught: None,
) -> list[Caught]:
    """Judge forgeries against their originals, as if post-training had made them.

    Args:
        sources: the judge's.
        seed: of forgeries, networks and bootstraps.
        names: of forgeries, keys of ``FULL``.
        shares: of the full strength.
        originals: of ``ORIGINALS``.
        asked: the size of the classifier test.
        on_forgery: called with each result.
    """
    found = []
    real = (sources.engine_SF3hw, sources.other_SF3hw, sources.reachable_SF3hw)
    for original in originals:
        videos = original_of(sources, original)
        memo = Memo((*real, videos))
        for name in names:
            for share in shares:
                fake = forged(videos, name, share, sources.regions, (seed, original))
                pair = sources.with_models({BASE: videos[None], TRAINED: fake[None]})
                found.append(Caught(original, name, share, changes_of(pair, seed, asked, memo)))
                on_forgery(found[-1])
    return found


def changes_of(
    sources: Sources, seed: int, asked: Asked = GATES_ALONE, memo: Memo | None = None
) -> dict[str, Estimate]:
    """The gates over the whole video; above 0, the trained model is nearer."""
    cut = windows(sources.frames)
    found = measure_distances(sources, cut, spaces(seed, networks=1), seed, memo=memo, explain=False)
    families = found.change[WHOLE]
    _, test = classify(sources, cut, seed, asked, memo=memo)
    away = {family: Estimate(-c.mean, -c.high, -c.low, c.n) for family, c in families.items()}
    return {
        "classifier": test[WHOLE],
        **away,
        "statistics": measure_bands(sources, seed, memo).overall[WHOLE],
    }
