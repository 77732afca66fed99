"""The task judge finds things by their colours, and sees when one is gone, doubled or carried away."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldcompass.types import Scenario
from worldcompass.worlds.hands.critic_training.faults import FAULTS, spoilt_clip
from worldcompass.worlds.hands.facts import THINGS
from worldcompass.worlds.hands.footage import scene_of, shipped
from worldcompass.worlds.hands.sight import ColourEye
from worldcompass.worlds.hands.task_judge import errands_done, find, permanence
from worldcompass.worlds.hands.view import project


def start_of(scenario: Scenario) -> torch.Tensor:
    assert scenario.image_3hw is not None
    return scenario.image_3hw[None]


def test_things_of_start_images_are_found_at_their_places_and_no_others():
    right = []
    for plan, scenario in shipped("evaluation"):
        if plan.before:  # things stand elsewhere than where the scene put them
            continue
        of = scene_of(scenario.id)
        found = find(start_of(scenario), of)
        for index, kind in enumerate(THINGS):
            placed = of.placed(kind)
            assert placed is not None or not found.seen_FT[0, index]
            if placed is not None and found.seen_FT[0, index]:
                away = found.place_FT2[0, index] - project(np.array([[placed.x, placed.y, 0.05]]))[0]
                right.append(float(np.linalg.norm(away)))
    assert np.mean(np.array(right) < 4) > 0.95 and len(right) > 60


@pytest.mark.parametrize("fault", ["erased", "recoloured", "doubled"])
def test_permanence_falls_when_a_thing_vanishes_changes_colour_or_doubles(fault):
    _, scenario = shipped("probes")[0]
    assert scenario.truth is not None
    frames, of = scenario.truth.frames_F3hw[:9], scene_of(scenario.id)
    index = int(np.flatnonzero(find(frames, of).seen_FT.all(0))[0])
    wrong = spoilt_clip(frames.movedim(1, -1).numpy(), of, index, fault, 0, begin=5)
    assert wrong is not None and set(FAULTS) > {fault}
    values = permanence(torch.from_numpy(wrong).movedim(-1, 1), scenario)
    assert (permanence(frames, scenario) == 1).all()
    assert (values[:5] == 1).all() and (values[5:] < 1).all()


def test_a_thing_that_the_start_hides_need_not_appear():
    """The engine shows the ball when the cup in the gripper has moved away."""
    (scenario,) = [s for _, s in shipped("evaluation") if s.id == "heldout/combined/0"]
    assert scenario.truth is not None
    ball, frames = THINGS.index("ball"), scenario.truth.frames_F3hw
    seen = find(frames, scene_of(scenario.id)).seen_FT[:, ball]
    assert not seen[0] and seen.any()
    assert (permanence(frames[:1].expand_as(frames), scenario) == 1).all()


def test_noise_shows_less_than_the_scene():
    _, scenario = shipped("probes")[0]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (33, 3, 64, 64), dtype=torch.uint8, generator=generator)
    assert permanence(noise, scenario).mean() < 0.8


def test_tasks_are_done_in_the_engine_and_not_in_a_still_video():
    scenarios = [scenario for _, scenario in shipped("errands")]
    videos = torch.stack([s.truth.frames_F3hw for s in scenarios if s.truth is not None])
    assert errands_done(videos, scenarios).sum() >= 12
    assert not errands_done(videos[:, :1].expand_as(videos), scenarios).any()


def test_the_judge_takes_less_of_an_erased_thing_for_the_thing_than_the_eye_does():
    """Why the judge does not look through the eye that the instructions use."""
    kept = {"judge": 0, "eye": 0}
    for plan, scenario in shipped("training"):
        if plan.before:  # things stand elsewhere than where the eye learns their colours
            continue
        of, truth = scene_of(plan.id), scenario.truth
        assert truth is not None
        start = truth.frames_F3hw[:1]
        eye = ColourEye(of, start[0])
        for index, kind in enumerate(THINGS):
            wrong = (
                spoilt_clip(start.movedim(1, -1).numpy(), of, index, "erased", 0) if of.placed(kind) else None
            )
            if wrong is not None:
                frames = torch.from_numpy(wrong).movedim(-1, 1)
                kept["judge"] += int(find(frames, of).seen_FT[0, index])
                kept["eye"] += int(not np.isnan(eye(frames)[0, index, 0]))
    assert kept["judge"] < kept["eye"] / 2
