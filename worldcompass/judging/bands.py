"""Two-sided statistics of pictures: too sharp is as wrong as too soft.

For each statistic a video has a logarithm at each depth. A model's mean distance from reachable truth shows the
direction of its fault: the *band* allows 10% on either side. The mean alone could be fooled by pictures of which
half are too soft and half too sharp. So the *distance* compares whole distributions: the mean absolute difference
of the sorted values over scenarios (Wasserstein-1). It does not ask that every scenario shows the same place.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldcompass.judging.memo import Memo
from worldcompass.judging.sources import BASE, STRETCHES, TRAINED, Sources, depths_of
from worldcompass.media.pixels import luma
from worldcompass.statistics import Crossing, Estimate, crossed_over

BAND = math.log(1.1)  # half width of the equivalence band
BAND_EDGES = (0.02, 0.06, 0.11, 0.17, 0.25, 0.35, 0.71)  # cycles per pixel
SPECTRUM = tuple(f"frequencies {low:g}-{high:g}" for low, high in itertools.pairwise(BAND_EDGES))
STATISTICS = ("gradient energy", "contrast", *SPECTRUM, "change of motion", "saturation")
FLOOR = 0.5  # levels of 255, added to amplitudes: flat walls and rounding stay harmless
DEPTHS = 8
RESAMPLES = 1000
BLOCK = 8  # videos at once


@dataclass(frozen=True)
class Deviation:
    """A statistic of one model against reachable truth; logarithms, 0 is equal."""

    signed: Estimate
    """Mean log ratio over depths: above 0 too much, below 0 too little."""
    distance: Estimate
    """Mean Wasserstein-1 distance over depths."""
    by_depth_D: tuple[float, ...]
    """Mean log ratio at each depth."""

    @property
    def inside(self) -> bool:
        """Whether the whole interval of the mean lies within the band."""
        return max(-self.signed.low, self.signed.high) <= BAND


@dataclass(frozen=True)
class Bands:
    """All statistics of the models, and of the engine's two floors."""

    models: dict[str, dict[str, Deviation]]
    """Source -> statistic -> deviation; the sources are the models, ``engine`` and ``other``."""
    change: dict[str, dict[str, Estimate]]
    """Stretch -> statistic -> distance of the base minus distance of the trained model: above 0, training came
    nearer."""
    overall: dict[str, Estimate]
    """Stretch -> the mean of ``change`` over the statistics."""


def measure_bands(sources: Sources, seed: int = 0, memo: Memo | None = None) -> Bands:
    """Compare every source with reachable truth.

    Args:
        sources: with the models ``base`` and ``trained``.
        seed: of the bootstrap over scenarios.
        memo: of the statistics.
    """
    chance = Crossing.of(sources.rows, seed, RESAMPLES)
    known = memo or Memo()

    def of(videos_VF3hw: Tensor) -> np.ndarray:
        return known.of(("statistics",), videos_VF3hw, lambda: statistics_of(videos_VF3hw))

    truth = np.tile(of(sources.reachable_SF3hw), (sources.seeds, 1, 1))
    values = {name: of(sources.flat(name)) for name in sources.models_KSF3hw}
    values["engine"] = np.tile(of(sources.engine_SF3hw), (sources.seeds, 1, 1))
    values["other"] = np.tile(of(sources.other_SF3hw), (sources.seeds, 1, 1))
    models = {name: deviations(v, truth, chance) for name, v in values.items()}
    change: dict[str, dict[str, Estimate]] = {}
    overall: dict[str, Estimate] = {}
    for stretch in STRETCHES:
        inside = list(depths_of(stretch, DEPTHS))
        cut, true = {name: v[:, inside] for name, v in values.items()}, truth[:, inside]
        change_KBQ = distances(cut[BASE], true, chance) - distances(cut[TRAINED], true, chance)
        change[stretch] = _estimates(change_KBQ, chance)
        overall[stretch] = crossed_over(change_KBQ.mean(2), chance.scenarios)
    return Bands(models, change, overall)


