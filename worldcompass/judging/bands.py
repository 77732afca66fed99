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
from worldcompass.statistics import Estimate, bootstrap, resamples

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
        seed: of the bootstrap over scenarios and seeds.
        memo: of the statistics.
    """
    rows = resamples(sources.rows, seed, RESAMPLES)
    known = memo or Memo()

    def of(videos_VF3hw: Tensor) -> np.ndarray:
        return known.of(("statistics",), videos_VF3hw, lambda: statistics_of(videos_VF3hw))

    truth = np.tile(of(sources.reachable_SF3hw), (sources.seeds, 1, 1))
    values = {name: of(sources.flat(name)) for name in sources.models_KSF3hw}
    values["engine"] = np.tile(of(sources.engine_SF3hw), (sources.seeds, 1, 1))
    values["other"] = np.tile(of(sources.other_SF3hw), (sources.seeds, 1, 1))
    models = {name: deviations(v, truth, rows) for name, v in values.items()}
    change: dict[str, dict[str, Estimate]] = {}
    overall: dict[str, Estimate] = {}
    whole_BV = np.concatenate([np.arange(len(truth))[None], rows])
    for stretch in STRETCHES:
        inside = list(depths_of(stretch, DEPTHS))
        cut, true = {name: v[:, inside] for name, v in values.items()}, truth[:, inside]
        change_BQ = distances(cut[BASE], true, whole_BV) - distances(cut[TRAINED], true, whole_BV)
        change[stretch] = {
            name: bootstrap(change_BQ[1:, q], change_BQ[0, q], len(truth))
            for q, name in enumerate(STATISTICS)
        }
        overall[stretch] = bootstrap(change_BQ[1:].mean(1), change_BQ[0].mean(), len(truth))
    return Bands(models, change, overall)


def deviations(values_VDQ: np.ndarray, truth_VDQ: np.ndarray, rows_BV: np.ndarray) -> dict[str, Deviation]:
    """Every statistic of one source against the truth."""
    difference_VDQ = values_VDQ - truth_VDQ
    signed_BQ = difference_VDQ.mean(1)[rows_BV].mean(1)
    distance_BQ, whole_Q = distances(values_VDQ, truth_VDQ, rows_BV), distances(values_VDQ, truth_VDQ)[0]
    count, mean_DQ = len(values_VDQ), difference_VDQ.mean(0)
    return {
        name: Deviation(
            bootstrap(signed_BQ[:, q], mean_DQ[:, q].mean(), count),
            bootstrap(distance_BQ[:, q], whole_Q[q], count),
            tuple(mean_DQ[:, q].tolist()),
        )
        for q, name in enumerate(STATISTICS)
    }


def distances(values_VDQ: np.ndarray, truth_VDQ: np.ndarray, rows_BV: np.ndarray | None = None) -> np.ndarray:
    """Wasserstein-1 between the videos' values and the truth's, mean over depths, (B, Q); B = 1 without rows."""
    if rows_BV is None:
        rows_BV = np.arange(len(values_VDQ))[None]
    found = [np.abs(np.sort(values_VDQ[row], 0) - np.sort(truth_VDQ[row], 0)).mean((0, 1)) for row in rows_BV]
    return np.stack(found)


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
