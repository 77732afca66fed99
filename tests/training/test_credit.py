"""Credit for single latents: advantages and losses against loops, which latents are meant, what it is worth."""

import dataclasses

import pytest
import torch
from diseases import HEALTHY
from toy_runs import TINY, critics, make_run

from worldcompass.critic import FailedCritic, ask
from worldcompass.rollout import imagine_whole_videos
from worldcompass.testing import ContractError, check_critic, noise_group
from worldcompass.toy import ToyCleanliness, ToyObedience, ToyWorld, toy_scenarios
from worldcompass.training.advantages import damped, group_advantages, latent_advantages
from worldcompass.training.loop import train
from worldcompass.training.objective import (
    advantage_weighted_loss,
    nft_loss,
    positive_only_loss,
    reward_weighted_loss,
)
from worldcompass.training.rivals import dpo_loss
from worldcompass.training.run import Parts
from worldcompass.training.selection import in_pairs
from worldcompass.training.signal import measure_signal
from worldcompass.training.step import compare, imagine_and_score, select
from worldcompass.types import Scores

OBJECTIVES = pytest.mark.parametrize(
    "objective", [nft_loss, positive_only_loss, advantage_weighted_loss, reward_weighted_loss]
)
SHAPE = (3, 2, 4, 2, 3)
GIVEN = torch.tensor([True, False, False, False])


def numbers():
    generator = torch.Generator().manual_seed(0)
    pred, behaviour, target = (torch.randn(SHAPE, generator=generator).double() for _ in range(3))
    return pred.requires_grad_(), behaviour, target


@OBJECTIVES
@pytest.mark.parametrize("given", [None, GIVEN])
def test_one_advantage_for_all_latents_is_that_of_the_clip(objective, given):
    pred, behaviour, target = numbers()
    advantage = torch.tensor([1.0, -0.3, -1.0]).double()
    losses = [
        objective(pred, behaviour, target, part, 0.7, given)[0]
        for part in (advantage, advantage[:, None].expand(-1, 4))
    ]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(loss.sum(), pred)[0] for loss in losses))


@OBJECTIVES
def test_a_latents_gradient_depends_on_its_own_advantage_alone(objective):
    pred, behaviour, target = numbers()
    one = torch.tensor([[0.5, -0.5, 0.2, 0.9]] * 3).double()
    other = one.clone()
    other[:, 2] = -0.7
    first, second = (
        torch.autograd.grad(objective(pred, behaviour, target, part, 1.0)[0].sum(), pred)[0]
        for part in (one, other)
    )
    same = (first == second).all(1).all(-1).all(-1)  # (B, K)
    assert same[:, [0, 1, 3]].all() and not same[:, 2].any()


def test_the_advantages_of_a_latent_are_those_of_a_group_with_its_scores():
    generator = torch.Generator().manual_seed(0)
    each = torch.rand(5, 4, 3, 2, generator=generator)
    valid = torch.rand(5, 4, 2, generator=generator) < 0.8
    weights = torch.tensor([2.0, 1.0])
    found = latent_advantages(each, valid, weights, damped)
    # the scale of ``damped`` looks at all groups: here at those of all latents
    alone = group_advantages(torch.cat([*each.unbind(2)]), valid.repeat(3, 1, 1), weights, damped)
    torch.testing.assert_close(found, alone.advantage_NG.unflatten(0, (3, 5)).movedim(0, -1))
    assert found.shape == (5, 4, 3)


class Places(ToyCleanliness):
    """Scores a latent by its place in the clip, and candidates apart by their number."""

    name = "places"

    def __call__(self, group):
        count = len(group.transitions()[1])
        each = torch.arange(1.0, count + 1) + torch.arange(len(group.frames_GF3hw))[:, None] / 10
        return Scores(each.mean(1), torch.ones(len(each), dtype=torch.bool), each)


@pytest.mark.parametrize(
    ("changes", "places"),
    [
        ({"first_chunk": 0, "last_chunk": 0}, [0, 1, 2, 3]),  # the start image is given, and scored by nobody
        ({"first_chunk": 1}, [1, 2, 3, 4]),
        ({"first_chunk": 0, "clip_chunks": 2, "last_chunk": 0}, [0, 1, 2, 3]),
        ({"first_chunk": 1, "rollout": imagine_whole_videos}, [4, 5, 6, 7]),
    ],
)
def test_scores_belong_to_the_latents_that_are_trained(changes, places):
    config = TINY.changed(credit="latents", **changes)
    run = dataclasses.replace(make_run(config), critics=[Places(), ToyCleanliness()])
    scored = imagine_and_score(run, 1)
    assert scored.each_NGKR.shape == (2, 4, 4, 2)
    assert scored.each_NGKR[0, 0, :, 0].tolist() == places
    assert torch.equal(scored.each_NGKR[..., 1], scored.scores_NGR[:, :, None, 1].expand(-1, -1, 4))
    chosen = select(run, scored, compare(run, scored, torch.tensor([1.0, 0.0])))
    advantage_BK = torch.cat([part.samples.advantage_B for part in chosen])
    assert advantage_BK.shape == (2 * 2, 4)
    assert (advantage_BK[:, 0] == 0).all() == (places[0] == 0) and (advantage_BK[:, 1:] != 0).all()


def test_credit_for_latents_sees_more_of_what_they_share():
    """Each latent's reward depends on its own noise, so that of the others only hides it."""
    found = {
        credit: measure_signal(
            Parts(ToyWorld(), [ToyObedience()], toy_scenarios(16), HEALTHY.changed(credit=credit)), steps=6
        )
        .agreements[0]
        .cosine.mean
        for credit in ("clip", "latents")
    }
    assert found["latents"] > found["clip"] + 0.05, found


def test_a_run_with_credit_for_latents_resumes_as_if_nothing_had_stopped_it(tmp_path):
    config = TINY.changed(credit="latents")
    whole = train(ToyWorld(), critics(), toy_scenarios(4), config, tmp_path / "whole").state()
    train(ToyWorld(), critics(), toy_scenarios(4), dataclasses.replace(config, steps=2), tmp_path / "two")
    rest = train(ToyWorld(), critics(), toy_scenarios(4), config, tmp_path / "two", resume=True).state()
    clip = train(ToyWorld(), critics(), toy_scenarios(4), TINY, tmp_path / "clip").state()
    assert all(torch.equal(whole[name], rest[name]) for name in whole)
    assert any(not torch.equal(whole[name], clip[name]) for name in whole)


def test_what_does_not_fit_is_refused():
    with pytest.raises(
        ValueError, match="credit=latents needs an objective that weighs errors: nft_loss, pos"
    ):
        TINY.changed(credit="latents", objective=dpo_loss, draw=in_pairs, opponent="start")

    class Wrong(ToyCleanliness):
        def __call__(self, group):
            return dataclasses.replace(super().__call__(group), each_GL=torch.zeros(4, 9))

    with pytest.raises(FailedCritic, match=r"at most 4 of 4 candidates, got \(4, 9\)"):
        ask(Wrong(), noise_group(4, 4, 4))

    class Endless(ToyCleanliness):
        def __call__(self, group):
            scores = super().__call__(group)
            return dataclasses.replace(scores, each_GL=scores.values_G[:, None] / 0)

    with pytest.raises(ContractError, match="each_GL"):
        check_critic(Endless(), noise_group(4, 4, 4))