def deviations(values_VDQ: np.ndarray, truth_VDQ: np.ndarray, chance: Crossing) -> dict[str, Deviation]:
    """Every statistic of one source against the truth."""
    difference_VDQ = values_VDQ - truth_VDQ
    signed, mean_DQ = chance.means(difference_VDQ.mean(1)), difference_VDQ.mean(0)
    distance = _estimates(distances(values_VDQ, truth_VDQ, chance), chance)
    return {
        name: Deviation(signed[q], distance[name], tuple(mean_DQ[:, q].tolist()))
        for q, name in enumerate(STATISTICS)
    }


def _estimates(values_KBQ: np.ndarray, chance: Crossing) -> dict[str, Estimate]:
    return {name: crossed_over(values_KBQ[..., q], chance.scenarios) for q, name in enumerate(STATISTICS)}


def distances(values_VDQ: np.ndarray, truth_VDQ: np.ndarray, chance: Crossing) -> np.ndarray:
    """Wasserstein-1 between every seed's values and the truth's, mean over depths; (K, B, Q).

    Index 0 of B is of all scenarios, the others of the resamples. Seeds are compared one by one: sets that pool
    them would hide a fault that goes one way in one seed and another way in the next.
    """

    def apart(rows: np.ndarray) -> np.ndarray:
        return np.abs(np.sort(values_VDQ[rows], 0) - np.sort(truth_VDQ[rows], 0)).mean((0, 1))

    return np.stack([[apart(rows) for rows in of_seed] for of_seed in chance.by_seed()])


def statistics_of(videos_VF3hw: Tensor, depths: int = DEPTHS) -> np.ndarray:
    """Logarithms of ``STATISTICS`` at each depth; (V, D, Q). The start image is left out.

    Amplitudes, not powers, are averaged over a depth's frames, so that 10% means the same for every statistic.
    """
    return np.concatenate([_of_block(part, depths) for part in videos_VF3hw.split(BLOCK)])


def _of_block(videos_VF3hw: Tensor, depths: int) -> np.ndarray:
    frames = videos_VF3hw[:, 1:].float()
    luma_VFhw = luma(frames)
    across, down = (
        luma_VFhw.diff(dim=-1).square().mean((-2, -1)),
        luma_VFhw.diff(dim=-2).square().mean((-2, -1)),
    )
    second_VF = _second_difference(luma_VFhw)
    per_frame_VFQ = torch.stack(
        [
            (across + down).sqrt(),
            luma_VFhw.std((-2, -1)),
            *_spectrum(luma_VFhw),
            second_VF,
            (frames.amax(2) - frames.amin(2)).mean((-2, -1)),
        ],
        -1,
    )
    parts = per_frame_VFQ.tensor_split(depths, 1)
    return torch.stack([(part.mean(1) + FLOOR).log() for part in parts], 1).numpy()


def _second_difference(luma_VFhw: Tensor) -> Tensor:
    """Root mean square of each frame's second difference in time; the ends copy their neighbours."""
    inner = (luma_VFhw[:, 2:] - 2 * luma_VFhw[:, 1:-1] + luma_VFhw[:, :-2]).square().mean((-2, -1)).sqrt()
    return torch.cat([inner[:, :1], inner, inner[:, -1:]], 1)


def _spectrum(luma_VFhw: Tensor) -> list[Tensor]:
    """Amplitude of each frame within radial bands of frequency; (V, F) for each band."""
    height, width = luma_VFhw.shape[-2:]
    window = torch.hann_window(height, False)[:, None] * torch.hann_window(width, False)
    centred = luma_VFhw - luma_VFhw.mean((-2, -1), keepdim=True)
    power = torch.fft.rfft2(centred * window, norm="ortho").abs().square()
    radius = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width))
    inside = [(radius >= low) & (radius < high) for low, high in itertools.pairwise(BAND_EDGES)]
    return [power[..., mask].mean(-1).sqrt() for mask in inside]
