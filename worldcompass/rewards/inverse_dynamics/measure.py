"""How well a reader reads held-out recordings, control by control, and what its scores are worth."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from worldcompass.rewards.inverse_dynamics.critic import InverseDynamics, Reading, read
from worldcompass.rewards.inverse_dynamics.file import Facts, Read
from worldcompass.rewards.inverse_dynamics.footage import Latents
from worldcompass.rewards.inverse_dynamics.network import ControlReader
from worldcompass.rewards.inverse_dynamics.panel import Panel, scale_of
from worldcompass.seeding import generator_for
from worldcompass.statistics import RESAMPLES, UNKNOWN, Estimate, bootstrap, wilson

MOST_MEASURED = 4000  # latents
LEAST_SHOWN = 0.05  # what scores are divided by at least


def measured(net: ControlReader, latents: Latents, facts: Facts, most: int = MOST_MEASURED) -> Facts:
    """Facts with what a reader reaches on held-out latents, at most so many."""
    chosen = torch.randperm(len(latents), generator=generator_for("measured"))[:most].sort().values
    reading, wanted = read(net, latents.windows(chosen)), latents.ways_NTA[chosen]
    whose = latents.whose_N[chosen]
    found = replace(
        facts, reads=reads_of(reading, wanted, whose), shown=max(float(reading.shown_N.mean()), LEAST_SHOWN)
    )
    critic = InverseDynamics(net, found)
    if not any(found.counted):
        return found
    other = wanted[_others(found, wanted)]
    alike = torch.zeros(len(whose), dtype=torch.long)
    scores = [mean_of(critic.scored(reading, ways).mean(-1), alike, whose) for ways in (wanted, other)]
    return replace(found, true=scores[0], other=scores[1])


def reads_of(reading: Reading, wanted_NTA: Tensor, whose_N: Tensor) -> tuple[Read, ...]:
    """How well each control is read.

    Args:
        reading: of N latents.
        wanted_NTA: their commands.
        whose_N: the recording of each.
    """
    panel, agreement = reading.panel, reading.agreement(wanted_NTA)
    true, seen = panel.signs(wanted_NTA), panel.signs(reading.ways())
    far = (reading.ways() - wanted_NTA).abs()
    found = []
    for axis, own in enumerate(panel.axes):
        moving, agreed = true[..., axis] != 0, agreement[..., axis]
        own_true, right = true[..., axis], (seen[..., axis] == true[..., axis]).float()
        scale, settings = scale_of(own), own_true.shape[1]
        whose = whose_N[:, None].expand(-1, settings)
        found.append(
            Read(
                right=mean_of(right.flatten(), own_true.flatten(), whose.flatten()),
                ways=len(own_true.unique()),
                error=float(far[..., axis].mean() / (scale[-1] - scale[0])),
                moving=float(agreed[moving].mean()) if bool(moving.any()) else 1.0,
                resting=float(agreed[~moving].mean()) if not bool(moving.all()) else 1.0,
            )
        )
    return tuple(found)


def mean_of(values_N: Tensor, kinds_N: Tensor, whose_N: Tensor, seed: int = 0) -> Estimate:
    """The mean over kinds of each kind's mean, for values in [0, 1], with its 95% interval.

    The interval is the wider one of two: a bootstrap over recordings, as two latents of one are not independent,
    and Wilson's for as many values as the rarest kind has, which has some width even where all recordings agree.
    """
    if not len(values_N):
        return UNKNOWN
    kinds, kind_N = kinds_N.unique(return_inverse=True)
    recordings, row_N = whose_N.unique(return_inverse=True)
    table_N = (row_N * len(kinds) + kind_N).numpy()
    size = len(kinds) * len(recordings)
    sums, counts = (
        np.bincount(table_N, weights, size).reshape(len(recordings), -1)
        for weights in (values_N.double().numpy(), None)
    )
    mean = float((sums.sum(0) / counts.sum(0)).mean())
    drawn = np.random.default_rng(seed).integers(len(recordings), size=(RESAMPLES, len(recordings)))
    hits, total = sums[drawn].sum(1), counts[drawn].sum(1)
    shares = np.divide(hits, total, out=np.full_like(hits, np.nan), where=total > 0)
    found = bootstrap(np.nanmean(shares, 1), mean, len(values_N))
    low, high = wilson(mean, len(kinds) * int(counts.sum(0).min()))
    return Estimate(mean, min(found.low, low), max(found.high, high), len(values_N))


def _others(facts: Facts, wanted_NTA: Tensor) -> Tensor:
    """For each latent another one in which a control that counts goes another way; int64 (N,)."""
    signs = facts.panel.signs(wanted_NTA)[..., torch.tensor(facts.counted)].flatten(1)
    order = torch.randperm(len(signs), generator=generator_for("other commands"))
    chosen = torch.arange(len(signs))
    for turn in range(1, min(len(signs), 50)):
        same = (signs[chosen] == signs).all(-1)
        chosen = torch.where(same, order.roll(turn), chosen)
    return chosen


def warnings_of(facts: Facts) -> list[str]:
    """One sentence for every control that cannot be read."""
    found = []
    for axis, known in zip(facts.panel.axes, facts.reads, strict=True):
        if known.ways < 2:
            found.append(
                f"the control {axis.name} never changes in the held-out recordings, so it does not count in scores:"
                " record play that uses it"
            )
        elif not known.readable:
            found.append(
                f"the control {axis.name} cannot be read ({known.right.in_percent(digits=0)} right, guessing gives"
                f" {100 * known.guessing:.0f}%), so it does not count in scores: train for longer, or record more"
                " play in which one sees what it does"
            )
    if math.isfinite(facts.true.mean) and not facts.true.low > facts.other.high:
        found.append(
            "true commands do not reliably score above others: train for longer, or on more recordings"
        )
    return found


def unmeasured(panel: Panel) -> tuple[Read, ...]:
    """Of a reader that was not measured yet."""
    return (Read(UNKNOWN, 1, math.nan, 1.0, 1.0),) * len(panel.axes)
