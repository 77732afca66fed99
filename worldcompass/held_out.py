"""A judge that is no reward looks at the same few videos now and then: the only witness against reward hacking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worldcompass.policy import Policy
from worldcompass.rollout import imagine_video
from worldcompass.types import Scenario
from worldcompass.world import WorldModel

MIN_VIDEOS = 4  # below which a change has no interval


@dataclass(frozen=True)
class HeldOut:
    """What is probed; the cost of a look is that of imagining its videos, so a handful of short ones is enough."""

    judge: Callable[[Tensor, Sequence[Scenario]], Tensor]
    """(videos uint8 (V, F, 3, h, w), scenarios) -> finite scores (V,), higher is better; shares nothing with the
    critics."""
    scenarios: Sequence[Scenario]
    """At least four, equally long, never trained on, and not those of the final evaluation."""

    def __post_init__(self) -> None:
        lengths = {len(scenario.actions) for scenario in self.scenarios}
        if len(self.scenarios) < MIN_VIDEOS or len(lengths) > 1:
            raise ValueError(
                f"held-out scenarios: expected {MIN_VIDEOS} or more of one length, got {len(self.scenarios)} of "
                f"lengths {sorted(lengths)}"
            )


def probe(world: WorldModel[Any], policy: Policy, held_out: HeldOut, seed: int) -> dict[str, Any]:
    """The judge's mean and single scores of the checkpoint weights' videos; their noise is always the same.

    Raises:
        ValueError: when the judge does not return one finite score for each video.
    """
    with policy.checkpoint(), torch.no_grad():
        videos = imagine_video(world, held_out.scenarios, ("held out", seed))
    scores = held_out.judge(videos, held_out.scenarios).double().cpu()
    if scores.shape != (len(videos),) or not bool(scores.isfinite().all()):
        raise ValueError(f"the held-out judge must return {len(videos)} finite scores, it returned {scores}")
    return {"mean": scores.mean().item(), "values": [round(value, 6) for value in scores.tolist()]}


def due(every: int, step: int) -> bool:
    """Whether the judge looks after this step: the first, and then every ``every``-th; never for 0."""
    return every > 0 and (step == 1 or step % every == 0)
