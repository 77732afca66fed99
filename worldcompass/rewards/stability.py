"""Does the picture stay as it began? Formulas alone, for pictures that no critic here was trained on."""

from __future__ import annotations

from worldcompass.rewards.quality import QualityWeights, abstention, formula_parts, weigh
from worldcompass.types import Group, Scores


class PictureStability:
    """``0.5 sharpness_loss + 4 flicker + 6 drift``: ``VisualQuality`` without its learned part.

    Sharpness and colours are compared with the video's first frame: a good start image holds the quality up.
    """

    def __init__(self, weights: QualityWeights | None = None, name: str = "stability") -> None:
        self.weights, self.name = weights or QualityWeights(), name

    def __call__(self, group: Group) -> Scores:
        """Score the candidates; abstains where the chunk shows nothing but the given start image."""
        return abstention(group) or weigh(formula_parts(group), self.weights)
