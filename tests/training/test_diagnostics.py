"""What a step tells about itself, by hand on tiny pictures, groups and weights."""

import math

import pytest
import torch
from camera_paths import commanded
from torch import nn

from worldcompass.geometry import Motion
from worldcompass.rollout import RolloutRequest, imagine_groups
from worldcompass.runs.metrics import RewardMetrics, Unreached
from worldcompass.toy import ToyCleanliness, ToyObedience, ToyWorld, toy_scenarios
from worldcompass.training.advantages import group_advantages
from worldcompass.training.diagnostics import (
    behaviour_lag,
    picture_vitals,
    reward_vitals,
    step_vitals,
    without_gradient,
)
from worldcompass.training.policy import Decay, Policy
from worldcompass.training.scores import Verdicts
from worldcompass.types import Group


def group(frames_GF, labels=(9, 9), first=100, past=1):
    """Plain grey frames of the given levels, two per latent, after ``past`` frames of level ``first``."""
    frames = torch.tensor(frames_GF, dtype=torch.uint8)[..., None, None, None].expand(-1, -1, 3, 4, 4)
    before = torch.full((past, 3, 4, 4), first, dtype=torch.uint8)
    motion = Motion(move=1.0, yaw_deg=5.0, pitch_deg=5.0, level=True)
    actions = commanded(torch.tensor(labels), motion, torch.tensor([1.0, 1.0, 0.5, 0.5]))
    return Group(frames, before, torch.full((3, 4, 4), first, dtype=torch.uint8), actions, 2)


def test_brightness_motion_and_diversity_by_hand():
    vitals = picture_vitals([group([[0, 110, 0, 140], [0, 130, 0, 160]])])
    assert vitals.brightness == pytest.approx((135 - 100) / 255)
    assert vitals.motion == pytest.approx((10 + 30 + 30 + 30) / 4 / 255)
    assert vitals.diversity == pytest.approx(math.sqrt(200) / 255)
    assert vitals.saturation == 0 and vitals.detail == 0


def test_motion_counts_where_it_is_commanded_only():
    still = picture_vitals([group([[0, 110, 0, 140]], labels=(9, 0))])
    assert still.motion == pytest.approx(10 / 255) and still.diversity is None
    assert picture_vitals([group([[0, 110, 0, 140]], labels=(0, 0))]).motion is None


def test_colour_and_detail_are_measured_against_the_first_frame():
    plain = group([[0, 100, 0, 100]])
    frames = plain.frames_GF3hw.clone()
    frames[:, :, 0] = 151
    red = picture_vitals([Group(frames, plain.past_frames_F3hw, plain.first_frame_3hw, plain.actions, 2)])
    assert red.saturation == pytest.approx(51 / 255)
    frames = plain.frames_GF3hw.clone()
    frames[..., ::2] = 110
    striped = picture_vitals([Group(frames, plain.past_frames_F3hw, plain.first_frame_3hw, plain.actions, 2)])
    assert striped.detail == pytest.approx(math.log(11))  # a gradient of ten levels beside the floor of one


def test_clipping_and_agreement_of_rewards():
    class Named:
        def __init__(self, name):
            self.name = name

    a = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    scores, valid = torch.stack([a, -a, torch.zeros_like(a)], -1), torch.ones(1, 4, 3, dtype=torch.bool)
    critics = [Named("up"), Named("down"), Named("flat")]
    advantages = group_advantages(scores, valid, torch.tensor([1.0, 0.0, 0.0]), clip=1e-3)
    vitals = reward_vitals(critics, scores, valid, torch.tensor([1.0, 0.0, 0.0]), advantages)
    assert vitals.clipped == 1
    assert vitals.agreement == {"up and down": pytest.approx(-1), "up and flat": 0, "down and flat": 0}
    assert vitals.rewards["flat"].flat == 1 and vitals.flat_groups == 0


def test_abstentions_are_counted_and_never_scored_as_zero():
    """Critics that score all, half, one candidate or none; zeros are what they abstained with."""

    class Named:
        def __init__(self, name):
            self.name = name

    critics = [Named(name) for name in ("whole", "half", "once", "never")]
    scores = torch.tensor([[5.0, 5.0, 5.0, 0.0], [7.0, 0.0, 0.0, 0.0], [9.0, 9.0, 0.0, 0.0]]).repeat(2, 1, 1)
    valid = scores != 0
    valid[1, :, 1] = False  # half says nothing of the second group
    scores[1, :, 1] = 0
    advantages = group_advantages(scores, valid, torch.ones(4))
    rewards = reward_vitals(critics, scores, valid, torch.ones(4), advantages).rewards
    assert (rewards["whole"].mean, rewards["whole"].std, rewards["whole"].valid) == (7, 2, 1)
    assert rewards["half"].mean == 7 and rewards["half"].std == pytest.approx(math.sqrt(8))
    assert rewards["half"].valid == pytest.approx(1 / 3)
    assert (rewards["once"].mean, rewards["once"].std, rewards["once"].spread) == (5, None, 0)
    assert rewards["never"] == RewardMetrics(weight=0.25, valid=0, flat=1)


def test_parameters_without_gradient_are_named():
    net = nn.ModuleDict({"used": nn.Linear(2, 1), "idle": nn.Linear(2, 1, bias=False)})
    policy = Policy(net)
    assert without_gradient(policy) == ["used.weight", "used.bias", "idle.weight"]
    (net["used"](torch.ones(1, 2)) + 0 * net["idle"](torch.ones(1, 2))).sum().backward()
    assert without_gradient(policy) == ["idle.weight"]


@pytest.mark.parametrize(("decay", "lag"), [(0.0, 0.0), (0.25, 0.25), (1.0, 1.0)])
def test_behaviour_lag_is_the_share_of_the_remaining_distance(decay, lag):
    net = nn.Linear(3, 2)
    policy = Policy(net, Decay(decay, decay, 0.0))
    assert behaviour_lag(policy) == 0
    with torch.no_grad():
        net.weight.add_(0.5)
    policy.follow(1)
    assert behaviour_lag(policy) == pytest.approx(lag, abs=1e-6)


def test_looking_at_a_step_leaves_groups_and_weights_as_they_were():
    world = ToyWorld()
    policy, critics = Policy(world.net), [ToyObedience(), ToyCleanliness()]
    futures = imagine_groups(world, RolloutRequest(toy_scenarios(2), 1, 4, 4, (0,), world.spec.sigmas()))
    before = futures[0].groups[0].frames_GF3hw.clone(), policy.state()
    verdicts = Verdicts(critics)
    verdicts.ask(futures[0].groups)
    scores, valid, _ = verdicts.collect()
    reward_vitals(critics, scores, valid, torch.ones(2), group_advantages(scores, valid, torch.ones(2)))
    assert step_vitals(futures, ["inner.weight"], policy).no_gradient == Unreached(0.25, ("inner.weight",))
    assert torch.equal(before[0], futures[0].groups[0].frames_GF3hw)
    assert all(torch.equal(value, policy.state()[name]) for name, value in before[1].items())
