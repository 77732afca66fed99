"""Settings of the methods that grids compare with, the same for every world."""

from __future__ import annotations

from worldcompass.training.policy import Decay
from worldcompass.training.rivals import dpo_loss, flow_grpo_loss, flow_matching_loss
from worldcompass.training.selection import along_path, in_pairs

NO_AVERAGE = Decay(0.0, 0.0, 0.0)
NO_EXPLORATION: dict[str, object] = {
    "explore": 0.0,
    "projected": 0.0,
    "shared_noise": False,
    "free_noises": 0,
}

FLOW_GRPO: dict[str, object] = {
    **NO_EXPLORATION,
    "objective": flow_grpo_loss,
    "draw": along_path,
    "stochastic": 0.7,  # as in the paper
    "beta": 1e-4,
    "denoising_steps": 4,  # three of which have noise
    "behaviour_decay": NO_AVERAGE,
}
"""The steps of a stochastic rollout by the current weights, with clipped likelihood ratios."""

DPO: dict[str, object] = {
    "objective": dpo_loss,
    "draw": in_pairs,
    "opponent": "start",
    "best": 1,
    "worst": 1,
    "beta": 100.0,
    "behaviour_decay": NO_AVERAGE,
}
"""The best candidate of each group, preferred to its worst, by the distance from the start weights."""

CONTINUED: dict[str, object] = {"teacher": "recordings", "objective": flow_matching_loss}
"""The engine's own video of the training scenarios, and no rewards."""
