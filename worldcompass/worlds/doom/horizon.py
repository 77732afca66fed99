"""Long videos of the Doom world: scenarios of any length, and whether frames still show the map of the start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from worldcompass.evaluate import KINDS
from worldcompass.judging.place import READ_BLOCK, PlaceNetwork, place_network
from worldcompass.media.progress import progress
from worldcompass.types import Scenario
from worldcompass.worlds.doom import evaluation
from worldcompass.worlds.doom.engine.maps import TRAINING
from worldcompass.worlds.doom.engine.scenarios import draw_all
from worldcompass.worlds.doom.world import SPEC, WEIGHTS, load_doom_world
from worldcompass.worlds.small.post_training.evaluation import Exam
from worldcompass.worlds.small.post_training.horizon import BLOCK, LongWorld

SEED = 6_406  # of all starts and commands; no other command draws from it
EPISODES_PER_MAP, EPISODE_LATENTS = 8, 32  # that the network of places learns from


def long_world() -> LongWorld:
    """What ``look_far`` needs of this world."""
    return LongWorld(SPEC, WEIGHTS, load_doom_world, scenarios, exam)


def scenarios(block: int, latents: int) -> Sequence[Scenario]:
    """One scenario on each training map, from a held-out start, ids ``heldout/MAP/KIND/BLOCK``.

    Blocks command one kind of motion after the other.
    """
    kind = KINDS[block % len(KINDS)]
    drawn = draw_all(TRAINING, (kind,), BLOCK // len(TRAINING), latents, SEED + block, "heldout")
    return [replace(s, id=f"heldout/{plan.map_name}/{kind}/{block}") for plan, s in drawn]


@dataclass(frozen=True)
class Footage:
    """Implements ``Episodes``."""

    regions: Sequence[str]
    other_SF3hw: Tensor

    @property
    def frames(self) -> int:
        """F."""
        return self.other_SF3hw.shape[1]


def exam() -> Exam:
    """The exam of the evaluation, and whether the place is kept, by a network that learns from other episodes."""
    known = evaluation.exam()
    count = EPISODES_PER_MAP * len(TRAINING)
    with progress("playing other episodes to learn the maps", count) as advance:
        drawn = draw_all(TRAINING, ("mixed",), EPISODES_PER_MAP, EPISODE_LATENTS, SEED, "place", advance)
    videos = torch.stack([s.truth.frames_F3hw for _, s in drawn if s.truth is not None])
    footage = Footage([plan.map_name for plan, _ in drawn], videos)
    net = place_network(footage, SEED)
    names = sorted(set(footage.regions))

    def place(video_F3hw: Tensor, scenario: Scenario) -> np.ndarray:
        """Whether each frame shows the scenario's map, float (F,)."""
        return shown_region(net, video_F3hw) == names.index(scenario.id.split("/")[1])

    return Exam(known.judge, known.reader, {"place": place})


@torch.no_grad()
def shown_region(net: PlaceNetwork, video_F3hw: Tensor) -> np.ndarray:
    """The most probable region of each frame, int (F,)."""
    patches = torch.cat([net(part).mean((-2, -1)) for part in video_F3hw.split(READ_BLOCK)])
    return patches.argmax(1).numpy()
