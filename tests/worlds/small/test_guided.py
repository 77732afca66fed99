"""Guidance while sampling: the estimates, their cost, and what is refused."""

import pytest
import torch
from toy_worlds import Counting

from worldcompass.errors import UserError
from worldcompass.guidance import Guidance, guided
from worldcompass.rollout import chunk_actions, imagine_video
from worldcompass.toy import ToyWorld, toy_scenarios
from worldcompass.worlds.small.post_training.guided import with_guidance


def test_every_estimate_is_guided_at_twice_the_cost_and_given_latents_stay():
    world, scenarios = Counting(), toy_scenarios(2)
    own = with_guidance(world, 0.5)
    plain = imagine_video(world, scenarios)
    once, world.rows = world.rows, 0
    found = imagine_video(own, scenarios)
    assert world.rows == 2 * once
    assert not torch.equal(found, plain)
    actions = chunk_actions(world, scenarios, 0, 4)
    context = world.attend(world.begin(scenarios), actions)
    noisy, sigma = torch.randn(2, 12, 4, 2, 2), torch.full((2,), 0.7)
    clean = world.predict_clean(noisy, sigma, actions, context)
    weak = world.predict_clean(noisy, sigma, actions, world.weaken(context))
    told = own.predict_clean(noisy, sigma, actions, context)
    assert torch.equal(told[:, :, 1:], guided(clean, weak, Guidance(torch.full((2,), 0.5)))[:, :, 1:])
    assert torch.equal(told[:, :, 0], clean[:, :, 0])  # the start image is given
    assert torch.equal(imagine_video(world, scenarios), plain)  # the world itself is as it was


def test_without_guidance_the_world_is_itself_and_misuse_is_refused():
    world = ToyWorld()
    assert with_guidance(world, 0.0) is world
    with pytest.raises(UserError, match="needs a world with guidance"):
        with_guidance(world, 1.0)
    with pytest.raises(UserError, match="evaluation_guidance is -1"):
        with_guidance(Counting(), -1.0)
