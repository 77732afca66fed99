"""The live gauges of a pane: the action that its frames show, the share of obeyed commands, sharpness."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from worldcompass.actions import ActionSpace
from worldcompass.player.panes import Place
from worldcompass.rewards.quality import relative_sharpness
from worldcompass.serving.scoring import Reader


@dataclass(frozen=True)
class Gauge:
    """The gauges of a walk after a step."""

    start_image_3hw: Tensor
    sharpness: float = 1.0
    """Of the last frame, relative to the start image's."""
    estimated: int | None = None
    """The action that the last latent shows."""
    obeyed: int = 0
    """Latents that show the whole commanded action, translation and rotation."""
    latents: int = 0

    @staticmethod
    def begin(image_3hw: Tensor) -> Gauge:
        """The gauges at a start image."""
        return Gauge(image_3hw)

    def after(self, reader: Reader | None, before: Place | None, now: Place | None) -> Gauge:
        """The gauges after a step between two places."""
        if before is None or now is None:
            return self
        relative = relative_sharpness(now.frames_F3hw[-1], self.start_image_3hw)
        if reader is None:
            return replace(self, sharpness=relative)
        seen = reader(torch.cat([before.frames_F3hw[-1:], now.frames_F3hw])[None])[0, 1:].tolist()
        obeyed = sum(a == b for a, b in zip(seen, now.composites_M[-len(seen) :], strict=True))
        latents = self.latents + len(seen)
        return Gauge(self.start_image_3hw, relative, seen[-1], self.obeyed + obeyed, latents)

    def as_json(self, space: ActionSpace) -> dict[str, Any]:
        """The gauges for the page."""
        seen = None if self.estimated is None else list(space.words(self.estimated))
        return {"sharpness": self.sharpness, "seen": seen, "obeyed": self.obeyed, "latents": self.latents}
