"""Audits against the engine's footage of the package: held-out scenes, and errands that lift a thing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from worldcompass.audit import ClipKind
from worldcompass.audit.clips import CHUNK, OTHER_ITEM, Clip, clips_of
from worldcompass.audit.expected import THING_LIES
from worldcompass.audit.known import Known
from worldcompass.evaluate import imagine_all
from worldcompass.types import Scenario
from worldcompass.worlds.hands.critic_training.faults import spoilt_clip
from worldcompass.worlds.hands.evaluation import fixed_scenarios
from worldcompass.worlds.hands.facts import FRAMES_PER_LATENT, THINGS
from worldcompass.worlds.hands.footage import scene_of, shipped
from worldcompass.worlds.hands.rewards.instruction import InstructionFollowing
from worldcompass.worlds.hands.rewards.interaction import GripperFollowing
from worldcompass.worlds.hands.rewards.objects import Grasp, Passivity, Permanence
from worldcompass.worlds.hands.splits import seed_of
from worldcompass.worlds.hands.tasks import PICK, Instruction, parse
from worldcompass.worlds.hands.world import load_hands_world

HOLDING = (4, 5)  # chunks of an errand that lifts a thing, in which it hangs or is being lifted
KNOWN: dict[str, Known] = {
    "interaction": Known(GripperFollowing, "motion"),
    "permanence": Known(Permanence, "pictures,erased,recoloured,doubled"),
    "passivity": Known(Passivity, "blurred,erased,moved"),
    "grasp": Known(Grasp, "blurred,erased,moved", "pickups"),
    "instruction": Known(InstructionFollowing, f"blurred,erased,{OTHER_ITEM}", "pickups"),
}


def audited_clips(kind: ClipKind, videos: int, seed: int) -> tuple[list[Clip], list[Clip]]:
    """Clips of at most so many videos, and the same clips imagined by the base; all pick-ups, and none imagined.

    Their lies are the clips with one thing wrong in the engine's frames; clips in which no thing stays in sight are
    left out. Pick-ups also have the instruction for another thing as a lie.
    """
    if kind == "pickups":
        return _pickups(seed), []
    found = fixed_scenarios(3 * CHUNK, unseen=False)
    scenarios = found[:: -(-len(found) // videos)]
    clips = clips_of(scenarios, [s.truth.frames_F3hw for s in scenarios if s.truth is not None])
    imagined = clips_of(scenarios, list(imagine_all(load_hands_world(), scenarios, seed)))
    pairs = [
        (known, other)
        for clip, other in zip(clips, imagined, strict=True)
        if (known := _with_faults(clip, None, seed)) is not None
    ]
    return [clip for clip, _ in pairs], [other for _, other in pairs]


def _pickups(seed: int) -> list[Clip]:
    clips = []
    for plan, scenario in shipped("errands"):
        wanted, of = parse(plan.instruction), scene_of(plan.id)
        if wanted.verb != PICK:
            continue
        other = next(thing for thing in of.things if thing.kind != wanted.kind)
        for chunk in HOLDING:
            plain = _with_faults(_chunk_of(scenario, chunk), THINGS.index(wanted.kind), seed)
            if plain is not None:
                wrong = replace(plain, instruction=str(Instruction(PICK, other.kind, other.colour)))
                clips.append(replace(plain, denied={**plain.denied, OTHER_ITEM: wrong}))
    return clips


def _chunk_of(scenario: Scenario, chunk: int) -> Clip:
    assert scenario.truth is not None
    video, first = scenario.truth.frames_F3hw, FRAMES_PER_LATENT * (chunk * CHUNK - 1) + 1
    actions = scenario.actions
    return Clip(
        video[first : first + FRAMES_PER_LATENT * CHUNK],
        video[:first],
        video[0],
        actions.latents(chunk * CHUNK, (chunk + 1) * CHUNK),
        actions.latents(0, chunk * CHUNK),
        scenario.id,
        chunk,
        scenario.instruction,
    )


def _with_faults(clip: Clip, index: int | None, seed: int) -> Clip | None:
    """The clip with every fault of one thing, or of any one that stays in sight; None when there is none."""
    of = scene_of(clip.video)
    here = [i for i, kind in enumerate(THINGS) if of.placed(kind) is not None]
    own_seed = seed_of("audit", clip.name, seed) % 2**32
    order = [index] if index is not None else np.random.default_rng(own_seed).permutation(here).tolist()
    frames = clip.frames_F3hw.movedim(1, -1).numpy()
    for thing in order:
        made = {lie: spoilt_clip(frames, of, thing, lie, own_seed) for lie in THING_LIES}
        wrong = {lie: _denied(clip, value) for lie, value in made.items() if value is not None}
        if len(wrong) == len(THING_LIES):
            return replace(clip, denied=wrong)
    return None


def _denied(clip: Clip, frames_Fhw3: np.ndarray) -> Clip:
    frames: Tensor = torch.from_numpy(frames_Fhw3).movedim(-1, 1).contiguous()
    return replace(clip, frames_F3hw=frames)
