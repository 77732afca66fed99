"""The judge's scenarios and videos in the embedded world.

The judge sees the frozen evaluation scenarios and further ones that were drawn once. Its twin, for choosing
settings, sees other starts on the training maps alone: neither ever sees an episode of the other.
"""

from __future__ import annotations

from collections.abc import Sequence

from worldcompass.errors import UserError
from worldcompass.judging.court import Court, Role, Scenes
from worldcompass.media.progress import progress
from worldcompass.types import Scenario
from worldcompass.worlds.doom.engine.maps import TRAINING, UNSEEN, DoomMap
from worldcompass.worlds.doom.engine.scenarios import KINDS, Plan, draw_all, evaluation_plans, replay_all
from worldcompass.worlds.doom.world import SPEC, WEIGHTS, load_doom_world
from worldcompass.worlds.small.post_training.judging import court_of

LATENTS = 32  # 125 frames
EPISODES_SEED: dict[Role, int] = {"judge": 9_117, "twin": 5_226}
"""Of the drawn episodes; independent of ``--seed``, which sets noise and networks."""

MOST: dict[Role, int] = {"judge": 168, "twin": 96}
"""Scenarios."""
PLACE = 128.0  # map units: starts within one square are one place


def scenes(role: Role, count: int, latents: int = LATENTS) -> Scenes:
    """Draw and replay the scenarios of the judge or its twin, spread over maps and kinds.

    Args:
        role: whose.
        count: of scenarios.
        latents: of each.

    Raises:
        UserError: when there are not as many scenarios.
    """
    if not 8 <= count <= MOST[role]:
        raise UserError(
            f"the {role} has 8 to {MOST[role]} scenarios, got {count}: choose another --scenarios"
        )
    maps: tuple[DoomMap, ...] = (*TRAINING, *UNSEEN) if role == "judge" else TRAINING
    per_map = -(-count // (len(maps) * len(KINDS)))
    seed = EPISODES_SEED[role]
    frozen = evaluation_plans() if role == "judge" else []
    if count < len(frozen):
        frozen = _spread(frozen, per_map)
    with progress("replaying the scenarios in the engine", count) as advance:
        known = list(zip(frozen, replay_all(frozen, latents, advance), strict=True))
        further = max(0, count - len(known))
        each = -(-further // (len(maps) * len(KINDS)))
        if each:
            known += draw_all(maps, KINDS, each, latents, seed, f"{role} further", advance)
    kept = _even(known, count)
    regions = [plan.map_name for plan, _ in kept]
    with progress("playing other episodes in the engine", count) as advance:
        most = max(regions.count(name) for name in set(regions))
        drawn = draw_all(maps, ("mixed",), most, latents, seed, f"{role} other", advance)
    pools = {m.name: [(plan, s) for plan, s in drawn if plan.map_name == m.name] for m in maps}
    others = [pools[name].pop(0) for name in regions]
    return Scenes(
        [s for _, s in kept],
        [place_of(plan) for plan, _ in kept],
        regions,
        [s for _, s in others],
    )


def _spread(plans: Sequence[Plan], per_map_and_kind: int) -> list[Plan]:
    """At most so many plans of every map and kind, in their order."""
    seen: dict[tuple[str, str], int] = {}
    kept = []
    for plan in plans:
        key = (plan.map_name, plan.kind)
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= per_map_and_kind:
            kept.append(plan)
    return kept


def _even(known: Sequence[tuple[Plan, Scenario]], count: int) -> list[tuple[Plan, Scenario]]:
    """``count`` scenarios, taken from the maps and kinds in turn."""
    queues: dict[tuple[str, str], list[tuple[Plan, Scenario]]] = {}
    for plan, scenario in known:
        queues.setdefault((plan.map_name, plan.kind), []).append((plan, scenario))
    kept: list[tuple[Plan, Scenario]] = []
    while len(kept) < count and any(queues.values()):
        for queue in queues.values():
            if queue and len(kept) < count:
                kept.append(queue.pop(0))
    return kept


def place_of(plan: Plan) -> str:
    """Map and start of a plan; starts within ``PLACE`` units are one place."""
    if plan.place is None:
        return f"{plan.map_name}/start"
    x, z, _ = plan.place
    return f"{plan.map_name}/{round(x / PLACE)}/{round(z / PLACE)}"


def court() -> Court:
    """What a judge needs of this world."""
    return court_of(WEIGHTS, SPEC, load_doom_world, scenes, "install the same vizdoom")
