"""Walking live equals imagining the same path at once, and an older walk is a place to go back to."""

from dataclasses import replace

import pytest
import torch
from camera_paths import commanded, parse_path
from toy_worlds import FewSteps, LongStart, NoisyPast, Recorded

from worldcompass.env import WorldEnv
from worldcompass.player.panes import WorldPane
from worldcompass.player.starts import Start
from worldcompass.rollout import imagine_video
from worldcompass.seeding import generator_for
from worldcompass.toy import ToyWorld
from worldcompass.types import Scenario
from worldcompass.walk import start_walk
from worldcompass.ways import Walking
from worldcompass.worlds.doom.world import SPEC, intrinsics, load_doom_world

PATH = "w-2, left-1, w+right-2"


def along(world, path, count=2):
    """Scenarios from random images along a pose string."""
    actions = commanded(parse_path(path), world.spec.actions.motion, torch.tensor([1.0, 1, 0.5, 0.5]))
    images = torch.randint(0, 255, (count, 3, 4, 4), generator=generator_for("images")).byte()
    return [Scenario(f"{i}", actions, image) for i, image in enumerate(images)]


@pytest.mark.parametrize("make", [ToyWorld, FewSteps, NoisyPast, LongStart])
def test_a_walk_is_the_video_of_its_actions(make):
    world = make()
    scenarios = along(world, PATH)
    walk = start_walk(world, scenarios, seed=3)
    frames = [walk.frames_PF3hw]
    for label in parse_path(PATH)[1:]:
        walk = walk.step(walk.of([int(label)] * 2))
        frames.append(walk.frames_PF3hw)
    expected = imagine_video(world, scenarios, (3,), chunk_length=1)
    assert torch.cat(frames, 1).equal(expected)
    assert walk.actions.labels_K.equal(parse_path(PATH).expand(2, -1))
    torch.testing.assert_close(
        walk.actions.world_from_camera_K44[0], scenarios[0].actions.world_from_camera_K44
    )


def played(chunk_length=1, num_steps=2):
    """A toy that says how people walk."""
    world = ToyWorld()
    world.spec = replace(world.spec, play=Walking(chunk_length, num_steps))
    return world


@pytest.mark.parametrize(("chunk_length", "path"), [(1, "w-1"), (4, "w-3")])
def test_players_and_agents_walk_as_the_world_declares(chunk_length, path):
    world = played(chunk_length)
    (start,) = along(world, path, 1)
    expected = imagine_video(world, [start], (3,), chunk_length, 2)[0]
    assert not expected.equal(imagine_video(world, [start], (3,), chunk_length, 6)[0])
    walk = start_walk(world, [start], 3)
    frames = torch.cat([walk.frames_PF3hw, walk.press("w").frames_PF3hw], 1)[0]
    place = WorldPane("World", world).begin(Start(start.id, "", "", start.image_3hw), 3)
    shown = torch.cat([place.frames_F3hw, place.step(9).frames_F3hw])
    env = WorldEnv(world, [start])
    env.reset(seed=0)
    assert env.simulator.frames == 2 * chunk_length and env._episode.walk.sigmas.equal(walk.sigmas)
    assert frames[-len(expected) + 1 :].equal(expected[1:]) and shown[-len(expected) + 1 :].equal(
        expected[1:]
    )


def test_every_frame_has_the_keys_that_command_it():
    world = LongStart()
    (scenario,) = along(world, "w-1, w+left-1, none-1", 1)
    expected = ["start"] * 3 + ["w"] * 2 + ["w + left"] * 2 + ["no key"] * 2
    assert world.spec.keys_of_frames(scenario.actions) == expected
    assert len(expected) == world.spec.num_frames(0, 4)


def test_a_world_that_declares_nothing_is_played_in_its_shortest_chunks_with_all_steps():
    assert ToyWorld().spec.ways == {"rollout": Walking(4, 6), "play": Walking(1, 6)}


def test_a_walk_begins_after_what_is_given_whole():
    world = Recorded(given=3)
    scenarios = along(world, PATH)
    walk = start_walk(world, scenarios, seed=3)
    assert walk.actions.labels_K.equal(parse_path(PATH)[:3].expand(2, -1)) and walk.context.num_latents == 3
    frames = [walk.frames_PF3hw]
    for label in parse_path(PATH)[3:]:
        walk = walk.step(walk.of([int(label)] * 2))
        frames.append(walk.frames_PF3hw)
    expected = imagine_video(world, scenarios, (3,), chunk_length=1)
    assert torch.cat(frames, 1).equal(expected[:, world.spec.num_frames(0, 2) :])


def test_a_world_of_long_chunks_holds_the_action():
    class Slow(ToyWorld):
        def __init__(self):
            super().__init__()
            self.spec = replace(self.spec, chunk_lengths=(4,))

    world = Slow()
    walk = start_walk(world, along(world, PATH, 1))
    assert walk.frames_PF3hw.shape[1] == 1
    first = walk.step(walk.of([9]))
    second = first.step(first.of([1]))
    assert first.actions.labels_K.tolist() == [[0, 9, 9, 9]] and first.frames_PF3hw.shape[1] == 7
    assert (
        second.actions.labels_K.tolist() == [[0, 9, 9, 9, 1, 1, 1, 1]] and second.frames_PF3hw.shape[1] == 8
    )
    expected = imagine_video(world, along(world, "w-3, right-4", 1))
    assert torch.cat([first.frames_PF3hw, second.frames_PF3hw], 1).equal(expected)


def test_another_way_from_an_older_place_does_not_disturb_the_first():
    world = ToyWorld()
    start = start_walk(world, along(world, PATH))
    here = start.step(start.of([9, 9]))
    left = here.step(here.of([2, 2])).frames_PF3hw
    here.step(here.of([1, 1])).step(here.of([1, 1]))
    assert here.step(here.of([2, 2])).frames_PF3hw.equal(left)
    assert not here.step(here.of([1, 2])).frames_PF3hw[0].equal(left[0])


def test_looking_up_stops_where_the_world_knows_no_more():
    world = load_doom_world()
    image = torch.zeros(3, *SPEC.frame_size, dtype=torch.uint8)
    start = Scenario("a", commanded(torch.tensor([0]), SPEC.actions.motion, intrinsics()), image)
    walk = start_walk(world, [start], num_steps=1)
    up, forward_up, forward = parse_path("up-1, w+up-1, w-1")[1:].tolist()
    for _ in range(4):
        walk = walk.step(walk.of([up]))
    assert walk.actions.labels_K[0, -1] == up  # 4 times 4.8 degrees are within 20
    walk = walk.step(walk.of([forward_up])).step(walk.of([up]))
    assert walk.actions.labels_K[0, -2:].tolist() == [forward, 0]


@pytest.mark.parametrize("composites", [[81], [-1], [1, 2]])
def test_what_is_no_action_is_refused(composites):
    walk = start_walk(ToyWorld(), along(ToyWorld(), PATH, 1))
    with pytest.raises(ValueError, match="expected 1 composite actions from 0 to 80"):
        walk.of(composites)


def test_a_world_of_one_past_refuses_several_walks():
    world = ToyWorld(batches_pasts=False)
    with pytest.raises(ValueError, match="one past at a time"):
        start_walk(world, along(world, PATH))
