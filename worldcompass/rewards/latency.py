"""Delay between a command and the camera's response."""

from __future__ import annotations

from itertools import groupby

import torch
from torch import Tensor

from worldcompass.critic import Need
from worldcompass.geometry import LabelThresholds, motion_signs
from worldcompass.rewards.abstain import LEAST_CONFIDENCE, abstain, mean_over_trusted
from worldcompass.rewards.cameras import CameraEstimator, look
from worldcompass.types import Group, Scores


class ResponseLatency:
    """Minus the number of frames until the commanded motion begins, averaged over the chunk's commands; at most 0.

    A command is a run of latents with one action. Its motion begins at the first frame that moves along every
    commanded axis with the right sign and by more than a latent's threshold divided by its number of frames. A
    motion that never begins counts the whole length of the command. A command that continues from before the chunk
    counts too, so a candidate that stops following it is late.
    """

    needs: tuple[Need, ...] = ("cameras",)

    def __init__(
        self,
        estimator: CameraEstimator,
        thresholds: LabelThresholds,
        least_confidence: float = LEAST_CONFIDENCE,
        name: str = "latency",
    ) -> None:
        self.estimator, self.thresholds = estimator, thresholds
        self.least_confidence, self.name = least_confidence, name

    def __call__(self, group: Group) -> Scores:
        """Score the candidates; abstains when nothing is commanded or too few frames are trusted."""
        seen = look(self.estimator, group, self.least_confidence, every=1)
        if seen is None:
            return abstain(group)
        shows_GS = self._shows(seen.motion_GS4.cpu(), seen.labels_S, group.frames_per_latent)
        spans = commands(seen.labels_S)
        if not spans:
            return abstain(group)
        late_GC = torch.stack([frames_until(shows_GS[:, a:b]) for a, b in spans], 1)
        trust = seen.trusted_GS.cpu().float()
        trusted_GC = torch.stack([trust[:, a:b].mean(1) >= 0.5 for a, b in spans], 1)
        return mean_over_trusted(-late_GC, trusted_GC)

    def _shows(self, motion_GS4: Tensor, labels_S: Tensor, frames_per_latent: int) -> Tensor:
        """Frames with motion in every commanded component, bool (G, S)."""
        limits = self.thresholds
        least_4 = (
            torch.tensor([limits.move, limits.move, limits.yaw_deg, limits.pitch_deg]) / frames_per_latent
        )
        wanted_S4 = motion_signs(labels_S)
        diagonal_S = (wanted_S4[:, :2] != 0).all(1)
        least_S4 = least_4.repeat(len(labels_S), 1)
        least_S4[diagonal_S, :2] /= 2**0.5  # a diagonal shares its length between two axes
        return ((motion_GS4 * wanted_S4 > least_S4) | (wanted_S4 == 0)).all(-1)


def commands(labels_S: Tensor) -> list[tuple[int, int]]:
    """Start and end of every run of one action, without runs of no action."""
    spans, start = [], 0
    for label, run in groupby(labels_S.tolist()):
        stop = start + len(list(run))
        if label:
            spans.append((start, stop))
        start = stop
    return spans


def frames_until(shows_GS: Tensor) -> Tensor:
    """Number of frames before the first True of every row, float32 (G,); S for rows without any."""
    return (shows_GS.cumsum(1) == 0).sum(1).float()
