"""The released action reward, best of three thresholds: for comparison only.

WorldCompass's published code scores a chunk at three move thresholds and keeps the one that agrees best with the
command. This choice makes the reward optimistic, and a policy can exploit it. Train on ``ActionAccuracy`` instead.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from worldcompass.critic import Need
from worldcompass.geometry import LabelThresholds
from worldcompass.rewards.abstain import abstain
from worldcompass.rewards.actions import mean_of_both
from worldcompass.rewards.cameras import CameraEstimator, look, seen_labels
from worldcompass.types import Group, Scores

MOVES = (0.002, 0.005, 0.01)  # the estimator's length unit per frame, WorldCompass reward_function.py
TURN_DEG = 0.2  # degrees per frame, yaw and pitch; the same source


class BestOfThree:
    """Mean of translation and rotation accuracy per step, at the threshold where exact accuracy is best; 0 to 1.

    Each latent's command holds for each of its steps. As in the released code, confidence is ignored, and only a
    lone start image gets no score.
    """

    needs: tuple[Need, ...] = ("cameras",)

    def __init__(
        self,
        estimator: CameraEstimator,
        moves: tuple[float, ...] = MOVES,
        turn_deg: float = TURN_DEG,
        every: int = 1,
        name: str = "best_of_three",
    ) -> None:
        """Use thresholds for steps of ``every`` frames; the released ones are for single frames."""
        self.estimator, self.every, self.name = estimator, every, name
        base = LabelThresholds(0.0, turn_deg, turn_deg)
        self.thresholds = tuple(replace(base, move=move) for move in moves)

    def __call__(self, group: Group) -> Scores:
        """Score the candidates; abstains where no latent moves."""
        seen = look(self.estimator, group, least=0.0, every=self.every)
        if seen is None:
            return abstain(group)
        labels_TGS = torch.stack([seen_labels(seen, thresholds) for thresholds in self.thresholds])
        exact_TG = (labels_TGS == seen.labels_S).float().mean(-1)
        both_TG = mean_of_both(labels_TGS, seen.labels_S).mean(-1)
        values_G = both_TG.gather(0, exact_TG.argmax(0, keepdim=True))[0]
        return Scores(values_G.cpu(), torch.ones(len(values_G), dtype=torch.bool))
