"""The live gauges of a pane: the action that its frames show, obeyed commands, likeness to the place, sharpness."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from worldcompass.actions import ActionSpace
from worldcompass.player.likeness import likeness
from worldcompass.player.panes import Place
from worldcompass.rewards.quality import relative_sharpness
from worldcompass.serving.scoring import Reader

START, ENGINE = "start", "engine"


@dataclass(frozen=True)
class Gauge:
    """The gauges of a walk after a step."""

    start_image_3hw: Tensor
    like: str = START
    """What the last frame is compared with: the start image, or the engine's frame of the same moment."""
    likeness: float | None = 1.0
    """Of the last frame in colours and texture, from 0 to 1; None in the engine's own pane."""
    sharpness: float = 1.0
    """Of the last frame, relative to the start image's. Noise counts as sharp."""
    estimated: int | None = None
    """The action that the last latent shows."""
    obeyed: int = 0
    """Latents that show the whole commanded action, translation and rotation."""
    latents: int = 0

    @staticmethod
    def begin(image_3hw: Tensor, real: bool = False) -> Gauge:
        """The gauges at a start image; ``real`` for the engine's own pane."""
        return Gauge(image_3hw, likeness=None if real else 1.0)

    def after(
        self, reader: Reader | None, before: Place | None, now: Place | None, truth_3hw: Tensor | None = None
    ) -> Gauge:
        """The gauges after a step between two places.

        Args:
            reader: of actions, if there is one.
            before: None where the pane shows nothing.
            now: the same.
            truth_3hw: the engine's last frame after the same actions, where it runs.
        """
        if before is None or now is None:
            return self
        gauge = self._looks(now.frames_F3hw[-1], truth_3hw)
        if reader is None:
            return gauge
        seen = reader(torch.cat([before.frames_F3hw[-1:], now.frames_F3hw])[None])[0, 1:].tolist()
        obeyed = sum(a == b for a, b in zip(seen, now.composites_M[-len(seen) :], strict=True))
        return replace(
            gauge, estimated=seen[-1], obeyed=self.obeyed + obeyed, latents=self.latents + len(seen)
        )

    def _looks(self, frame_3hw: Tensor, truth_3hw: Tensor | None) -> Gauge:
        gauge = replace(self, sharpness=relative_sharpness(frame_3hw, self.start_image_3hw))
        if self.likeness is None:
            return gauge
        like, other = (START, self.start_image_3hw) if truth_3hw is None else (ENGINE, truth_3hw)
        return replace(gauge, like=like, likeness=likeness(frame_3hw, other))

    def as_json(self, space: ActionSpace) -> dict[str, Any]:
        """The gauges for the page."""
        seen = None if self.estimated is None else list(space.words(self.estimated))
        return {
            "like": self.like,
            "likeness": self.likeness,
            "sharpness": self.sharpness,
            "seen": seen,
            "obeyed": self.obeyed,
            "latents": self.latents,
        }
