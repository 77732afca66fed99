"""The judge's scenarios in the Hands world: those of the package, so that judging needs no engine."""

from __future__ import annotations

from worldcompass.errors import UserError
from worldcompass.evaluate import KINDS
from worldcompass.judging.court import Court, Role, Scenes
from worldcompass.worlds.hands.footage import scene_of, shipped_scenarios
from worldcompass.worlds.hands.world import SPEC, WEIGHTS, load_hands_world
from worldcompass.worlds.small.post_training.judging import court_of

LATENTS = 24  # 93 frames: the other episodes are the training scenarios, which are as long
MOST = 24  # scenarios: the held-out ones


def scenes(role: Role, count: int) -> Scenes:
    """The judge's scenarios; the other episodes are the engine's on scenes of the training split.

    Raises:
        UserError: for a twin, which this world has no scenarios for, or when there are not as many.
    """
    if role == "twin" or not 8 <= count <= MOST:
        raise UserError(
            f"the judge of Hands has 8 to {MOST} scenarios and no twin, got {count}: change --scenarios"
        )
    every = [s for s in shipped_scenarios("evaluation", LATENTS) if s.id.startswith("heldout/")]
    half = -(-count // 2)
    kinds = [[s for s in every if s.kind == kind] for kind in KINDS]
    kept = [*kinds[0][:half], *kinds[1][: count - half]]
    others = shipped_scenarios("training", LATENTS)[:count]
    return Scenes(kept, [scene_of(s.id).name for s in kept], ["table"] * count, others)


def court() -> Court:
    """What a judge needs of this world."""
    return court_of(WEIGHTS, SPEC, load_hands_world, scenes, "install the same version of worldcompass")
