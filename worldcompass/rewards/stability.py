"""Stability of the picture over a video, from formulas only; for videos that no critic here was trained on."""

from __future__ import annotations

from worldcompass.rewards.quality import QualityWeights, abstention, formula_parts, weigh
from worldcompass.types import Group, Scores


class PictureStability:
    """``0.5 sharpness_loss + 4 flicker + 6 drift``: ``VisualQuality`` without its learned part.

    Sharpness and colours are relative to the video's first frame, so the start image sets the standard.
    """

    def __init__(self, weights: QualityWeights | None = None, name: str = "stability") -> None:
        self.weights, self.name = weights or QualityWeights(), name

    def __call__(self, group: Group) -> Scores:
        """Score the candidates; abstains when the chunk shows only the given start image."""
        return abstention(group) or weigh(formula_parts(group), self.weights)
