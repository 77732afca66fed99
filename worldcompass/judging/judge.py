"""The whole judge: all measures of one set of sources, and the judgement from them.

Nothing here is a reward, and nothing chooses a setting: for that there is the twin (``judging.twin``), the same
code with other seeds and other episodes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from worldcompass.judging.bands import STATISTICS as STATISTIC_NAMES
from worldcompass.judging.bands import Bands, measure_bands
from worldcompass.judging.classifier import Asked, Separation, classify, networks_of
from worldcompass.judging.frechet import Distance, Distances, measure_distances
from worldcompass.judging.paired import Likeness, measure_paired
from worldcompass.judging.place import Place, measure_place, place_network, regions_known
from worldcompass.judging.sources import STRETCHES, Sources, windows
from worldcompass.judging.spaces import Space, place_space, spaces
from worldcompass.judging.verdict import Gate, Judgement, Row
from worldcompass.statistics import UNKNOWN, Estimate

CLASSIFIER, DISTANCES, STATISTICS = "the classifier", "the distances", "the statistics"
"""Names of the gates."""


@dataclass(frozen=True)
class Measures:
    """What every measure found."""

    bands: Bands
    distances: Distances
    tests: Mapping[str, Separation]
    test_change: Mapping[str, Estimate]
    place: Place | None
    paired: Mapping[str, Likeness]


def measure_all(
    sources: Sources, seed: int, asked: Asked | None = None, on_step: Callable[[], None] = lambda: None
) -> Measures:
    """Run all measures; ``on_step`` is called ``steps_of(sources, asked)`` times.

    Args:
        sources: with the models ``base`` and ``trained``.
        seed: of all networks, folds and bootstraps.
        asked: the size of the classifier test.
        on_step: called after each part of the work.

    Raises:
        UnfitInputs: when the sources are too few or too short.
    """
    asked, cut = asked or Asked(), windows(sources.frames)
    bands = measure_bands(sources, seed)
    on_step()
    net = place_network(sources, seed) if _placed(sources, asked) else None
    on_step()
    known = [*_spaces(seed, asked), *([place_space(net.maps)] if net else [])]
    distances = measure_distances(sources, cut, known, seed, on_step, explain=asked.explain)
    tests, test_change = classify(sources, cut, seed, asked, on_network=on_step)
    place = measure_place(sources, net, seed) if net else None
    paired = measure_paired(sources, net, seed) if net else {}
    on_step()
    return Measures(bands, distances, tests, test_change, place, paired)


def steps_of(sources: Sources, asked: Asked | None = None) -> int:
    """How often ``measure_all`` calls ``on_step``."""
    asked = asked or Asked()
    return 3 + len(_spaces(0, asked)) + _placed(sources, asked) + networks_of(asked)


def _placed(sources: Sources, asked: Asked) -> bool:
    return asked.explain and regions_known(sources.regions)


def _spaces(seed: int, asked: Asked) -> list[Space]:
    return spaces(seed) if asked.explain else spaces(seed, networks=1)


def gates_of(measures: Measures) -> tuple[Gate, ...]:
    """The gates of every stretch; above 0, training came nearer."""
    found = []
    for stretch in STRETCHES:
        of = {
            CLASSIFIER: (measures.test_change[stretch], "deviations of the logit"),
            STATISTICS: (measures.bands.overall[stretch], "in the logarithm of the statistics"),
        }
        for family, change in measures.distances.change[stretch].items():
            of[f"{DISTANCES} of {family}"] = (_negated(change), "in the logarithm of the Frechet distance")
        found += [Gate(f"{name}, {stretch}", change, unit) for name, (change, unit) in of.items()]
    return tuple(found)


def judge(
    sources: Sources, seed: int, asked: Asked | None = None, on_step: Callable[[], None] = lambda: None
) -> Judgement:
    """Judge the trained model against the base; see ``measure_all``."""
    measures = measure_all(sources, seed, asked, on_step)
    return Judgement(
        len(sources.scenarios),
        sources.seeds,
        sources.frames,
        digest_of(sources),
        seed,
        gates_of(measures),
        tuple(rows_of(measures)),
    )


def rows_of(measures: Measures) -> Iterator[Row]:
    """Everything that explains the gates, with floors and ceilings."""
    for name, test in measures.tests.items():
        yield from _classifier_rows(name, test)
    for stretch, of in measures.distances.spaces.items():
        for name, distance in of.items():
            yield from _distance_rows(f"{name}, {stretch}", distance)
    yield from _statistic_rows(measures.bands)
    for name, found in measures.paired.items():
        yield Row(
            "paired", f"{name}: information kept", {**found.information, "change": found.information_change},
            "1: equal to reachable truth"
        )  # fmt: skip
        yield Row(
            "paired",
            f"{name}: feature distance",
            {**found.distance, "change": found.distance_change},
            "0: equal",
        )
    if measures.place is not None:
        place = measures.place
        yield Row(
            "place", "last frames of the right region", {**place.kept, "change": place.kept_change}, "1: all"
        )
        yield Row(
            "place", "patches of another region", {**place.foreign, "change": place.foreign_change}, "0: none"
        )


def _classifier_rows(name: str, test: Separation) -> Iterator[Row]:
    yield Row("classifier", f"{name}: logit", test.change, "trained minus base; above 0: more real")
    if test.auc:
        yield Row("classifier", f"{name}: area", test.auc, "0.5: cannot be told apart; other is the floor")
    for judges, judged in test.transfer.items():
        values = {model: _point(value) for model, value in judged.items()}
        yield Row("classifier", f"{name}: area by networks of {judges}", values, "0.5: cannot be told apart")


def _distance_rows(name: str, distance: Distance) -> Iterator[Row]:
    ratio = {**distance.ratio, "change": distance.change}
    yield Row("distances", f"{name}: Frechet", ratio, "to reachable truth; 1: as other episodes")
    if not distance.absolute:
        return
    yield Row("distances", f"{name}: Frechet to the engine", distance.absolute, "reachable is the best")
    kernels = {source: _point(value) for source, value in distance.kernel.items()}
    kernels["change"] = distance.kernel_change
    yield Row("distances", f"{name}: kernel", kernels, "0: equal; times 1000")


def _statistic_rows(bands: Bands) -> Iterator[Row]:
    for name in STATISTIC_NAMES:
        signed = {source: found[name].signed for source, found in bands.models.items()}
        yield Row("statistics", name, signed, "log ratio to reachable truth; the band is ±0.1")
        apart = {source: found[name].distance for source, found in bands.models.items()}
        changes = {f"change, {stretch}": _negated(change[name]) for stretch, change in bands.change.items()}
        yield Row("statistics", f"{name}: distance", {**apart, **changes}, "0: same distribution")


def digest_of(sources: Sources) -> str:
    """SHA-256 of the scenarios' ids and the engine's frames."""
    digest = hashlib.sha256("\n".join(sources.scenarios).encode())
    digest.update(sources.engine_SF3hw.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _negated(estimate: Estimate) -> Estimate:
    return Estimate(-estimate.mean, -estimate.high, -estimate.low, estimate.n)


def _point(value: float) -> Estimate:
    return Estimate(value, UNKNOWN.low, UNKNOWN.high)
