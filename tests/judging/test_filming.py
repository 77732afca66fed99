"""Making a judge's videos: stored once, and a chunk after the truth starts where the truth ends."""

import dataclasses

import pytest
import torch

from worldcompass.errors import UserError
from worldcompass.judging.filming import AFTER, Reel, step_after_truth, through_autoencoder
from worldcompass.rollout import imagine_video
from worldcompass.toy import ToyWorld, toy_scenarios
from worldcompass.types import Truth

CHUNK = 4  # latents of the toy world


@pytest.fixture
def known():
    world, scenarios = ToyWorld(), toy_scenarios(3, 16)
    videos = imagine_video(ToyWorld(seed=1), scenarios, ("truth",))
    return world, [
        dataclasses.replace(s, image_3hw=video[0], truth=Truth(video, s.actions))
        for s, video in zip(scenarios, videos, strict=True)
    ]


def test_videos_are_made_once_and_then_read(tmp_path):
    made = []

    def make():
        made.append(1)
        return torch.ones(2, 3, dtype=torch.uint8)

    first, second = (Reel(tmp_path).take("base", make) for _ in range(2))
    assert first.equal(second) and len(made) == 1


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "base.safetensors").write_bytes(b"cut short")
    with pytest.raises(UserError, match=r"base\.safetensors is damaged"):
        Reel(tmp_path).take("base", lambda: torch.ones(1))


def test_the_chunk_after_the_truth_depends_on_its_seed_and_scenario_only(known):
    world, scenarios = known
    done = []
    whole = step_after_truth(world, scenarios, 0, done.append)
    assert whole.shape[:2] == (3, world.spec.num_frames(AFTER * CHUNK, (AFTER + 1) * CHUNK))
    assert done == [3]
    assert step_after_truth(world, scenarios[1:2], 0, done.append).equal(whole[1:2])
    assert not step_after_truth(world, scenarios, 1, done.append).equal(whole)


def test_a_lossless_world_reaches_the_truth(known):
    world, scenarios = known
    found = through_autoencoder(world, scenarios, lambda done: None)
    true = torch.stack([s.truth.frames_F3hw for s in scenarios])
    assert (found.int() - true.int()).abs().max() <= 1
