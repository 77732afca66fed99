"""On the toy the loop learns what it is rewarded for, and fails to where it must."""

import pytest
import torch
from toy_runs import QUICK, critics
from toy_worlds import FewSteps, LongStart, NoisyPast, Recorded

from worldcompass.rollout import imagine_video, imagine_whole_videos
from worldcompass.toy import ToyWorld, toy_scenarios
from worldcompass.training.advantages import own_group
from worldcompass.training.loop import train
from worldcompass.training.lora import Lora
from worldcompass.training.objective import advantage_weighted_loss, nft_loss, positive_only_loss
from worldcompass.training.optim import adamw
from worldcompass.training.policy import Policy
from worldcompass.training.rivals import dpo_loss, flow_grpo_loss
from worldcompass.training.selection import along_path, in_pairs
from worldcompass.types import Group

pytestmark = pytest.mark.usefixtures("one_thread")
SHORT = QUICK.changed(steps=20)
VIDEOS = {"rollout": imagine_whole_videos, "steps": 10}


def verdicts(world, policy):
    """Obedience and cleanliness of 24 unseen scenarios, by noise that training never saw."""
    scenarios = toy_scenarios(24, seed=99)
    with policy.checkpoint():
        videos = imagine_video(world, scenarios, ("evaluation",))
    groups = [Group(v[None], v[:0], v[0], s.actions, 2) for v, s in zip(videos, scenarios, strict=True)]
    return torch.stack([torch.cat([critic(g).values_G for critic in critics()]) for g in groups])


def gain(config, tmp_path, world=None):
    """Paired gain (obedience, cleanliness) and its z-value over scenarios."""
    world = world or ToyWorld()
    base = verdicts(world, Policy(world.net))
    policy = train(world, critics(), toy_scenarios(16), config, tmp_path)
    difference = verdicts(world, policy) - base
    mean = difference.mean(0)
    return mean.tolist(), (mean / (difference.std(0) / len(difference) ** 0.5)).tolist()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """What a run with the defaults gains."""
    return gain(SHORT, tmp_path_factory.mktemp("plain"))


def flipped(pred, behaviour, target, advantage_B, beta, given_K):
    return nft_loss(pred, behaviour, target, -advantage_B, beta, given_K)


def blind(pred, behaviour, target, advantage_B, beta, given_K):
    return nft_loss(pred, behaviour, target, 0 * advantage_B, beta, given_K)


@pytest.mark.parametrize(
    "change",
    [
        {"make_optimizer": adamw},
        {"scale": own_group},
        {"best": 3, "worst": 0},
        {"best": 0, "worst": 3},
        {"lora": Lora(rank=4, alpha=8)},
        {"autocast_bf16": True},
        {"objective": positive_only_loss},
        {"objective": advantage_weighted_loss},
        {"objective": flow_grpo_loss, "draw": along_path, "stochastic": 0.7, "beta": 0.05},
        {"objective": dpo_loss, "draw": in_pairs, "opponent": "start", "beta": 2.0},
        {"order": "adaptive"},
        VIDEOS,
    ],
    ids="-".join,
)
def test_obedience_rises_significantly(change, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "worldcompass.training.preflight.computes_bf16", lambda device: True
    )  # slow elsewhere, not wrong
    mean, z = gain(SHORT.changed(**change), tmp_path)
    assert mean[0] > 0.05 and z[0] > 5


@pytest.mark.parametrize(
    ("world", "change"),
    [
        (FewSteps(), {}),
        (NoisyPast(), {}),
        (NoisyPast(), VIDEOS),
        (Recorded(), {"first_chunk": 1}),
        (Recorded(2), {}),
        (LongStart(), {}),
    ],
    ids=["few-steps", "noisy-past", "noisy-past-of-videos", "given-chunk", "given-latents", "long-start"],
)
def test_worlds_with_needs_of_their_own_learn_to_obey(world, change, tmp_path):
    mean, z = gain(SHORT.changed(**change), tmp_path, world)
    assert mean[0] > 0.05 and z[0] > 5


def test_both_rewards_rise(plain):
    mean, z = plain
    assert min(mean) > 0.05 and min(z) > 5


def test_a_flipped_advantage_unlearns(tmp_path):
    mean, z = gain(SHORT.changed(objective=flipped), tmp_path)
    assert mean[0] < -0.05 and z[0] < -5


def test_without_advantages_nothing_is_learned(tmp_path):
    mean, _ = gain(SHORT.changed(objective=blind), tmp_path)
    assert abs(mean[0]) < 0.03


def test_the_weights_of_rewards_decide_what_is_learned(plain, tmp_path):
    both, one = plain[0], gain(SHORT.changed(weights={"obedience": 0.0}), tmp_path)[0]
    assert one[1] > both[1] and one[0] < both[0] - 0.1


def test_the_pull_to_the_start_holds_back(plain, tmp_path):
    held = gain(SHORT.changed(kl_weight=1.0), tmp_path)[0]
    assert held[0] < plain[0][0] / 2


def test_the_pull_of_the_means_holds_what_is_the_same_everywhere(plain, tmp_path):
    """In the toy world obedience is a shade of whole latents, which this pull holds; grain it leaves alone."""
    held = gain(SHORT.changed(mean_weight=10.0), tmp_path)[0]
    assert held[0] < plain[0][0] / 2
