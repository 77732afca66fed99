"""What the Hands world gives to a blind study: scenarios of the package on scenes that nothing trained on."""

from __future__ import annotations

from pathlib import Path

from worldcompass.judging.votes.subjects import Subjects
from worldcompass.worlds.hands.footage import SETS, Set, shipped_scenarios
from worldcompass.worlds.hands.world import SPEC, WEIGHTS, load_hands_world
from worldcompass.worlds.small.post_training.subjects import Study, subjects_of

SHOWN: dict[int, tuple[Set, ...]] = {93: ("evaluation", "errands"), 125: ("evaluation",)}
"""Frames of a video: the sets whose scenarios are as long."""


def hands_subjects(run: Path, rival: Path | None, frames: int, device: str) -> Subjects:
    """See ``worlds.small.post_training.subjects.subjects_of``; ``frames`` is a key of ``SHOWN``."""
    latents = (frames - 1) // SPEC.frames_per_latent + 1
    known = {s.id: s for name in SETS if name in SHOWN[frames] for s in shipped_scenarios(name, latents)}
    study = Study(WEIGHTS, load_hands_world, tuple(known), lambda ids: [known[i] for i in ids], frames)
    return subjects_of(study, run, rival, device)
