"""The quality reward: formulas of sharpness, flicker and drift, and the learned realism."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from worldcompass.types import Group, Scores

if TYPE_CHECKING:
    from worldcompass.worlds.doom.critics.realism import Realism
from worldcompass.rewards.quality import QualityWeights, abstention, formula_parts, weigh


class VisualQuality:
    """``0.5 sharpness_loss + 4 flicker + 6 drift + realism``, where all but the last are formulas.

    Sharpness and drift compare with the video's first frame. Flicker reads the chunk and up to two frames before
    it. Realism is the mean score of the learned critic over the chunk's frames. Engine videos also score a little
    below 0, as rooms differ.
    """

    name = "quality"

    def __init__(self, realism: Realism | None = None, weights: QualityWeights | None = None) -> None:
        """Use ``realism``, by default the critic with the weights of the package."""
        if realism is None:
            from worldcompass.worlds.doom.critics.weights import load_critics

            realism = load_critics().realism
        self.realism = realism.eval()
        self.weights = weights or QualityWeights()

    def parts(self, group: Group) -> dict[str, Tensor]:
        """The parts before weighting, each (G,)."""
        frames = group.frames_GF3hw
        scores = self.realism.score(frames.flatten(0, 1)).to(frames.device)
        return {**formula_parts(group), "realism": scores.unflatten(0, frames.shape[:2]).mean(1)}

    def __call__(self, group: Group) -> Scores:
        """Score the candidates; abstain when the chunk holds only the start image."""
        return abstention(group) or weigh(self.parts(group), self.weights)
